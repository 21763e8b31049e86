"""Resources and facts to hooks, mirrors, paths and verdicts."""

import struct
from dataclasses import replace
from typing import Any

import pytest

from sniffer.abi.limits import LIST_LENGTH, Direction, Encapsulation, Guard, OuterKind, Oversize, PathWord
from sniffer.abi.records import EgressRecord, Hook
from sniffer.model.identity import Identity
from sniffer.model.resources import ClusterTrafficMirror, MirrorTarget
from sniffer.plan import rules
from sniffer.plan.compile import Sources, compile_sources, endpoint_addresses, hold
from sniffer.plan.facts import Facts, Link, Mechanism, Path, PathState
from sniffer.plan.state import Mirror, Verdict, Wanted
from tests.agent import Document, mirror, target

ETHERNET, TUNNEL = 1, 768  # ARPHRD_*


def link(index: int, name: str, arphrd: int = ETHERNET) -> Link:
    return Link(index, name, None, None, 1500, True, arphrd, None, None, bytes(6))


LINKS = (
    link(1, "lo", 772),
    link(10, "pod0"),
    link(11, "pod1"),
    link(12, "eth0"),
    link(13, "tunl0", TUNNEL),
    link(2, "sniffer-tx"),
    link(3, "sniffer-rx"),
)
REACHABLE = Path("10.9.0.2", PathState.REACHABLE, "eth0", 12, "10.9.0.1", "10.9.0.254", 1450)


def paths(**states: PathState) -> dict[str, Path]:
    """10.9.0.2 to 10.9.0.9, reachable but for those named as a2, a3..."""
    found = {f"10.9.0.{n}": replace(REACHABLE, address=f"10.9.0.{n}") for n in range(2, 10)}
    for name, state in states.items():
        address = f"10.9.0.{name[1:]}"
        gone = state == PathState.NO_ROUTE
        found[address] = Path(address, state) if gone else replace(found[address], state=state)
    return found


def facts(found: dict[str, Path] | None = None, links: tuple[Link, ...] = LINKS) -> Facts:
    return Facts(10**12, 60 * 10**9, links, found or paths(), None, Mechanism.TCX, {})


def sources(*documents: Document, **fields: Any) -> Sources:
    targets = [MirrorTarget.model_validate(one) for one in documents if one["kind"] == "MirrorTarget"]
    mirrors = [ClusterTrafficMirror.model_validate(one) for one in documents if one["kind"] != "MirrorTarget"]
    return Sources(tuple(targets), tuple(mirrors), **fields)


def compiled(*documents: Document, **fields: Any) -> Wanted:
    return compile_sources(sources(*documents, **fields), facts())


def verdict(wanted: Wanted, name: str = "all") -> Verdict:
    (found,) = (one for one in wanted.verdicts if one.identity.name == name)
    return found


def the_mirror(wanted: Wanted) -> Mirror:
    (found,) = {one for row in wanted.hooks.values() for one in row}
    return found


def test_a_mirror_and_its_target() -> None:
    wanted = compiled(target(), mirror(filter="tcp port 80", snapLength=96))
    one = the_mirror(wanted)
    assert wanted.hooks == {Hook(10, Direction.INGRESS): (one,), Hook(10, Direction.EGRESS): (one,)}
    assert one.identity == Identity("ClusterTrafficMirror", None, "all")
    assert one.filter == rules.program("tcp port 80", None)
    assert one.snap_length == 96
    (tunnel,) = one.tunnels
    assert (tunnel.target, tunnel.encapsulation, tunnel.oversize) == ("ana", Encapsulation.VXLAN, Oversize.SEGMENT)
    (record,) = tunnel.endpoints
    assert wanted.paths == {record: PathWord.REACHABLE}
    assert wanted.verdicts == (Verdict(one.identity, "Programmed", None, None, ("pod0",), ("ana",)),)


