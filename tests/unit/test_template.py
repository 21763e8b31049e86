"""Outer headers, byte for byte, and who shares what the programs count and call by."""

import struct
import zlib
from typing import Any

import pytest

from sniffer.abi.limits import EgressFlag, Encapsulation, OuterKind
from sniffer.abi.records import EgressRecord
from sniffer.model.resources import MirrorTarget
from sniffer.model.target import TargetSpec
from sniffer.plan.diff import diff
from sniffer.plan.facts import Path, PathState
from sniffer.plan.outers import outer_keys
from sniffer.plan.template import address_of, egress_record, nexthop_of, source_of
from tests.unit.test_plan import IN, OUT, Machine, desired_state, egress, mirror, tunnel, wanted

ADDRESSES = {4: ("10.9.0.1", "10.9.0.2"), 6: ("fd00:9::1", "fd00:9::2")}
IPV4 = "45000000 0000 0000 40{:02x} 0000 0a090001 0a090002"
IPV6 = "60000000 0000 {:02x}40 fd000009000000000000000000000001 fd000009000000000000000000000002"
GENEVE = "0a006558 0001f500" + "".join(
    f" ff53{kind:02x}01 {zlib.crc32(b'n1') if kind == 1 else 0:08x}" for kind in range(1, 6)
)
TRANSPORTS: list[tuple[dict[str, Any], Encapsulation, int, str, EgressFlag]] = [
    ({"vxlan": {"vni": 501}}, Encapsulation.VXLAN, 17, "0000 12b5 00000000 08000000 0001f500", EgressFlag(0)),
    ({"gre": {}}, Encapsulation.GRE, 47, "0000 6558", EgressFlag(0)),
    ({"gre": {"key": 0}}, Encapsulation.GRE, 47, "2000 6558 00000000", EgressFlag(0)),
    ({"gre": {"sequence": True}}, Encapsulation.GRE, 47, "1000 6558 00000000", EgressFlag.SEQUENCE),
    ({"gre": {"key": 7, "sequence": True}}, Encapsulation.GRE, 47, "3000 6558 00000007 00000000", EgressFlag.SEQUENCE),
    ({"geneve": {"vni": 501}}, Encapsulation.GENEVE, 17, f"0000 17c1 00000000 {GENEVE}", EgressFlag(0)),
    (
        {"erspan": {"version": 2, "sessionId": 1023}},
        Encapsulation.ERSPAN2,
        47,
        "1000 88be 00000000 100003ff 00000000",
        EgressFlag.SEQUENCE,
    ),
    (
        {"erspan": {"version": 3, "sessionId": 5}},
        Encapsulation.ERSPAN3,
        47,
        "1000 22eb 00000000 20000005 00000000 00008002",
        EgressFlag.SEQUENCE,
    ),
]


def spec(version: int, encapsulation: dict[str, Any], **outer: Any) -> TargetSpec:
    value = {"encapsulation": encapsulation, "endpoints": [{"address": ADDRESSES[version][1]}], "outer": outer}
    return TargetSpec.model_validate(value)


def record_of(version: int, encapsulation: dict[str, Any], **outer: Any) -> EgressRecord:
    source, address = ADDRESSES[version]
    made = spec(version, encapsulation, **outer)
    path = Path(address, PathState.REACHABLE, "up0", 3, source, address, 1500)
    return egress_record(path, made.encapsulation, made.outer, "n1")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("encapsulation", "kind", "protocol", "transport", "flags"), TRANSPORTS)
def test_headers(
    encapsulation: dict[str, Any], kind: Encapsulation, protocol: int, transport: str, flags: EgressFlag, version: int
) -> None:
    record = record_of(version, encapsulation)
    head = bytes(12) + bytes.fromhex(("0800" + IPV4 if version == 4 else "86dd" + IPV6).format(protocol))
    assert record.template == head + bytes.fromhex(transport)
    assert record.flags == flags | (EgressFlag.IPV6 if version == 6 else 0)
    assert record.encapsulation == kind
    assert record.checksum == (sum(struct.unpack("=10H", record.template[14:34])) if version == 4 else 0)
    assert (source_of(record), address_of(record), nexthop_of(record)) == (*ADDRESSES[version], ADDRESSES[version][1])
    assert EgressRecord.unpack(record.pack()) == record


