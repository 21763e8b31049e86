"""What our own agent sends, as `sniffer recv` sees it: every tunnel, both families, each frame and each number."""

import zlib
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from sniffer.pcap import frames
from tests.agent import Agent, target
from tests.mirrored import agent_at, mirror_of, programme, settled
from tests.packets import CORPUS
from tests.receiving import Recv, check_identity
from tests.topology import Node, node, run, set_sysctl, wait_until
from tests.traffic import blast
from tests.wire import send

FRAMES = [case.frame for case in CORPUS]
TUNNELS: dict[str, dict[str, Any]] = {
    "vxlan": {"vxlan": {"vni": 1}},
    "geneve": {"geneve": {"vni": 2}},
    "gre": {"gre": {"key": 3, "sequence": True}},
    "erspan2": {"erspan": {"version": 2, "sessionId": 4}},
    "erspan3": {"erspan": {"version": 3, "sessionId": 5}},
}
KEYS = dict(zip(TUNNELS, range(1, 6), strict=True))


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Agent]]:
    with node() as made, agent_at(tmp_path_factory.mktemp("agent")) as agent:
        for device, netns, last in ((made.uplink, None, 1), ("eth0", made.analyzer, 2)):
            set_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 0, netns)
            for address in (
                f"fd00:9::{last}",
                f"fe80::{last}",
            ):  # nobody is asked for from an address that is not there
                run("ip", "address", "add", f"{address}/64", "dev", device, "nodad", netns=netns)
        yield made, agent


@pytest.mark.parametrize("address", ["10.9.0.2", "fd00:9::2"])
def test_every_frame_of_every_tunnel(bed: tuple[Node, Agent], tmp_path: Path, address: str) -> None:
    _, agent = bed
    targets = [target(name, address, encapsulation=tunnel) for name, tunnel in TUNNELS.items()]
    mirrors = [mirror_of(name) for name in TUNNELS]
    names = dict(zip(TUNNELS, programme(agent, *targets, *mirrors), strict=True))
    file = tmp_path / "copies.pcapng"
    with Recv("--vxlan", 4789, "--geneve", 6081, "--gre", "--erspan", "-w", file) as recv:
        send(FRAMES, pause=0.002)
        rows = settled(agent, *names.values())
        wait_until(recv.is_idle)
        row = recv.stop()
    check_identity(row)
    assert row["packets"] == sum(mirror["wire"]["packets"] for mirror in rows)
    assert sum(row["refused"].values()) == 0
    tunnels = {tunnel["key"]: tunnel for tunnel in row["tunnels"]}
    assert {key: tunnel["frames"] for key, tunnel in tunnels.items()} == dict.fromkeys(KEYS.values(), len(FRAMES))
    assert {tunnel["receiver"] for tunnel in row["tunnels"]} == {address}
    for name in ("gre", "erspan2", "erspan3"):
        counts = tunnels[KEYS[name]]["sequence"]
        assert counts["received"] == len(FRAMES)
        assert (counts["lost"], counts["duplicates"], counts["restarts"]) == (0, 0, 0)
    assert Counter(frame.octets for frame in frames(file)) == Counter(FRAMES * len(TUNNELS))
    sender = str(ip_address(address) - 1)
    said = run(
        *("tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|"),
        *("-e", "frame.interface_name", "-e", "frame.comment", "-e", "frame.packet_flags_direction"),
    )
    mirror = zlib.crc32(f"/{names['geneve']}".encode())
    comment = f"node={zlib.crc32(b'n1'):08x} mirror={mirror:08x}"
    lines = Counter(said.splitlines())
    assert lines[f"geneve 2 from {sender}|{comment}|0x00000001"] == len(FRAMES)
    assert sum(number for line, number in lines.items() if line.startswith(f"erspan 5 from {sender}|")) == len(FRAMES)


def test_what_was_cut(bed: tuple[Node, Agent], tmp_path: Path) -> None:
    _, agent = bed
    long = [frame for frame in FRAMES if len(frame) > 200]
    targets = [target(name, encapsulation=TUNNELS[name]) for name in ("geneve", "erspan2")]
    programme(agent, *targets, *(mirror_of(name, snapLength=96) for name in ("geneve", "erspan2")))
    file = tmp_path / "copies.pcapng"
    with Recv("--geneve", 6081, "--erspan", "-w", file) as recv:
        send(long, pause=0.002)
        wait_until(recv.is_idle)
        recv.stop()
    got = list(frames(file))
    assert Counter(one.octets for one in got) == Counter([frame[:96] for frame in long] * 2)
    assert Counter(one.wire_length for one in got) == Counter([96] * len(long) + [len(frame) for frame in long])
    said = run(
        "tshark", "-n", "-r", file, "-Y", "frame.comment contains truncated", "-T", "fields", "-e", "frame.number"
    )
    assert len(said.split()) == len(long)


def test_what_the_network_lost_is_counted_by_numbers(bed: tuple[Node, Agent]) -> None:
    """What came and what recv says was lost are what the node sent, to the packet."""
    here, agent = bed
    names = ["gre", "erspan2", "erspan3"]
    targets = [target(name, encapsulation=TUNNELS[name]) for name in names]
    mirrors = [mirror_of(name, filter="udp port 9") for name in names]
    programme(agent, *targets, *mirrors)
    narrow = "qdisc add dev up0 root tbf rate 20mbit burst 8000 limit 8000"
    with Recv("--gre", "--erspan") as recv:
        run("tc", *narrow.split())
        try:
            blast(dst=here.peer_address, port=9, size=200, count=20_000, rate=20_000)
            settled(agent, *(one["metadata"]["name"] for one in mirrors))
        finally:
            run("tc", "qdisc", "del", "dev", "up0", "root")
        # Losses are seen by what comes after them.
        blast(dst=here.peer_address, port=9, size=200, count=10, rate=1000)
        rows = settled(agent, *(one["metadata"]["name"] for one in mirrors))
        wait_until(recv.is_idle)
        row = recv.stop()
    tunnels = {tunnel["key"]: tunnel["sequence"] for tunnel in row["tunnels"]}
    for name, mirrored in zip(names, rows, strict=True):
        counts = tunnels[KEYS[name]]
        assert mirrored["wire"]["packets"] == 20_010
        assert counts["lost"] > 1000
        assert counts["received"] + counts["lost"] == 20_010
