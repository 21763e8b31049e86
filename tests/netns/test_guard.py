"""Copies from other nodes are known where they pass, by their outer header alone, and nowhere else.

The cluster is made up here (two nodes' addresses, one analyzer), the hooks, programs and frames are real.
"""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.all import ARP, GRE, IP, UDP, Dot1Q, Ether, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, Raw, fragment
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem, ICMPv6TimeExceeded
from scapy.layers.vxlan import VXLAN

from sniffer.kernel import programs
from sniffer.kernel.look import look_at
from sniffer.kernel.pins import Lock, Maps, Pins
from sniffer.model.resources import ClusterTrafficMirror, MirrorTarget
from sniffer.node import Node as LoopNode
from sniffer.plan.cluster import Binding, Cluster, Pod
from sniffer.plan.compile import Sources
from sniffer.stats import rows
from tests.agent import Document, mirror, sniffer, target
from tests.topology import Node, node, run, wait_until
from tests.wire import send, socket_in

ROOT = Path("/sys/fs/bpf/sniffer")
MARK_COPY = 0x5E1F0000
NODES = frozenset({"10.9.0.1", "10.9.0.9", "fd00:9::9"})
INNER = Ether(src="02:00:00:00:01:14", dst="02:00:00:00:01:1e") / IP(dst="10.1.0.30") / UDP(dport=7) / Raw(b"x" * 200)


def outer(source: str = "10.9.0.9", destination: str = "10.8.0.7") -> Ether:
    return Ether(src="02:00:00:00:09:02", dst="02:00:00:00:09:01") / IP(src=source, dst=destination, ttl=9)


def vxlan(vni: int = 77, port: int = 4790) -> UDP:
    return UDP(sport=51000, dport=port) / VXLAN(vni=vni, flags=8) / INNER


def gre(key: int | None = 5) -> GRE:
    return GRE(proto=0x6558, key_present=int(key is not None), key=key) / INNER


def six(source: str = "fd00:9::9", destination: str = "fd00:8::7") -> Ether:
    return Ether(src="02:00:00:00:09:02", dst="02:00:00:00:09:01") / IPv6(src=source, dst=destination, hlim=9)


def geneve(vni: int = 77, port: int = 6081) -> UDP:
    head = bytes.fromhex("0a006558") + (vni << 8).to_bytes(4) + bytes.fromhex("ff53010100000000") * 5
    return UDP(sport=51000, dport=port) / Raw(head + bytes(INNER))


def erspan(kind: int = 2, session: int = 9) -> GRE:
    """With a number, a VLAN and the bit that says that it was cut, which all differ from copy to copy."""
    head = ((kind - 1) << 28 | 5 << 16 | 0x400 | session).to_bytes(4) + bytes(4 * (kind - 1))
    return GRE(proto={2: 0x88BE, 3: 0x22EB}[kind], seqnum_present=1) / Raw(head + bytes(INNER))


def later(protocol: int = 17) -> IPv6ExtHdrFragment:
    return IPv6ExtHdrFragment(nh=protocol, offset=185, id=7) / Raw(b"z" * 60)