def test_an_outer_header_of_vxlan() -> None:
    spec = {"encapsulation": {"vxlan": {"vni": 0x123456, "port": 8472}}, "outer": {"ttl": 3, "dscp": 46}}
    record = _record(compiled(target(**spec), mirror()))
    assert (record.ifindex, record.mtu, record.family) == (12, 1450, 2)
    assert record.nexthop == bytes([10, 9, 0, 254]) + bytes(12)
    assert record.template == bytes.fromhex(
        "000000000000" "000000000000" "0800"
        "45b80000" "00000000" "03110000" "0a090001" "0a090002"
        "00002118" "00000000" "08000000" "12345600"
    )  # fmt: skip
    # As the programs add: words of the machine's own byte order (RFC 1071 lets one).
    assert record.checksum == sum(struct.unpack("=10H", record.template[14:34]))


@pytest.mark.parametrize(
    ("gre", "expected"), [({"key": 0xA1B2C3D4}, "20006558a1b2c3d4"), ({"key": 0}, "2000655800000000"), ({}, "00006558")]
)
def test_an_outer_header_of_gre(gre: dict[str, int], expected: str) -> None:
    wanted = compiled(target(encapsulation={"gre": gre}), mirror())
    assert _record(wanted).template[34:] == bytes.fromhex(expected)
    assert _record(wanted).template[23] == 47
    assert the_mirror(wanted).tunnels[0].encapsulation == Encapsulation.GRE


def _record(wanted: Wanted) -> EgressRecord:
    (record,) = wanted.paths
    return record


def test_what_a_target_limits() -> None:
    wanted = compiled(target(oversize="Drop", limits={"maxSnapLength": 128}), mirror())
    (tunnel,) = the_mirror(wanted).tunnels
    assert (tunnel.oversize, tunnel.snap_length) == (Oversize.DROP, 128)


def test_a_filter_says_nothing_is_every_frame() -> None:
    assert the_mirror(compiled(target(), mirror())).filter == ()


@pytest.mark.parametrize(
    ("direction", "directions"),
    [("Ingress", [Direction.INGRESS]), ("Egress", [Direction.EGRESS]), ("Both", list(Direction))],
)
def test_a_direction_is_the_interface_s(direction: str, directions: list[Direction]) -> None:
    wanted = compiled(target(), mirror(direction=direction))
    assert sorted(wanted.hooks) == [Hook(10, one) for one in directions]


@pytest.mark.parametrize(
    ("interfaces", "found"),
    [
        (["pod0"], [10]),
        (["pod*"], [10, 11]),
        (["pod0", "pod*"], [10, 11]),
        (["*"], [10, 11, 12]),
        (["pod[1-9]"], [11]),
        (["gone", "eth0"], [12]),
        (["sniffer*", "eth0"], [12]),
    ],
)
def test_interfaces_by_name_and_pattern(interfaces: list[str], found: list[int]) -> None:
    """The relay is never tapped, nor what has no Ethernet header (C30), unless by name, which is refused."""
    wanted = compiled(target(), mirror(interfaces=interfaces, direction="Ingress"))
    assert sorted(hook.ifindex for hook in wanted.hooks) == found


@pytest.mark.parametrize(
    ("document", "state", "reason", "message"),
    [
        (mirror(interfaces=["gone"]), "Pending", "NoInterface", "no interface gone"),
        (mirror(interfaces=["sniffer-tx"]), "Pending", "NoInterface", "no interface sniffer-tx"),
        (mirror(interfaces=["tunl0"]), "Rejected", "UnsupportedInterface", "tunl0 has no Ethernet header"),
        (mirror(suspend=True), "Suspended", "Suspended", "spec.suspend is true"),
        (mirror(filter="tcp and"), "Rejected", "BadFilter", "spec.filter: syntax error"),
        (
            mirror(rules=[{"action": "Skip", "filter": "tcp"}, {"action": "Mirror", "filter": "host example"}]),
            "Rejected",
            "BadFilter",
            "spec.rules[1].filter: ",
        ),
        (
            mirror(targets=["ana", "nobody"]),
            "Rejected",
            "TargetNotFound",
            "spec.targetRefs[1].name: no MirrorTarget nobody",
        ),
        (mirror(targets=["resting"]), "Suspended", "TargetSuspended", "every target is suspended"),
        (mirror(targets=["home"]), "Rejected", "EndpointIsNode", "MirrorTarget home: 10.9.0.9 is an address of"),
        (mirror(targets=["ids"]), "Rejected", "NeedsCluster", "MirrorTarget ids: a Service needs a cluster"),
    ],
)  # fmt: skip
def test_a_mirror_that_cannot_be_in_force(document: Document, state: str, reason: str, message: str) -> None:
    """C30, G7: a verdict, and the other mirror works."""
    service = {"service": {"namespace": "ids", "name": "zeek"}}
    targets = [target(), target("resting", "10.9.0.3", suspend=True), target("home", "10.9.0.9")]
    targets.append(target("ids", endpoints=[service]))
    found = paths() | {"10.9.0.9": replace(REACHABLE, address="10.9.0.9", local=True)}
    wanted = compile_sources(sources(*targets, document, mirror("other", interfaces=["pod1"])), facts(found))
    refused = verdict(wanted)
    assert (refused.state, refused.reason) == (state, reason)
    assert refused.message is not None
    assert refused.message.startswith(message)
    assert refused.interfaces == ()
    assert refused.targets == tuple(ref["name"] for ref in document["spec"]["targetRefs"])
    assert verdict(wanted, "other").state == "Programmed"
    assert {hook.ifindex for hook in wanted.hooks} == {11}


