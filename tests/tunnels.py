"""Every tunnel over IPv4 and over IPv6: targets for them, and what tshark must make of their headers.

VXLAN and plain GRE over IPv4 are in tests/netns/test_exact.py.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.agent import Agent, Document, target
from tests.mirrored import check_counts, check_padding, difference, mirror_of, of_key, outer_of, programme, settled
from tests.receivers import Received, decode

LONGEST = 15_936
"""Bytes of the longest frame that all of them take."""
NODE_SIX, ANALYZER_SIX = "fd00:9::1", "fd00:9::2"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One target, what tshark calls it, and bytes of its outer headers."""

    kind: str
    key: int | None
    spec: Mapping[str, Any]
    headers: int
    six: bool = False
    outer: Mapping[str, Any] = field(default_factory=dict)

    def target(self, name: str) -> Document:
        address = ANALYZER_SIX if self.six else "10.9.0.2"
        return target(name, address, encapsulation=dict(self.spec), outer=dict(self.outer))

    def outer_of(self, frames: Sequence[bytes]) -> list[bytes]:
        return outer_of(frames, self.kind, self.key, 6 if self.six else 4)


def erspan(version: int, session: int) -> dict[str, Any]:
    return {"erspan": {"version": version, "sessionId": session}}


CHECKSUM = {"udpChecksum": True}
TUNNELS = {
    "geneve": Tunnel("geneve", 501, {"geneve": {"vni": 501}}, 90),
    "geneve-sum": Tunnel("geneve", 502, {"geneve": {"vni": 502}}, 90, outer=CHECKSUM),
    "vxlan-sum": Tunnel("vxlan", 503, {"vxlan": {"vni": 503}}, 50, outer=CHECKSUM),
    "vxlan-copy": Tunnel("vxlan", 504, {"vxlan": {"vni": 504}}, 50, outer={"dscp": "Copy", "ttl": 9}),
    "sequence": Tunnel("gre", None, {"gre": {"sequence": True}}, 42),
    "key-sequence": Tunnel("gre", 505, {"gre": {"key": 505, "sequence": True}}, 46),
    "erspan2": Tunnel("erspan", 506, erspan(2, 506), 50),
    "erspan3": Tunnel("erspan", 1023, erspan(3, 1023), 54),
    "geneve6": Tunnel("geneve", 601, {"geneve": {"vni": 601}}, 110, True),
    "geneve6-sum": Tunnel("geneve", 602, {"geneve": {"vni": 602}}, 110, True, CHECKSUM),
    "vxlan6": Tunnel("vxlan", 603, {"vxlan": {"vni": 603}}, 70, True),
    "vxlan6-sum": Tunnel("vxlan", 604, {"vxlan": {"vni": 604}}, 70, True, {**CHECKSUM, "dscp": "Copy"}),
    "gre6": Tunnel("gre", 605, {"gre": {"key": 605}}, 62, True, {"dscp": 46, "ttl": 3}),
    "gre6-sequence": Tunnel("gre", 606, {"gre": {"key": 606, "sequence": True}}, 66, True),
    "erspan6-2": Tunnel("erspan", 607, erspan(2, 607), 70, True),
    "erspan6-3": Tunnel("erspan", 608, erspan(3, 608), 74, True),
}
SEQUENCED = [name for name, tunnel in TUNNELS.items() if tunnel.kind == "erspan" or "sequence" in name]


def mirrors(
    agent: Agent,
    interface: str = "pod0",
    direction: str = "Ingress",
    names: Sequence[str] = tuple(TUNNELS),
    **spec: Any,
) -> dict[str, str]:
    """One mirror for each tunnel: their names by tunnel."""
    documents = {name: mirror_of(name, interface, direction, **spec) for name in names}
    targets = [TUNNELS[name].target(name) for name in names]
    programme(agent, *targets, *documents.values())
    return {name: document["metadata"]["name"] for name, document in documents.items()}