SIX = "fd00:8::7"
COPIES = {
    "geneve": outer(destination="10.8.0.10") / geneve(),
    "erspan type II": outer(destination="10.8.0.11") / erspan(2),
    "erspan type III": outer(destination="10.8.0.12") / erspan(3, 1023),
    "gre with key and number": outer(destination="10.8.0.8")
    / GRE(proto=0x6558, key_present=1, key=5, seqnum_present=1, sequence_number=77)
    / INNER,
    "vxlan over ipv6": six() / vxlan(),
    "the first fragment over ipv6": six() / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=7) / vxlan(),
    "a later fragment over ipv6": six() / later(),
    "tagged over ipv6": Ether(dst="02:00:00:00:09:01") / Dot1Q(vlan=5) / six()[IPv6] / vxlan(),
    "erspan over ipv6": six(destination="fd00:8::8") / erspan(3, 1023),
    "vxlan": outer() / vxlan(),
    "a node is this one": outer("10.9.0.1") / vxlan(),
    "tagged": Ether(dst="02:00:00:00:09:01") / Dot1Q(vlan=5) / outer()[IP] / vxlan(),
    "gre with key": outer(destination="10.8.0.8") / gre(),
    "gre without key": outer(destination="10.8.0.9") / gre(None),
    "a fragment behind the first": Ether(dst="02:00:00:00:09:01")
    / IP(src="10.9.0.9", dst="10.8.0.7", frag=185, proto=17)
    / Raw(b"z" * 60),
}
TRAFFIC = {
    "another geneve vni": outer(destination="10.8.0.10") / geneve(78),
    "another session": outer(destination="10.8.0.11") / erspan(2, 10),
    "another type of erspan": outer(destination="10.8.0.11") / erspan(3),
    "over ipv6 from nobody's node": six("fd00:9::8") / vxlan(),
    "over ipv6 to nobody's analyzer": six(destination="fd00:8::9") / vxlan(),
    "another vni over ipv6": six() / vxlan(78),
    "a later fragment of another protocol over ipv6": six() / later(47),
    "behind another header of ipv6": six() / IPv6ExtHdrDestOpt() / vxlan(),
    "from nobody's node": outer("10.9.0.8") / vxlan(),
    "to nobody's analyzer": outer(destination="10.8.0.77") / vxlan(),
    "another vni": outer() / vxlan(78),
    "another port": outer() / vxlan(port=4789),
    "flags that no copy has": outer() / UDP(sport=51000, dport=4790) / VXLAN(vni=77, flags=0x88) / INNER,
    "geneve with something else inside": outer(destination="10.8.0.10")
    / UDP(sport=51000, dport=6081)
    / Raw(bytes.fromhex("0a000800") + (77 << 8).to_bytes(4) + bytes(40) + bytes(INNER)),
    "another key": outer(destination="10.8.0.8") / gre(6),
    "no key where there should be one": outer(destination="10.8.0.8") / gre(None),
    "a key where there should be none": outer(destination="10.8.0.9") / gre(5),
    "gre with something else inside": outer(destination="10.8.0.8")
    / GRE(proto=0x800, key_present=1, key=5)
    / INNER[IP],
    "a fragment of another protocol": Ether(dst="02:00:00:00:09:01")
    / IP(src="10.9.0.9", dst="10.8.0.7", frag=185, proto=6)
    / Raw(b"z" * 60),
    "udp that is too short for a header": outer() / UDP(sport=51000, dport=4790) / Raw(b"\x08\0\0\0\0\0"),
    "with options": outer() / Raw(b""),
    "arp": Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.9.0.9", pdst="10.8.0.7"),
    "ipv6": Ether(dst="02:00:00:00:09:01") / IPv6(src="fe80::9", dst="fe80::1") / UDP(dport=4790) / Raw(b"x" * 40),
}
TRAFFIC["with options"] = (
    Ether(dst="02:00:00:00:09:01") / IP(src="10.9.0.9", dst="10.8.0.7", options=b"\x94\x04\0\0") / vxlan()
)

INSIDE = "10.244.1.0"
"""What an overlay calls a node."""


def carrier(source: str = "10.9.0.9") -> Ether:
    return Ether(src="02:00:00:00:09:02", dst="02:00:00:00:09:01") / IP(src=source, dst="10.9.0.1", ttl=9)


def packet(frame: Ether) -> IP | IPv6:
    return frame[IP] if frame.haslayer(IP) and not isinstance(frame.payload, IPv6) else frame[IPv6]


def in_vxlan(frame: Ether, source: str = "10.9.0.9") -> Ether:
    return carrier(source) / UDP(sport=40000, dport=8472) / Raw(bytes.fromhex("0800000000000300") + bytes(frame))


