"""kernel/clsact.py on the kernel's own qdiscs, with filters of others beside ours."""

import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf
from sniffer.kernel.clsact import HANDLE, PRIORITY
from sniffer.kernel.netlink import Netlink
from tests.topology import run

SOURCE = Path(__file__).parents[1] / "bpf" / "stand_in.c"
EVERYTHING = ("u32", "match", "u32", 0, 0, "flowid", "1:1")
BOTH = pytest.mark.parametrize("direction", list(Direction))


def sh(line: str, netns: str | None = None) -> str:
    return run(*line.split(), netns=netns)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bpf.Object]:
    target = tmp_path_factory.mktemp("clsact") / "stand_in.o"
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    run("clang-19", "-O2", "-g", "-target", "bpf", "-mcpu=v2", include, "-c", SOURCE, "-o", target)
    with bpf.Object.open(target, autoload={"refused": False}) as opened:
        yield opened


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened


@pytest.fixture
def device() -> Iterator[int]:
    sh("ip link add hook0 type veth peer name hook1")
    yield socket.if_nametoindex("hook0")
    sh("ip link del hook0")


def fd(programs: bpf.Object, name: str = "count_the_packets_of_it") -> int:
    return programs.program(name).fd


def word(direction: Direction) -> str:
    return direction.name.lower()


def foreign(direction: Direction, *words: object) -> None:
    run("tc", "filter", "add", "dev", "hook0", word(direction), *words)


def shown(direction: Direction) -> str:
    return run("tc", "filter", "show", "dev", "hook0", word(direction))


@BOTH
def test_ours_is_added_found_and_deleted(
    netlink: Netlink, programs: bpf.Object, device: int, direction: Direction
) -> None:
    assert netlink.filters(device, direction) == ()
    with pytest.raises(KernelError):
        netlink.add_filter(device, direction, fd(programs), "sniffer")  # no qdisc yet
    netlink.ensure_clsact(device)
    netlink.ensure_clsact(device)
    netlink.add_filter(device, direction, fd(programs), "sniffer tap")
    (found,) = netlink.filters(device, direction)
    assert (found.prio, found.handle, found.kind, found.name) == (PRIORITY, HANDLE, "bpf", "sniffer tap")
    assert found.prog_id == programs.program("count_the_packets_of_it").id
    assert found.ours
    assert "direct-action" in shown(direction)
    assert "protocol all pref 1 bpf" in shown(direction)
    assert netlink.filters(device, Direction(1 - direction)) == ()
    assert netlink.delete_filter(device, direction)
    assert not netlink.delete_filter(device, direction)
    assert netlink.filters(device, direction) == ()
    assert netlink.ingress_qdiscs() == {device: "clsact"}


@BOTH
def test_a_replaced_program_keeps_its_place(
    netlink: Netlink, programs: bpf.Object, device: int, direction: Direction
) -> None:
    """D18"""
    netlink.ensure_clsact(device)
    netlink.add_filter(device, direction, fd(programs, "second"), "sniffer")
    run("bpftool", "prog", "pin", "id", programs.program("second").id, "/sys/fs/bpf/foreign")
    foreign(direction, "prio", 1, "handle", 7, "bpf", "da", "pinned", "/sys/fs/bpf/foreign")
    Path("/sys/fs/bpf/foreign").unlink()
    before = [found.handle for found in netlink.filters(device, direction)]
    assert before == [7, HANDLE]  # the newest first
    netlink.add_filter(device, direction, fd(programs), "sniffer")
    found = netlink.filters(device, direction)
    assert [one.handle for one in found] == before
    assert found[1].prog_id == programs.program("count_the_packets_of_it").id
    assert [one.ours for one in found] == [False, True]


