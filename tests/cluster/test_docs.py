"""Pages that a person in front of a cluster follows: each YAML is applied, each command run, in order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages
from tests.cluster.following import follow
from tests.cluster.lab import Cluster

TARGETS = "kubectl delete mirrortarget --all --ignore-not-found"
MIRRORS = "kubectl delete trafficmirror --all -n shop"


def script(cluster: Cluster, page: str, heading: str = "") -> str:
    """A page, or what stands below one of its headings; its analyzer is one that there is."""
    return pages.script(page, heading).replace("10.0.9.5", cluster.analyzer.address)


@pytest.fixture
def shop(installed: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """What the pages speak of: two namespaces, a pod, an analyzer."""
    for name in ("shop", "payments"):
        follow(installed, f"kubectl create namespace {name}; kubectl label namespace {name} team=shop", tmp_path)
    installed.pod("web", "shop", labels={"app": "web"})
    installed.running(["web"], "shop")
    yield installed
    follow(installed, f"kubectl delete namespace shop payments --wait=false; {TARGETS}", tmp_path)


def test_the_readme_and_how_tos(shop: Cluster, tmp_path: Path) -> None:
    said = follow(shop, script(shop, "README.md", "In a cluster"), tmp_path).stdout
    assert "trafficmirror.sniffer.dev/web condition met" in said
    said = follow(shop, script(shop, "docs/conditions.md"), tmp_path).stdout
    assert "condition met" in said
    assert "Normal" in said
    follow(shop, f"{MIRRORS}; {TARGETS}", tmp_path)
    told = follow(shop, script(shop, "docs/how-to/tenancy.md"), tmp_path).stdout
    assert [line for line in told.splitlines() if line in ("yes", "no")] == ["yes", "yes", "no"]
    follow(shop, script(shop, "docs/api.md", "Rights"), tmp_path)
    follow(shop, script(shop, "docs/how-to/limits.md"), tmp_path)
    follow(shop, f"kubectl wait --for=condition=Ready trafficmirror/headers -n shop; {MIRRORS}; {TARGETS}", tmp_path)
    # Its image is not here: tests/cluster/test_trace.py runs it.
    pod = script(shop, "docs/how-to/lost-copies.md").replace("kubectl apply", "kubectl apply --dry-run=server")
    assert "pod/sniffer-trace created (server dry run)" in follow(shop, pod, tmp_path).stdout