OVERLAYS = {
    "vxlan": in_vxlan,
    "vxlan with a group policy": lambda frame: (
        carrier() / UDP(sport=40000, dport=4789) / Raw(bytes.fromhex("8800123400000300") + bytes(frame))
    ),
    "geneve": lambda frame: (
        carrier() / UDP(sport=40000, dport=6081) / Raw(bytes.fromhex("0000655800000300") + bytes(frame))
    ),
    "geneve with an option": lambda frame: (
        carrier()
        / UDP(sport=40000, dport=6081)
        / Raw(bytes.fromhex("03006558000003000102030200000000" + "00000000") + bytes(frame))
    ),
    "gre": lambda frame: carrier() / GRE(proto=0x6558) / Raw(bytes(frame)),
    "gre with key and number": lambda frame: (
        carrier() / GRE(proto=0x6558, key_present=1, key=3, seqnum_present=1, sequence_number=9) / Raw(bytes(frame))
    ),
    "gre without a frame": lambda frame: (
        carrier() / GRE(proto=0x800 if isinstance(packet(frame), IP) else 0x86DD) / Raw(bytes(packet(frame)))
    ),
    "ip in ip": lambda frame: (
        Ether(src="02:00:00:00:09:02", dst="02:00:00:00:09:01")
        / IP(src="10.9.0.9", dst="10.9.0.1", proto=4 if isinstance(packet(frame), IP) else 41)
        / Raw(bytes(packet(frame)))
    ),
    "vxlan over ipv6": lambda frame: (
        six(destination="fd00:9::1")
        / UDP(sport=40000, dport=8472)
        / Raw(bytes.fromhex("0800000000000300") + bytes(frame))
    ),
    "vxlan of a tagged frame": lambda frame: in_vxlan(Ether(bytes(frame)[:12] + b"\x81\0\0\5" + bytes(frame)[12:])),
}
CARRIED = {
    "vxlan": outer(INSIDE) / vxlan(),
    "gre": outer(INSIDE, "10.8.0.8") / gre(),
    "geneve": outer(INSIDE, "10.8.0.10") / geneve(),
    "erspan": outer(INSIDE, "10.8.0.12") / erspan(3, 1023),
    "a later fragment": Ether(dst="02:00:00:00:09:01")
    / IP(src=INSIDE, dst="10.8.0.7", frag=185, proto=17)
    / Raw(b"z" * 60),
    "over ipv6": six("fd00:244::1") / vxlan(),
}

ABOUT = bytes(IP(src="10.9.0.9", dst="10.8.0.7") / vxlan())
ABOUT_SIX = bytes(IPv6(src="fd00:9::9", dst=SIX) / vxlan())
REFUSING = {
    "port unreachable": outer("10.8.0.7", "10.9.0.9") / ICMP(type=3, code=3) / ABOUT,
    "a router refuses": outer("10.9.0.77", "10.9.0.9") / ICMP(type=3, code=13) / ABOUT,
    "protocol unreachable": outer("10.8.0.8", "10.9.0.9")
    / ICMP(type=3, code=2)
    / bytes(IP(src="10.9.0.9", dst="10.8.0.8") / gre()),
    "port unreachable over ipv6": six(SIX, "fd00:9::9") / ICMPv6DestUnreach(code=4) / ABOUT_SIX,
    "unknown protocol over ipv6": six("fd00:8::8", "fd00:9::9")
    / ICMPv6ParamProblem(code=1)
    / bytes(IPv6(src="fd00:9::9", dst="fd00:8::8") / erspan(3, 1023)),
}
ERRORS = {
    "too long": outer("10.9.0.77", "10.9.0.9") / ICMP(type=3, code=4, nexthopmtu=1400) / ABOUT,
    "too far": outer("10.9.0.77", "10.9.0.9") / ICMP(type=11) / ABOUT,
    "too long over ipv6": six(SIX, "fd00:9::9") / ICMPv6PacketTooBig() / ABOUT_SIX,
    "too far over ipv6": six(SIX, "fd00:9::9") / ICMPv6TimeExceeded() / ABOUT_SIX,
    "a header of ours that nobody knows": six(SIX, "fd00:9::9") / ICMPv6ParamProblem(code=0) / ABOUT_SIX,
}
"""About copies, too; but nobody refuses them."""


