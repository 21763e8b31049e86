"""Programs on clsact hooks, for kernels without TCX. We never delete the qdisc, and no filter but our own."""

import contextlib
import errno
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError, MachineError
from sniffer.kernel.rtnetlink import attributes, text, u32

if TYPE_CHECKING:
    from sniffer.kernel.netlink import Netlink

PRIORITY = 1
HANDLE = 0x5E1F
NAME_PREFIX = "sniffer"

CAPTURE_NAME = "sniffer-capture"
CAPTURES = range(0x5E2000, 0x5E2100)
"""Handles of live captures' filters (kernel/watchdog.py), which are none of the agent's."""

_PARENTS = {Direction.INGRESS: 0xFFFFFFF2, Direction.EGRESS: 0xFFFFFFF3}  # TC_H_MIN_INGRESS, TC_H_MIN_EGRESS


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter on one direction of an interface."""

    prio: int
    handle: int
    kind: str
    name: str | None
    """What whoever attached it called it; BPF filters only."""
    prog_id: int | None
    """The program's id; BPF filters only."""

    @property
    def ours(self) -> bool:
        """Whether it carries our mark: all of priority, handle and name."""
        return (self.prio, self.handle) == (PRIORITY, HANDLE) and (self.name or "").startswith(NAME_PREFIX)

    @property
    def captures(self) -> bool:
        """Whether it is a live capture's: it only reads, and keeps no frame from anybody."""
        return self.prio == PRIORITY and self.handle in CAPTURES and self.name == CAPTURE_NAME


def filters(
    netlink: "Netlink", ifindex: int, direction: Direction, qdiscs: Mapping[int, str] | None = None
) -> tuple[Filter, ...]:
    """What runs there, in order; () without an interface or a qdisc. `qdiscs`: Netlink.ingress_qdiscs, if at hand."""
    if direction is Direction.EGRESS and (qdiscs or netlink.ingress_qdiscs()).get(ifindex) == "ingress":
        return ()  # the kernel would list those of ingress
    found: list[Filter] = []
    for priority, handle, of_filter in netlink.filter_messages(ifindex, _PARENTS[direction]):
        if 2 not in of_filter:  # TCA_OPTIONS: the first message of each priority stands for the classifier itself
            continue
        kind, options = text(of_filter.get(1)) or "", attributes(of_filter[2])
        bpf = kind == "bpf"
        name, program = (text(options.get(7)), u32(options.get(11))) if bpf else (None, None)
        found.append(Filter(priority, handle, kind, name, program))
    return tuple(found)


def ensure(netlink: "Netlink", ifindex: int) -> None:
    """Makes a clsact qdisc where the interface has none; leaves an `ingress` qdisc of somebody else alone."""
    try:
        netlink.change(f"clsact on ifindex {ifindex}", "tc", "add", "clsact", index=ifindex)
    except KernelError as error:
        if error.errno not in (errno.EEXIST, errno.EINVAL) or ifindex not in netlink.ingress_qdiscs():
            raise


def add(netlink: "Netlink", ifindex: int, direction: Direction, program_fd: int, name: str) -> None:
    """Puts our filter there: a new one ahead of all others of its priority, or the program of the one that is there
    replaced in its place, atomically.

    `name` begins with `sniffer`. MachineError where an `ingress` qdisc leaves no room for egress; KernelError (EEXIST)
    where somebody else's filter has our place, ENOENT without `ensure`.
    """
    if not name.startswith(NAME_PREFIX):
        raise ValueError(f"{name!r} does not begin with {NAME_PREFIX!r}")
    about = f"clsact {direction.name.lower()} filter on ifindex {ifindex}"
    qdiscs = netlink.ingress_qdiscs()
    if direction is Direction.EGRESS and qdiscs.get(ifindex) == "ingress":
        raise MachineError(
            f"ifindex {ifindex} has an `ingress` qdisc, so its egress cannot be mirrored on this kernel",
            "a kernel with TCX (6.6 or later) can; or have the owner of that qdisc use clsact",
        )
    present = _at_our_place(netlink, ifindex, direction, qdiscs)
    if present is not None and not present.ours:
        raise KernelError(
            about, errno.EEXIST, f"priority {PRIORITY}, handle {HANDLE:#x} is {present.name or present.kind}'s"
        )
    options = {"parent": _PARENTS[direction], "prio": PRIORITY, "fd": program_fd, "name": name, "direct_action": True}
    command = "replace-filter" if present else "add-filter"
    netlink.change(about, "tc", command, "bpf", index=ifindex, handle=HANDLE, **options)


