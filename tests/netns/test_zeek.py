"""Zeek, run as docs/receivers/zeek.md says, finds a pod's requests in what the agent sends."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent import Agent, target
from tests.mirrored import agent_at, mirror_of, programme
from tests.pages import ROOT, commands
from tests.receiving import Recv
from tests.topology import Node, command, node, run, start, wait_until
from tests.wire import socket_in

PAGE, KERNEL = commands("receivers/zeek.md"), commands("receivers/kernel.md")
GRE = {"gre": {"key": 7, "sequence": True}}
TUNNELS: dict[str, dict[str, Any]] = {
    "vxlan": {"vxlan": {"vni": 4242}},
    "geneve": {"geneve": {"vni": 99}},
    "gre": GRE,
    "erspan2": {"erspan": {"version": 2, "sessionId": 5}},
    "erspan3": {"erspan": {"version": 3, "sessionId": 6}},
}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Agent]]:
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        server = start("python3", "-m", "http.server", "8080", netns=made.peer, cwd=tmp_path_factory.mktemp("www"))
        try:
            yield made, agent
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """With `zeek` on the path."""
    done = subprocess.run([ROOT / "tests/zeek"], capture_output=True, text=True)
    if done.returncode == 4:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return os.environ | {"PATH": f"{done.stdout.strip()}:{os.environ['PATH']}"}


@contextmanager
def zeek(made: Node, text: str, directory: Path, environment: dict[str, str]) -> Iterator[None]:
    """A page's command that reads an interface of the analyzer until Ctrl-C, which comes at the end."""
    line = command(made.analyzer, "bash", "-euc", f"exec {text}")
    with (directory / "words").open("w") as words:
        process = subprocess.Popen(line, cwd=directory, env=environment, stdout=words, stderr=words)
    try:
        wait_until(lambda: "listening on" in (directory / "words").read_text() or process.poll() is not None, 20)
        assert process.poll() is None, (directory / "words").read_text()
        yield
        wait_until((directory / "http.log").exists, 10)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def ask(made: Node, url: str) -> None:
    """A request of the pod to its peer, and the answer."""
    with socket_in(made.pod, socket.AF_INET, socket.SOCK_STREAM) as client:
        wait_until(lambda: client.connect_ex((made.peer_address, 8080)) == 0)
        client.sendall(f"GET {url} HTTP/1.0\r\n\r\n".encode())
        while client.recv(4096):
            pass


def rows(name: str, directory: Path) -> list[list[Any]]:
    """What a page's command shows."""
    done = subprocess.run(["bash", "-euc", PAGE[name]], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_command_is_here() -> None:
    assert PAGE.keys() == {"live", "requests", "tunnels", "device", "file"}


def test_requests_in_gre(bed: tuple[Node, Agent], tmp_path: Path, environment: dict[str, str]) -> None:
    made, agent = bed
    programme(agent, target(encapsulation=GRE), mirror_of("ana", direction="Both"))
    with zeek(made, PAGE["live"], tmp_path, environment):
        ask(made, "/live")
    assert rows("requests", tmp_path) == [[made.pod_address, made.peer_address, "GET", "/live"]]
    [uid], tunnel = rows("tunnels", tmp_path)
    assert tunnel == [uid, "Tunnel::GRE", made.uplink_address, made.analyzer_address]


def test_requests_on_a_device(bed: tuple[Node, Agent], tmp_path: Path, environment: dict[str, str]) -> None:
    made, agent = bed
    programme(agent, target(), mirror_of("ana", direction="Both"))
    run("bash", "-euc", KERNEL["vxlan"], netns=made.analyzer)
    try:
        with zeek(made, PAGE["device"], tmp_path, environment):
            ask(made, "/device")
    finally:
        run("ip", "link", "delete", "mirror0", netns=made.analyzer)
    assert rows("requests", tmp_path) == [[made.pod_address, made.peer_address, "GET", "/device"]]


def test_requests_in_a_file(bed: tuple[Node, Agent], tmp_path: Path, environment: dict[str, str]) -> None:
    """One of each tunnel."""
    made, agent = bed
    with Recv("--vxlan", 4789, "--geneve", 6081, "--gre", "--erspan", "-w", tmp_path / "copies.pcapng") as recv:
        for name, tunnel in TUNNELS.items():
            programme(agent, target(encapsulation=tunnel), mirror_of("ana", direction="Both"))
            ask(made, f"/{name}")
        wait_until(recv.is_idle)
    subprocess.run(["bash", "-euc", PAGE["file"]], cwd=tmp_path, env=environment, check=True)
    found = [[made.pod_address, made.peer_address, "GET", f"/{name}"] for name in TUNNELS]
    assert rows("requests", tmp_path) == found