def refused() -> int:
    """By all analyzers, so far."""
    with Maps(Pins(ROOT), writable=False) as maps:
        return sum(struct.unpack("=I", value)[0] for _, value in maps.outers.items())


def targets() -> list[Document]:
    return [
        target("ana"),
        target("v", "10.8.0.7", encapsulation={"vxlan": {"vni": 77, "port": 4790}}),
        target("k", "10.8.0.8", encapsulation={"gre": {"key": 5}}),
        target("n", "10.8.0.9", encapsulation={"gre": {}}),
        target("g", "10.8.0.10", encapsulation={"geneve": {"vni": 77}}),
        target("e2", "10.8.0.11", encapsulation={"erspan": {"version": 2, "sessionId": 9}}),
        target("e3", "10.8.0.12", encapsulation={"erspan": {"version": 3, "sessionId": 1023}}),
        target("v6", SIX, encapsulation={"vxlan": {"vni": 77, "port": 4790}}),
        target("e6", "fd00:8::8", encapsulation={"erspan": {"version": 3, "sessionId": 1023}}),
    ]


@pytest.fixture(scope="module")
def bed() -> Iterator[Node]:
    with node() as made:
        for netns, device, address, mac in (
            (None, "up0", made.analyzer_address, made.analyzer_mac),
            (made.analyzer, "eth0", made.uplink_address, made.uplink_mac),
        ):
            run("ip", "neighbour", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent", netns=netns)
        with socket_in(made.analyzer, socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("0.0.0.0", 4789))  # else the analyzer would answer each copy
            yield made


class Loop:
    """The loop's node, in this process."""

    def __init__(self) -> None:
        pins = Pins(ROOT)
        pins.create()
        self._lock = Lock(pins)
        self.node = LoopNode(pins, None, 600, programs.load(pins))

    def settle(self, mirrors: list[Document], pods: tuple[Pod, ...] = (), nodes: frozenset[str] = NODES) -> None:
        sources = Sources(
            tuple(MirrorTarget.model_validate(one) for one in targets()),
            tuple(ClusterTrafficMirror.model_validate(one) for one in mirrors),
            cluster=Cluster("n1", {}, {"shop": {}}, pods, nodes),
        )
        for _ in range(8):
            plan = self.node.plan(sources, "{}")
            if not plan:
                return
            assert not self.node.apply(plan)
        raise AssertionError(f"still something to do: {plan}")

    def close(self) -> None:
        self.node.close()
        self._lock.release()


@pytest.fixture
def loop(bed: Node) -> Iterator[Loop]:
    one = Loop()
    yield one
    one.close()
    assert sniffer("cleanup").returncode == 0


def counts() -> tuple[int, int]:
    """Matched, skipped."""
    status = rows.status(look_at(ROOT))
    return status["mirrors"][0]["matched"]["packets"], status["skipped"]["packets"]


def told_apart(bed: Node, frames: dict[str, Ether], direction: str) -> dict[str, str]:
    """What became of each frame that arrives at the uplink."""
    found = {}
    for name, frame in frames.items():
        before = counts()
        send([bytes(frame)], "eth0", bed.analyzer)
        after = wait_until(lambda before=before: now if (now := counts()) != before else None, what=name)  # type: ignore[misc]
        found[name] = {(1, 0): "matched", (0, 1): "skipped"}.get(
            (after[0] - before[0], after[1] - before[1]), str(after)
        )
    return found


def test_a_guarded_hook_tells_copies_from_traffic(bed: Node, loop: Loop) -> None:
    """B3, B9, B10: node, analyzer, tunnel and key must all be right."""
    loop.settle([mirror("nics", ["up0"], direction="Ingress")])
    assert told_apart(bed, COPIES, "Ingress") == dict.fromkeys(COPIES, "skipped")
    assert told_apart(bed, TRAFFIC, "Ingress") == dict.fromkeys(TRAFFIC, "matched")


def test_copies_of_other_nodes_are_known_inside_of_an_overlay(bed: Node, loop: Loop) -> None:
    """B6, B3: one layer, from a node; what refuses them, too."""
    loop.settle([mirror("nics", ["up0"], direction="Ingress")])
    frames = {f"{name} in {overlay}": wrap(one) for overlay, wrap in OVERLAYS.items() for name, one in CARRIED.items()}
    assert told_apart(bed, frames, "Ingress") == dict.fromkeys(frames, "skipped")
    before = refused()
    frames = {f"{name} in {overlay}": OVERLAYS[overlay](REFUSING[name]) for overlay in OVERLAYS for name in REFUSING}
    assert told_apart(bed, frames, "Ingress") == dict.fromkeys(frames, "skipped")
    assert refused() - before == len(frames)
    traffic = {f"{name} in vxlan": in_vxlan(TRAFFIC[name]) for name in TRAFFIC if "nobody's node" not in name}
    traffic |= {
        "a copy from nobody's node": in_vxlan(CARRIED["vxlan"], "10.9.0.8"),
        "two layers": in_vxlan(in_vxlan(CARRIED["vxlan"])),
        "the end of a header": Ether(bytes(in_vxlan(CARRIED["vxlan"]))[:80]),
        "nothing inside": carrier() / UDP(sport=40000, dport=8472) / Raw(bytes.fromhex("0800000000000300")),
        "a later fragment of the overlay": carrier() / Raw(b""),
    }
    traffic["a later fragment of the overlay"] = (
        Ether(dst="02:00:00:00:09:01")
        / IP(src="10.9.0.9", dst="10.9.0.1", frag=1, proto=17)
        / Raw(bytes(in_vxlan(CARRIED["vxlan"])[UDP]))
    )
    assert told_apart(bed, traffic, "Ingress") == dict.fromkeys(traffic, "matched")


def test_who_is_no_node_any_more_is_traffic(bed: Node, loop: Loop) -> None:
    loop.settle([mirror("nics", ["up0"], direction="Ingress")])
    loop.settle([mirror("nics", ["up0"], direction="Ingress")], nodes=frozenset({"10.9.0.1"}))
    frame = {"gone": COPIES["vxlan"]}
    assert told_apart(bed, frame, "Ingress") == {"gone": "matched"}


def test_answers_of_analyzers_are_told_from_traffic(bed: Node, loop: Loop) -> None:
    """A4: none of them is copied, and those by which copies are refused are counted."""
    loop.settle([mirror("nics", ["up0"], direction="Ingress")])
    before = refused()
    assert told_apart(bed, REFUSING, "Ingress") == dict.fromkeys(REFUSING, "skipped")
    assert refused() - before == len(REFUSING)
    assert told_apart(bed, ERRORS, "Ingress") == dict.fromkeys(ERRORS, "skipped")
    assert refused() - before == len(REFUSING)
    elsewhere = outer("10.8.0.7", "10.9.0.8") / ICMP(type=3, code=3) / ABOUT
    assert told_apart(bed, {"to nobody's node": elsewhere}, "Ingress") == {"to nobody's node": "matched"}


def test_answers_of_a_pod_that_is_an_analyzer(bed: Node, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A4, B2: each copy of one of its answers would get another; a pod that is none has its errors mirrored."""
    (up0,) = (link.index for link in loop.node.netlink.links() if link.name == "up0")
    frames = REFUSING | {"to anybody": outer("10.8.0.7", "10.9.0.8") / ICMP(type=3, code=3) / ABOUT}
    for address, fate in (("10.1.0.20", "matched"), ("10.8.0.7", "skipped")):
        loop.settle([pods_mirror("Egress")], pod_on(up0, address, loop, monkeypatch))
        assert told_apart(bed, frames, "Ingress") == dict.fromkeys(frames, fate)


def pods_mirror(direction: str) -> Document:
    """Seen from the pod: its Egress arrives at the uplink."""
    document = mirror("pods", ["x"], podSelector={}, direction=direction)
    del document["spec"]["interfaces"]
    return document


def pod_on(ifindex: int, address: str, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> tuple[Pod, ...]:
    """A pod behind the uplink, as far as the loop knows."""
    pod = Pod("uid-1", "shop", "web", {}, (address,), False, True, "2026-01-01T00:00:00Z")
    monkeypatch.setattr(loop.node, "_bindings", lambda *_: {"uid-1": Binding((ifindex,))})
    return (pod,)


def test_a_pod_does_not_hide_by_forging_our_header(bed: Node, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """G18: the hooks of a pod are not guarded, but towards one that is itself an analyzer."""
    (up0,) = (link.index for link in loop.node.netlink.links() if link.name == "up0")
    loop.settle([pods_mirror("Egress")], pod_on(up0, "10.1.0.20", loop, monkeypatch))
    assert told_apart(bed, COPIES, "Ingress") == dict.fromkeys(COPIES, "matched")
    loop.settle([pods_mirror("Egress")], pod_on(up0, "10.8.0.7", loop, monkeypatch))
    assert told_apart(bed, COPIES, "Ingress") == dict.fromkeys(COPIES, "matched"), "from the pod: still not guarded"


def test_towards_a_pod_that_is_an_analyzer_copies_are_known(
    bed: Node, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2: what leaves by its veth is not copied again when it comes from another node."""
    (up0,) = (link.index for link in loop.node.netlink.links() if link.name == "up0")
    for address, fate in (("10.1.0.20", "matched"), ("10.8.0.7", "skipped")):
        loop.settle([pods_mirror("Ingress")], pod_on(up0, address, loop, monkeypatch))
        before = counts()
        send([bytes(COPIES["vxlan"])], "up0", None)
        after = wait_until(lambda before=before: now if (now := counts())[1] != before[1] else None)  # type: ignore[misc]
        # The copy of what is matched leaves by the same device, and is known by its mark.
        assert after == (before[0] + (fate == "matched"), before[1] + 1), address


def test_an_overlay_around_our_own_copy(bed: Node, loop: Loop) -> None:
    """B6: the mark outlives the overlay's header, and is enough on an interface of a node; nowhere else."""
    frame = Ether(dst="02:00:00:00:09:02") / IP(src="10.9.0.1", dst="10.9.0.2") / UDP(dport=8472) / Raw(b"o" * 99)
    for mirrors, mark, fate in (
        ([mirror("nics", ["up0"], direction="Egress")], MARK_COPY | 1, (0, 1)),
        ([mirror("nics", ["up0"], direction="Egress")], 0x1234, (1, 1)),
    ):
        loop.settle(mirrors)
        before = counts()
        with socket_in(None, socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            sender.bind(("up0", 0))
            sender.send(bytes(frame))
        wait_until(lambda before=before: counts()[1] != before[1])  # type: ignore[misc]
        after = counts()
        # The copy of what is matched is skipped in its turn.
        assert (after[0] - before[0], after[1] - before[1]) == fate


def test_fragments_as_scapy_makes_them_are_all_known(bed: Node, loop: Loop) -> None:
    """The first by its header, the others by addresses and protocol."""
    loop.settle([mirror("nics", ["up0"], direction="Ingress")])
    long = outer() / UDP(sport=51000, dport=4790) / VXLAN(vni=77, flags=8) / INNER / Raw(b"y" * 3000)
    pieces = {f"piece {n}": piece for n, piece in enumerate(fragment(long, fragsize=1400))}
    assert len(pieces) == 3
    assert told_apart(bed, pieces, "Ingress") == dict.fromkeys(pieces, "skipped")