def delete(netlink: "Netlink", ifindex: int, direction: Direction) -> bool:
    """Removes our filter; False when there was none. The qdisc stays."""
    present = _at_our_place(netlink, ifindex, direction, netlink.ingress_qdiscs())
    if present is None or not present.ours:
        return False
    about = f"clsact {direction.name.lower()} filter on ifindex {ifindex}"
    options = {"parent": _PARENTS[direction], "prio": PRIORITY, "handle": HANDLE}
    netlink.change(about, "tc", "del-filter", "bpf", index=ifindex, **options)
    return True


def add_capture(netlink: "Netlink", ifindex: int, direction: Direction, program_fd: int, handle: int) -> None:
    """Puts a live capture's filter ahead of all others; `handle` is of CAPTURES.

    MachineError where an `ingress` qdisc leaves no room for egress; KernelError (EEXIST) where the handle is taken.
    """
    about = f"clsact {direction.name.lower()} capture on ifindex {ifindex}"
    ensure(netlink, ifindex)
    if direction is Direction.EGRESS and netlink.ingress_qdiscs().get(ifindex) == "ingress":
        fix = "a kernel with TCX (6.6 or later) can; or have the owner of that qdisc use clsact"
        raise MachineError(f"ifindex {ifindex} has an `ingress` qdisc, so its egress cannot be captured", fix)
    options = {"prio": PRIORITY, "fd": program_fd, "name": CAPTURE_NAME, "direct_action": True}
    netlink.change(
        about, "tc", "add-filter", "bpf", index=ifindex, handle=handle, parent=_PARENTS[direction], **options
    )


def delete_capture(netlink: "Netlink", ifindex: int, direction: Direction, handle: int) -> bool:
    """Removes a live capture's filter; False when there was none. The qdisc stays."""
    qdiscs = netlink.ingress_qdiscs()
    if not any(one.captures and one.handle == handle for one in filters(netlink, ifindex, direction, qdiscs)):
        return False
    about = f"clsact {direction.name.lower()} capture on ifindex {ifindex}"
    options = {"parent": _PARENTS[direction], "prio": PRIORITY, "handle": handle}
    netlink.change(about, "tc", "del-filter", "bpf", index=ifindex, **options)
    return True


def captures(netlink: "Netlink") -> Iterator[tuple[int, Direction, int]]:
    """Every (ifindex, direction, handle) of the node with a live capture's filter."""
    qdiscs = netlink.ingress_qdiscs()
    for ifindex, direction in ((ifindex, direction) for ifindex in qdiscs for direction in Direction):
        with contextlib.suppress(KernelError):  # the interface is gone
            for one in filters(netlink, ifindex, direction, qdiscs):
                if one.captures:
                    yield ifindex, direction, one.handle


def marked(netlink: "Netlink", but: Collection[int] = ()) -> Iterator[tuple[int, Direction]]:
    """Every (ifindex, direction) of the node with a filter that carries our mark; `but` those of these programs."""
    qdiscs = netlink.ingress_qdiscs()
    for ifindex, direction in ((ifindex, direction) for ifindex in qdiscs for direction in Direction):
        with contextlib.suppress(KernelError):  # the interface is gone
            if any(one.ours and one.prog_id not in but for one in filters(netlink, ifindex, direction, qdiscs)):
                yield ifindex, direction


def _at_our_place(netlink: "Netlink", ifindex: int, direction: Direction, qdiscs: Mapping[int, str]) -> Filter | None:
    for present in filters(netlink, ifindex, direction, qdiscs):
        if (present.prio, present.handle) == (PRIORITY, HANDLE):
            return present
    return None
