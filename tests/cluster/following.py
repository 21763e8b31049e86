"""A shell in which the commands of a page are run, as a person in front of the cluster would."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.lab import Cluster


def follow(cluster: Cluster, commands: str, directory: Path, helm: str = "helm4") -> "subprocess.CompletedProcess[str]":
    """Runs them there; AssertionError at the first that fails. `directory` is on the PATH too."""
    if not (directory / "helm").exists():
        (directory / "helm").symlink_to(cluster.binaries / helm)
    environment = {**cluster.environment(), "EDITOR": "true"}
    environment |= {
        name: str(cluster.home / "helm") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    }
    environment["PATH"] = f"{directory}:{Path(sys.executable).parent}:{environment['PATH']}"
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
    return done
