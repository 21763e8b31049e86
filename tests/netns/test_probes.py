"""What a kubelet asks an agent: whether its loop turns, and whether it does its work."""

import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent import Agent, mirror, sniffer, target
from tests.inventory import ROOT
from tests.topology import node, run, start, wait_until

PORT = 19751
_STUCK = """
import sys, time
from pathlib import Path
from sniffer import agent, cli
from sniffer.node import Node
plan, stick = Node.plan, Path(sys.argv.pop(1))
def stuck(*arguments):
    while stick.exists():
        time.sleep(0.05)
    return plan(*arguments)
Node.plan, agent.STILL_S = stuck, 1.0
cli.main()
"""


@pytest.fixture
def bed() -> Iterator[None]:
    with node():
        yield


def ask(path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{PORT}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_running_agent(bed: None, tmp_path: Path) -> None:
    with Agent(tmp_path, ROOT, "--health", f"127.0.0.1:{PORT}") as agent:
        agent.write(target(), mirror())
        agent.programmed()
        assert ask("/healthz") == (200, "ok\n")
        assert ask("/readyz") == (200, "ok\n")
        assert ask("/")[0] == 404
        assert f"127.0.0.1:{PORT}" in run("ss", "-ltnH")
        assert run("ss", "-ltnH").count(f":{PORT}") == 1, "nothing listens to the world"
        with socket.create_connection(("127.0.0.1", PORT)):  # who says nothing is in nobody's way
            assert ask("/healthz") == (200, "ok\n")
        shutil.rmtree(ROOT)
        assert ask("/readyz") == (503, f"the pins at {ROOT} are gone\n")
        assert ask("/healthz") == (200, "ok\n")
    sniffer("cleanup")


def test_a_loop_that_stands_still(bed: None, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    words = ("agent", "--manifests", manifests, "--health", f"127.0.0.1:{PORT}", "--node", "n1")
    process = start(sys.executable, "-c", _STUCK, stick, *words)
    try:
        wait_until(_ready, 20, what="ready")
        assert ask("/healthz")[0] == 200
        stick.touch()
        wait_until(lambda: ask("/healthz")[0] == 503, 10, what="not live")
        assert "the loop has stood still for" in ask("/healthz")[1]
        stick.unlink()
        wait_until(lambda: ask("/healthz")[0] == 200, 5, what="live")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    sniffer("cleanup")


def _ready() -> bool:
    try:
        return ask("/readyz")[0] == 200
    except OSError:
        return False


def test_a_port_that_cannot_be_had(bed: None, tmp_path: Path) -> None:
    """Said before anything is made."""
    words = ("agent", "--manifests", tmp_path, "--health")
    with socket.create_server(("127.0.0.1", PORT)):
        done = sniffer(*words, f"127.0.0.1:{PORT}", check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"--health: 127.0.0.1:{PORT} cannot be served: Address already in use" in done.stderr
    done = sniffer(*words, f"0.0.0.0:{PORT}", check=False)
    allowed = "allowed an address of the loopback, as in 127.0.0.1:9751"
    assert (done.returncode, done.stderr) == (2, f"sniffer: --health: given 0.0.0.0:{PORT}, {allowed}\n")
    assert not ROOT.exists()