@BOTH
def test_the_filters_of_others_survive(
    netlink: Netlink, programs: bpf.Object, device: int, direction: Direction
) -> None:
    """D2: before and after ours, of other kinds, and one that looks like ours but for its name."""
    run("tc", "qdisc", "add", "dev", "hook0", "clsact")
    netlink.ensure_clsact(device)
    foreign(direction, "prio", 7, "protocol", "ip", *EVERYTHING)
    foreign(direction, "prio", 9, "protocol", "all", *EVERYTHING)
    run("bpftool", "prog", "pin", "id", programs.program("second").id, "/sys/fs/bpf/foreign")
    foreign(direction, "prio", 2, "handle", HANDLE, "bpf", "da", "pinned", "/sys/fs/bpf/foreign")
    before = shown(direction)
    netlink.add_filter(device, direction, fd(programs), "sniffer")
    kinds = [(one.prio, one.kind) for one in netlink.filters(device, direction)]
    assert kinds[:2] == [(1, "bpf"), (2, "bpf")]
    assert {(7, "u32"), (9, "u32")} <= set(kinds)
    assert [one.ours for one in netlink.filters(device, direction)] == [True] + [False] * (len(kinds) - 1)
    assert netlink.delete_filter(device, direction)
    assert shown(direction) == before

    foreign(direction, "prio", 1, "handle", HANDLE, "bpf", "da", "pinned", "/sys/fs/bpf/foreign")
    Path("/sys/fs/bpf/foreign").unlink()
    before = shown(direction)
    assert not netlink.delete_filter(device, direction)
    with pytest.raises(KernelError, match="EEXIST: priority 1, handle 0x5e1f"):
        netlink.add_filter(device, direction, fd(programs), "sniffer")
    assert shown(direction) == before


@BOTH
def test_a_filter_of_another_kind_at_our_priority(
    netlink: Netlink, programs: bpf.Object, device: int, direction: Direction
) -> None:
    netlink.ensure_clsact(device)
    foreign(direction, "prio", 1, "protocol", "ip", *EVERYTHING)
    before = shown(direction)
    with pytest.raises(KernelError, match="filter on ifindex"):
        netlink.add_filter(device, direction, fd(programs), "sniffer")
    assert not netlink.delete_filter(device, direction)
    assert shown(direction) == before


def test_an_ingress_qdisc_of_somebody_else(netlink: Netlink, programs: bpf.Object, device: int) -> None:
    """D6: ingress works beside it, egress is refused with the fix, its filters are not taken for egress ones."""
    run("tc", "qdisc", "add", "dev", "hook0", "ingress")
    run("tc", "filter", "add", "dev", "hook0", "parent", "ffff:", "prio", 5, "protocol", "ip", *EVERYTHING)
    before = sh("tc filter show dev hook0 parent ffff:")
    netlink.ensure_clsact(device)
    assert netlink.ingress_qdiscs() == {device: "ingress"}
    netlink.add_filter(device, Direction.INGRESS, fd(programs), "sniffer")
    kinds = [one.kind for one in netlink.filters(device, Direction.INGRESS)]
    assert kinds[0] == "bpf"
    assert set(kinds[1:]) == {"u32"}
    assert netlink.filters(device, Direction.EGRESS) == ()
    with pytest.raises(MachineError, match="`ingress` qdisc") as caught:
        netlink.add_filter(device, Direction.EGRESS, fd(programs), "sniffer")
    assert "clsact" in caught.value.fix
    assert not netlink.delete_filter(device, Direction.EGRESS)
    assert netlink.delete_filter(device, Direction.INGRESS)
    # The kernel names the parent as it was last written, `ffff:` or `ingress`: one and the same.
    assert sh("tc filter show dev hook0 parent ffff:").replace("filter ingress", "filter") == before
    assert netlink.ingress_qdiscs() == {device: "ingress"}


def test_an_interface_that_is_gone(netlink: Netlink, programs: bpf.Object) -> None:
    with pytest.raises(KernelError, match="clsact on ifindex 4711: ENODEV"):
        netlink.ensure_clsact(4711)
    assert netlink.filters(4711, Direction.EGRESS) == ()
    assert not netlink.delete_filter(4711, Direction.INGRESS)
    with pytest.raises(KernelError, match="ENODEV"):
        netlink.add_filter(4711, Direction.INGRESS, fd(programs), "sniffer")


def test_a_name_that_is_not_our_mark(netlink: Netlink, programs: bpf.Object, device: int) -> None:
    netlink.ensure_clsact(device)
    with pytest.raises(ValueError, match="does not begin with 'sniffer'"):
        netlink.add_filter(device, Direction.INGRESS, fd(programs), "tap")


def test_our_program_runs(netlink: Netlink, programs: bpf.Object, device: int) -> None:
    netlink.ensure_clsact(device)
    netlink.add_filter(device, Direction.EGRESS, fd(programs), "sniffer")
    for name in ("hook0", "hook1"):
        run("ip", "link", "set", name, "up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("hook0", 0))
        table = programs.map("per_cpu")
        before = packets(table)
        for _ in range(50):
            sender.send(bytes(12) + b"\x88\xb5" + bytes(50))
        assert packets(table) - before >= 50
        table.close()


def packets(table: bpf.Map) -> int:
    value = table.lookup((1).to_bytes(4, "little")) or b""
    return sum(int.from_bytes(value[start : start + 8], "little") for start in range(0, len(value), 16))
