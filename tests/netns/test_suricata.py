"""Suricata, set up as docs/receivers/suricata.md says, decodes what the agent sends and alerts on it."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent import Agent, target
from tests.mirrored import agent_at, mirror_of, programme
from tests.pages import commands
from tests.topology import Node, command, node, start, wait_until
from tests.wire import Capture, socket_in

PAGE = commands("receivers/suricata.md")


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
def eve(bed: tuple[Node, Agent], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of events of a Suricata that reads what arrives at the analyzer."""
    made, _ = bed
    assert shutil.which("suricata"), "not installed: scripts/packages packages.apt analyzers"
    directory = tmp_path_factory.mktemp("suricata")
    subprocess.run(["bash", "-euc", PAGE["rule"]], cwd=directory, check=True)
    with (directory / "words").open("w+b") as words:
        line = command(made.analyzer, "bash", "-euc", f"exec {PAGE['start']}")
        process = subprocess.Popen(line, cwd=directory, stdout=words, stderr=words)
        try:
            wait_until(lambda: b"Engine started" in Path(words.name).read_bytes() or process.poll(), 30)
            assert process.poll() is None, Path(words.name).read_text()
            yield directory / "eve.json"
        finally:
            process.kill()
            process.wait()


def alerts(eve: Path) -> list[dict[str, Any]]:
    """As the page's command shows them."""
    said = subprocess.run(["bash", "-euc", PAGE["alerts"]], cwd=eve.parent, capture_output=True, text=True)
    return [json.loads(line) for line in said.stdout.splitlines()]


def alerts_after(made: Node, eve: Path, url: str, words: str = "") -> list[dict[str, Any]]:
    """Asks the peer for a URL, in one segment with these words, and returns the alerts about it."""
    with socket_in(made.pod, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect((made.peer_address, 8080))
        client.sendall(f"GET {url} HTTP/1.0\r\nX-Words: {words}\r\n\r\n".encode())
        while client.recv(4096):
            pass
    return wait_until(lambda: [alert for alert in alerts(eve) if alert["url"] == url], 20, every=0.2)


@pytest.mark.parametrize(
    ("name", "encapsulation", "protocol"),
    [
        ("vxlan", {"vxlan": {"vni": 4242}}, "UDP"),
        ("gre", {"gre": {"key": 7, "sequence": True}}, "GRE"),
        ("geneve", {"geneve": {"vni": 99}}, "UDP"),
        ("erspan", {"erspan": {"version": 2, "sessionId": 5}}, "GRE"),
    ],
)
def test_an_alert_with_inner_addresses(
    bed: tuple[Node, Agent], eve: Path, name: str, encapsulation: dict[str, Any], protocol: str
) -> None:
    made, agent = bed
    url = f"/sniffer-test-{name}"
    programme(agent, target(encapsulation=encapsulation), mirror_of("ana", direction="Both"))
    (alert,) = alerts_after(made, eve, url)
    assert {alert["src_ip"], alert["dest_ip"]} == {made.pod_address, made.peer_address}
    outer = alert["tunnel"]
    assert (outer["src_ip"], outer["dest_ip"]) == (made.uplink_address, made.analyzer_address)
    assert outer["proto"] == protocol


def test_a_request_in_fragments(bed: tuple[Node, Agent], eve: Path) -> None:
    made, agent = bed
    url = "/sniffer-test-fragments"
    programme(agent, target(), mirror_of("ana", direction="Both"))
    with Capture("eth0", made.analyzer) as outer:
        (alert,) = alerts_after(made, eve, url, "x" * (1400 - len(url)))
        parts = [frame for frame in outer.settle() if frame[20] & 0x3F or frame[21]]
    assert parts
    assert {alert["src_ip"], alert["dest_ip"]} == {made.pod_address, made.peer_address}