def test_a_suspended_target_stops_no_other_target() -> None:
    wanted = compiled(target(), target("resting", "10.9.0.3", suspend=True), mirror(targets=["resting", "ana"]))
    assert [tunnel.target for tunnel in the_mirror(wanted).tunnels] == ["ana"]
    assert verdict(wanted).state == "Programmed"


@pytest.mark.parametrize(
    ("state", "word", "words"),
    [
        (PathState.UNREACHABLE, PathWord.UNREACHABLE, "10.9.0.2 (ana): unreachable"),
        (PathState.NO_ROUTE, PathWord.NO_ROUTE, "10.9.0.2 (ana): no route"),
    ],
)
def test_an_endpoint_that_cannot_be_reached_is_said(state: PathState, word: PathWord, words: str) -> None:
    wanted = compile_sources(sources(target(), mirror()), facts(paths(a2=state)))
    assert list(wanted.paths.values()) == [word]
    assert verdict(wanted) == Verdict(
        verdict(wanted).identity, "Programmed", "EndpointUnreachable", words, ("pod0",), ("ana",)
    )


def test_one_fault_hides_no_other() -> None:
    documents = target(), target("resting", "10.9.0.3", suspend=True), mirror(targets=["resting", "ana"])
    found = verdict(compile_sources(sources(*documents), facts(paths(a2=PathState.UNREACHABLE))))
    words = "10.9.0.2 (ana): unreachable; MirrorTarget resting: suspended"
    assert (found.reason, found.message) == ("EndpointUnreachable", words)


def test_endpoints_keep_their_order() -> None:
    spec = target(address=["10.9.0.3", "10.9.0.2", "10.9.0.4"])
    wanted = compile_sources(sources(spec, mirror()), facts(paths(a2=PathState.UNREACHABLE)))
    (tunnel,) = the_mirror(wanted).tunnels
    assert [record.template[33] for record in tunnel.endpoints] == [3, 2, 4]
    assert [wanted.paths[record] for record in tunnel.endpoints] == [1, 2, 1]
    assert endpoint_addresses(sources(spec).targets) == ("10.9.0.2", "10.9.0.3", "10.9.0.4")


def test_mirrors_share_a_hook_in_order_of_name() -> None:
    wanted = compiled(target(), *(mirror(name, direction="Ingress") for name in ("c", "a", "b")))
    (row,) = wanted.hooks.values()
    assert [one.identity.name for one in row] == ["a", "b", "c"]


def test_a_hook_that_is_full_degrades_who_does_not_fit() -> None:
    crowd = [mirror(f"m{n:02}", direction="Ingress") for n in range(LIST_LENGTH)]
    wanted = compiled(target(), *crowd, mirror("z", interfaces=["pod0", "pod1"], direction="Both"))
    late = verdict(wanted, "z")
    assert (late.state, late.reason) == ("Degraded", "HookFull")
    assert late.message == f"pod0 ingress: a hook takes {LIST_LENGTH} mirrors"
    assert late.interfaces == ("pod0", "pod1")
    assert len(wanted.hooks[Hook(10, Direction.INGRESS)]) == LIST_LENGTH
    for hook in (Hook(10, Direction.EGRESS), Hook(11, Direction.INGRESS), Hook(11, Direction.EGRESS)):
        assert [one.identity.name for one in wanted.hooks[hook]] == ["z"]
    assert all(verdict(wanted, f"m{n:02}").state == "Programmed" for n in range(LIST_LENGTH))


