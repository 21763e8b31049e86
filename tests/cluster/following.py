"""A shell in which the commands of a page are run, as a person in front of the cluster would."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.lab import Cluster
from tests.cluster.pod import Pod

PROGRAMS = {
    "sudo": 'exec "$@"',
    "wireshark": '[ "$*" = "-k -i -" ] && exec tshark -n -i - -c 5 -T fields -e tcp.port -e udp.port >wireshark.txt',
}
"""In place of what asks for a password, and of what has a window: captures the same way, ends after five frames."""
BIN = Path("/usr/local/bin")


def environment(cluster: Cluster, directory: Path, helm: str = "helm4") -> dict[str, str]:
    """Of a person whose home is `directory`, which is on the PATH too."""
    programs = directory / "programs"
    if not programs.exists():
        programs.mkdir()
        for name, line in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)
        (programs / "helm").symlink_to(cluster.binaries / helm)
        (directory / ".kube").mkdir()
        (directory / ".kube/config").symlink_to(cluster.kubeconfig)
    mine = {"HOME": str(directory), "EDITOR": "true"}
    mine |= {name: str(cluster.home / "helm") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    path = (programs, directory, cluster.binaries, BIN, Path(sys.executable).parent)
    theirs = cluster.environment()
    return {**theirs, **mine, "PATH": ":".join([*map(str, path), theirs["PATH"]])}


def follow(cluster: Cluster, commands: str, directory: Path, helm: str = "helm4") -> "subprocess.CompletedProcess[str]":
    """Runs them there; AssertionError at the first that fails."""
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", f"trap 'kubectl get sniffer -A -o yaml' ERR\n{commands}"],
        env=environment(cluster, directory, helm),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def asked(pod: Pod) -> Iterator[None]:
    """Meanwhile a pod is asked twice a second for a page at port 443, and told something at UDP port 53."""
    page, datagram = f"curl -s -m 1 -o /dev/null http://{pod.address}:443/", f"echo name >/dev/udp/{pod.address}/53"
    process = subprocess.Popen(["bash", "-c", f"while sleep 0.5; do {page}; {datagram}; done"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def own_programs(directory: Path) -> Iterator[None]:
    """Meanwhile what is installed into /usr/local/bin lies in `directory`, for this run alone."""
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True)
    layers = f"lowerdir={BIN},upperdir={directory / 'upper'},workdir={directory / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, BIN], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", BIN], check=True)
