"""Pages that a person in front of a cluster follows: each YAML is applied, each command run, in order."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages
from tests.cluster.lab import Cluster

TARGETS = "kubectl delete mirrortarget --all --ignore-not-found"


def script(cluster: Cluster, page: str, heading: str = "") -> str:
    """A page, or what stands below one of its headings; its analyzer is one that there is."""
    return pages.script(page, heading).replace("10.0.9.5", cluster.analyzer.address)


def follow(cluster: Cluster, commands: str, directory: Path) -> str:
    """What it prints; fails at the first command that does."""
    environment = {**cluster.environment(), "EDITOR": "true"}
    environment["PATH"] = f"{directory}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", f"trap 'kubectl get sniffer -A -o yaml' ERR\n{commands}"],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def shop(installed: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """What the pages speak of: two namespaces, a pod, an analyzer."""
    for name in ("shop", "payments"):
        follow(installed, f"kubectl create namespace {name}; kubectl label namespace {name} team=shop", tmp_path)
    installed.pod("web", "shop", labels={"app": "web"})
    installed.running(["web"], "shop")
    yield installed
    follow(installed, f"kubectl delete namespace shop payments --wait=false; {TARGETS}", tmp_path)


def test_the_readme_and_tenancy(shop: Cluster, tmp_path: Path) -> None:
    said = follow(shop, script(shop, "README.md", "In a cluster"), tmp_path)
    assert "trafficmirror.sniffer.dev/web condition met" in said
    follow(shop, "kubectl delete trafficmirror web -n shop; " + TARGETS, tmp_path)
    told = follow(shop, script(shop, "docs/how-to/tenancy.md"), tmp_path)
    assert [line for line in told.splitlines() if line in ("yes", "no")] == ["yes", "yes", "no"]