def check(agent: Agent, names: Mapping[str, str], sent: Sequence[bytes], outer: list[bytes], direction: int) -> None:
    """Every copy is its frame, every number right, and the headers say what is so."""
    assert max(map(len, outer)) == 1514
    check_padding(outer)
    received = decode(outer)
    rows = settled(agent, *names.values())
    for (name, mirror), row in zip(names.items(), rows, strict=True):
        tunnel = TUNNELS[name]
        got = of_key(received, tunnel.kind, tunnel.key)
        assert difference(sent, (item.frame for item in got)) == ([], []), name
        check_counts(row, sent, tunnel.outer_of(outer))
        check_outer(tunnel, got)
        check_tunnel(tunnel, got, mirror, direction)
        if name in SEQUENCED:
            numbers = sorted(item.number_of("gre.sequence_number") for item in got)
            assert numbers == list(range(numbers[0], numbers[0] + len(sent))), name


def check_outer(tunnel: Tunnel, got: Sequence[Received]) -> None:
    assert {item.ttl for item in got} == {tunnel.outer.get("ttl", 64)}
    if tunnel.outer.get("dscp") != "Copy":
        assert {item.dscp for item in got} == {tunnel.outer.get("dscp", 0)}
    else:
        assert {item.frame: item.dscp for item in got} == {item.frame: dscp(item.frame) for item in got}
    if tunnel.kind in {"vxlan", "geneve"}:
        assert all(49152 <= (item.source_port or 0) <= 65535 for item in got)
        if tunnel.outer.get("udpChecksum"):
            assert {(item.udp_checksum != 0, item.words["udp.checksum.status"]) for item in got} == {(True, "1")}
        else:
            assert {item.udp_checksum for item in got} == {0}
    if tunnel.six:
        flows = len({flow_of(item.frame) for item in got})
        assert len({item.words["ipv6.flow"] for item in got}) >= flows // 2, "flows are told apart"


def flow_of(frame: bytes) -> bytes:
    """What differs between flows, roughly."""
    return frame[26:38] if frame[12:14] == b"\x08\x00" else frame[:14]


def dscp(frame: bytes) -> int:
    """Of an IP packet behind at most three tags; 0 of any other frame."""
    at = 14
    while frame[at - 2 : at] in {b"\x81\x00", b"\x88\xa8"} and at < 26:
        at += 4
    if frame[at - 2 : at] == b"\x08\x00" and len(frame) >= at + 2:
        return frame[at + 1] >> 2
    if frame[at - 2 : at] == b"\x86\xdd" and len(frame) >= at + 2:
        return (int.from_bytes(frame[at : at + 2]) >> 4 & 0xFF) >> 2
    return 0


def check_tunnel(tunnel: Tunnel, got: Sequence[Received], mirror: str, direction: int) -> None:
    """What the header says of each copy, which is whole."""
    for item in got:
        words = item.words
        if tunnel.kind == "geneve":
            assert int(words["geneve.proto_type"], 0) == 0x6558
            body = {1: zlib.crc32(b"n1"), 2: zlib.crc32(f"/{mirror}".encode()), 3: direction, 4: len(item.frame), 5: 1}
            assert options(item) == body
        elif tunnel.kind == "erspan":
            version = 1 if tunnel.spec["erspan"]["version"] == 2 else 2
            tagged = item.frame[12:14] in {b"\x81\x00", b"\x88\xa8"}
            tag = int.from_bytes(item.frame[14:16]) if tagged else 0
            assert [int(words[f"erspan.{name}"], 0) for name in ("version", "vlan", "cos")] == [
                version,
                tag & 0xFFF,
                tag >> 13,
            ]
            assert words["erspan.truncated"] == "0"
            if version == 1:
                assert int(words["erspan.encap"], 0) == 3 * tagged
                assert int(words["erspan.index"], 0) == direction
            else:
                said = {name: words[f"erspan.{name}"] for name in ("direction", "p", "gra", "bso")}
                assert said == {"direction": str(direction - 1), "p": "1", "gra": "1", "bso": "0"}


def options(item: Received) -> dict[int, int]:
    """GENEVE's options by type; all are of our class, one word each, and in their order."""
    octets = bytes.fromhex(item.words["geneve.options"].replace(":", ""))
    assert len(octets) == 40
    assert [octets[at : at + 4] for at in range(0, 40, 8)] == [b"\xff\x53" + bytes([kind, 1]) for kind in range(1, 6)]
    return {octets[at + 2]: int.from_bytes(octets[at + 4 : at + 8]) for at in range(0, 40, 8)}