@pytest.mark.parametrize("version", [4, 6])
def test_outer_options(version: int) -> None:
    plain = record_of(version, {"vxlan": {"vni": 1}})
    fixed = record_of(version, {"vxlan": {"vni": 1}}, dscp=46, ttl=3)
    services = fixed.template[15] if version == 4 else struct.unpack("!H", fixed.template[14:16])[0] >> 4 & 0xFF
    assert (services, fixed.template[22 if version == 4 else 21]) == (46 << 2, 3)
    copied = record_of(version, {"vxlan": {"vni": 1}}, dscp="Copy")
    assert copied.template == plain.template
    assert copied.flags == plain.flags | EgressFlag.DSCP
    whole = record_of(version, {"vxlan": {"vni": 1}}, dontFragment=True)
    assert whole.flags == plain.flags | EgressFlag.DONT_FRAGMENT
    assert (whole.template[20] == 0x40) == (version == 4)
    summed = record_of(version, {"vxlan": {"vni": 1}}, udpChecksum=True)
    assert summed.flags == plain.flags | EgressFlag.CHECKSUM
    start, end = (26, 34) if version == 4 else (22, 54)
    addresses = struct.unpack(f"={(end - start) // 2}H", summed.template[start:end])
    assert summed.pseudo == sum(addresses) + struct.unpack("=H", b"\0\x11")[0]


def test_what_copies_of_other_nodes_look_like() -> None:
    packed = {4: bytes(10) + b"\xff\xff\x0a\x09\x00\x02", 6: bytes.fromhex("fd00000900000000") + bytes(7) + b"\2"}
    wanted_keys = {
        "vxlan": (17, 4789, 501),
        "gre": (47, 0, 0),
        "geneve": (17, 6081, 501),
        "erspan": (47, 0x22EB, 5),
    }
    for encapsulation, _, _, _, _ in (TRANSPORTS[0], TRANSPORTS[1], TRANSPORTS[5], TRANSPORTS[7]):
        for version in (4, 6):
            target = MirrorTarget.model_validate(
                {
                    "apiVersion": "sniffer.dev/v1alpha1",
                    "kind": "MirrorTarget",
                    "metadata": {"name": "ana"},
                    "spec": spec(version, encapsulation).model_dump(by_alias=True, exclude_none=True),
                }
            )
            keys = outer_keys([target], ["fd00::7", "node-1"])
            (kind,) = encapsulation
            protocol, port, key = wanted_keys[kind]
            assert {(k.kind, k.address, k.protocol, k.port, k.key) for k in keys} == {
                (OuterKind.NODE, bytes.fromhex("fd00") + bytes(13) + b"\7", 0, 0, 0),
                (OuterKind.HEADER, packed[version], protocol, port, key),
                (OuterKind.LATER, packed[version], protocol, 0, 0),
            }


def test_a_stream_keeps_its_numbers_when_its_route_changes() -> None:
    """Two endpoints count apart; a record that replaces another goes on."""
    machine = Machine()
    machine.lose_relay(2)

    def settle(*endpoints: EgressRecord) -> dict[bytes, int]:
        wish = wanted({IN: (mirror(tunnels=(tunnel(endpoints=endpoints),)),)})
        desired, full = desired_state(machine, wish)
        assert not full
        for op in diff(machine.observe(), desired, machine.program_names()):
            machine.apply(op)
        return {record.template: record.sequence for record in machine.observe().egress.values()}

    first = settle(egress(2), egress(3))
    assert len(set(first.values())) == 2
    assert settle(egress(2, mtu=1400), egress(3)) == first
    assert settle(egress(2, ifindex=9)) == {egress(2).template: first[egress(2).template]}


def test_a_label_is_of_a_counter() -> None:
    machine = Machine()
    machine.lose_relay(2)
    state, _ = desired_state(machine, wanted({IN: (mirror("web"),), OUT: (mirror("web"), mirror("dns"))}))
    assert set(state.labels.values()) == {zlib.crc32(name) << 32 | 1 for name in (b"/web", b"/dns")}