@pytest.mark.parametrize("who", [("ClusterTrafficMirror", "all"), ("MirrorTarget", "ana")])
def test_a_stale_source_degrades_what_it_concerns(who: tuple[str, str]) -> None:
    stale = {Identity(who[0], None, who[1]): "a.yaml:3: document: given..."}
    wanted = compiled(target(), target("other", "10.9.0.3"), mirror(), mirror("free", targets=["other"]), stale=stale)
    assert (verdict(wanted).state, verdict(wanted).reason) == ("Degraded", "SourceUnreadable")
    assert verdict(wanted).message == "a.yaml:3: document: given..."
    assert verdict(wanted, "free").state == "Programmed"
    assert [one.identity.name for one in wanted.hooks[Hook(10, Direction.INGRESS)]] == ["all", "free"]


def test_named_interfaces_are_guarded_against_refusals_of_copies() -> None:
    """A4: where they come in. Only in a cluster anything more is known of what passes there."""
    wanted = compiled(target(), mirror())
    assert wanted.guards == {Hook(10, Direction.INGRESS): Guard.REFUSALS}
    assert {key.kind for key in wanted.outers} == set(OuterKind)


def test_an_invalid_mirror_is_rejected_in_words() -> None:
    refused = {
        Identity("ClusterTrafficMirror", None, "bad"): "a.yaml:3: spec: ...",
        Identity("MirrorTarget", None, "t"): "",
    }
    wanted = compiled(target(), refused=refused)
    assert wanted.verdicts == (
        Verdict(Identity("ClusterTrafficMirror", None, "bad"), "Rejected", "Invalid", "a.yaml:3: spec: ..."),
    )


# ---- a source that is not known whole ----


def test_what_the_source_does_not_speak_of_is_held() -> None:
    former = compiled(target(), mirror("gone"), mirror("here", filter="tcp"))
    now = compiled(target(), mirror("here", filter="udp"))
    held = hold(now, former.hooks, dict.fromkeys(former.paths, PathWord.UNREACHABLE))
    row = held.hooks[Hook(10, Direction.INGRESS)]
    assert [one.identity.name for one in row] == ["here", "gone"]
    assert row[0].filter == rules.program("udp", None), "what it does speak of is as it says now"
    assert (verdict(held, "gone").state, verdict(held, "gone").reason) == ("Degraded", "SourceUnreadable")
    assert verdict(held, "gone").targets == ("ana",)
    assert verdict(held, "here").state == "Programmed"
    assert list(held.paths.values()) == [PathWord.REACHABLE], "a path that is looked at now is as it is now"


def test_what_was_removed_knowingly_is_not_held() -> None:
    former = compiled(target(), mirror("gone"))
    known = frozenset({Identity("ClusterTrafficMirror", None, "gone")})
    assert hold(compiled(target()), former.hooks, former.paths, known).hooks == {}


def test_a_mirror_whose_target_is_not_known_is_held() -> None:
    former = compiled(target(), mirror())
    now = compiled(mirror())
    held = hold(now, former.hooks, former.paths, frozenset({Identity("ClusterTrafficMirror", None, "all")}))
    assert held.hooks == former.hooks
    assert verdict(held).message == "spec.targetRefs[0].name: no MirrorTarget ana"
    assert verdict(held).state == "Degraded"


def test_a_held_mirror_does_not_overflow_its_hook() -> None:
    former = compiled(target(), mirror("gone"))
    now = compiled(target(), *(mirror(f"m{n:02}") for n in range(LIST_LENGTH)))
    held = hold(now, former.hooks, former.paths)
    assert all(len(row) == LIST_LENGTH for row in held.hooks.values())


def test_an_ipv4_route_by_an_ipv6_neighbour_is_no_route_to_the_programs() -> None:
    by_ipv6 = replace(REACHABLE, nexthop="fe80::1")
    assert by_ipv6.carried() == Path("10.9.0.2", PathState.NO_ROUTE)
    assert REACHABLE.carried() is REACHABLE
