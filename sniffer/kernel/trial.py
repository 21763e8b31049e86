"""The real tap, tried in private: what it decides of frames, while nothing is pinned, attached or sent on this machine.

The BPF object is loaded beside whatever an agent has, with maps of its own. One hook has a list of up to LIST_LENGTH
mirrors whose endpoint has no route, so that each decision is a tally of `matched` and no clone is ever made.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from sniffer.abi.limits import LIST_LENGTH, Direction, Outcome
from sniffer.abi.records import (
    COUNTERS_SIZE,
    Hook,
    MirrorRecord,
    Program,
    pack_list,
    pack_program,
)
from sniffer.errors import KernelError
from sniffer.kernel import bpf, tcx
from sniffer.kernel.namespace import private_network
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.pins import PROGRAMS
from sniffer.kernel.programs import open_object, refusal

_LOOPBACK = 1  # ifindex; a test run on it touches nothing of it
_LIST = 1
_TUNNEL = 1  # all zero: its only endpoint is egress 0, whose path is PATH_NONE
_FOR_EVER = (1 << 64) - 1
_ENDS = ("sniffer-try", "sniffer-try-end")
_MTU = 65535
_REPEAT, _ROUNDS = 1000, 5
_UP, _NOARP = 0x1, 0x80  # IFF_*
_TALLIES = COUNTERS_SIZE // 8  # words of one CPU's counters
TAPS = ("tap_ingress", "tap_egress")
FRAME_LENGTHS = range(14, _MTU + 14 + 1)
"""Bytes of the frames that `Trial` decides."""


class Trial:
    """Up to LIST_LENGTH programs on one hook; `decide` says which of them take a frame.

    Not for threads: one `decide` at a time. Needs CAP_BPF and CAP_NET_ADMIN, and CAP_SYS_ADMIN for frames that the
    kernel's test run refuses.
    """

    def __init__(self, programs: Sequence[Program] = ()) -> None:
        """Loads the object. MachineError: not allowed, or the kernel refuses it."""
        self._open = ExitStack()
        self._wire: _Wire | None = None
        try:
            loaded = self._open.enter_context(_loaded())
            self._fds = {name: loaded.program(name).fd for name in TAPS}
            self._maps: dict[str, bpf.Map] = {}
            for name in ("hooks", "lists", "filters", "mirrors", "leases", "counters"):
                self._maps[name] = loaded.map(name)
                self._open.callback(self._maps[name].close)
            self._arm(Hook(_LOOPBACK, Direction.INGRESS))
            self.use(programs)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Everything goes: programs, maps, the private namespace."""
        self._open.close()

    def use(self, programs: Sequence[Program]) -> None:
        """Puts other programs, as plan.rules links them, in place of the former ones; () takes every frame.

        ValueError: more than LIST_LENGTH programs, or one longer than PROGRAM_LENGTH.
        """
        if len(programs) > LIST_LENGTH:
            raise ValueError(f"{len(programs)} programs, at most {LIST_LENGTH}")
        # Rewritten in place, which an agent must never do: between two decisions nothing runs.
        for number, program in enumerate(programs, start=1):
            record = MirrorRecord(number if program else 0, 0, number, (_TUNNEL,))
            self._store("filters", number, pack_program(program))
            self._store("mirrors", number, record.pack())
            self._store("leases", number, struct.pack("=Q", _FOR_EVER))
        self._store("lists", _LIST, pack_list(tuple(range(1, len(programs) + 1))))
        self._count = len(programs)
        self._before = self._matched()

    def decide(self, frame: bytes) -> tuple[bool, ...]:
        """Which of the programs take this frame, in their order.

        `frame` is whole, from its Ethernet header on, any VLAN tags among its bytes; its length is of FRAME_LENGTHS,
        KernelError (EINVAL) for any other. MachineError: it takes a private namespace and we may not have one.
        """
        try:
            bpf.test_run(self._fds["tap_ingress"], frame, _LOOPBACK)
        except KernelError as error:
            # A cut IP header, or more than about a page.
            if error.errno not in (errno.EINVAL, errno.ENOMEM) or len(frame) not in FRAME_LENGTHS:
                raise
            self._send(frame)
        matched = self._matched()
        before, self._before = self._before, matched
        return tuple(after != former for after, former in zip(matched, before, strict=True))

    def nanoseconds(self, frame: bytes) -> int:
        """What the programs in use add to the time of this frame, no copy made; noise is some ten nanoseconds.

        Compared with a tap on a hook that has no mirror. KernelError (EINVAL) for a frame that the kernel's test run
        refuses.
        """
        busy, idle = (
            min(bpf.test_run(self._fds[name], frame, _LOOPBACK, repeat=_REPEAT)[1] for _ in range(_ROUNDS))
            for name in TAPS
        )
        self._before = self._matched()
        return max(busy - idle, 0)

    def _send(self, frame: bytes) -> None:
        if self._wire is None:
            with private_network():
                self._wire = self._open.enter_context(_Wire(self._fds["tap_egress"]))
            self._arm(Hook(self._wire.ifindex, Direction.EGRESS))
        self._wire.send(frame)

    def _arm(self, hook: Hook) -> None:
        self._store("hooks", hook.places()[0], struct.pack("=Q", hook.word(_LIST)))

    def _store(self, name: str, number: int, record: bytes) -> None:
        self._maps[name].update(struct.pack("=I", number), record)

    def _matched(self) -> list[tuple[int, ...]]:
        """Of each program, the packets that it took, CPU by CPU."""
        values = memoryview(self._maps["counters"].first(self._count + 1)).cast("Q")
        column = values[2 * Outcome.MATCHED :: _TALLIES].tolist()
        cpus = bpf.possible_cpus()
        return [tuple(column[at : at + cpus]) for at in range(cpus, len(column), cpus)]


class _Wire:
    """One end of a veth pair with the tap on its egress: a frame is decided when `send` returns.

    The other end stays down: without a carrier nothing is delivered, and the kernel sends nothing of its own. The
    network namespace that it was made in ends with its socket.
    """

    def __init__(self, program_fd: int) -> None:
        name, other = _ENDS
        self._link = -1
        with Netlink() as netlink:
            netlink.change(f"veth pair {name}", "link", "add", ifname=name, mtu=_MTU, kind="veth", peer=other)
            found = netlink.link_message(name)
            if found is None:
                raise KernelError(f"veth pair {name}", errno.ENODEV)
            self.ifindex = found[0].index
            up_quiet = {"flags": _UP | _NOARP, "change": _UP | _NOARP}
            netlink.change(f"flags of {name}", "link", "set", index=self.ifindex, **up_quiet)
            if tcx.has_tcx():
                self._link = tcx.attach_tcx(self.ifindex, Direction.EGRESS, program_fd)
            else:
                netlink.ensure_clsact(self.ifindex)
                netlink.add_filter(self.ifindex, Direction.EGRESS, program_fd, name)
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self._socket.bind((name, 0))
        except OSError as error:
            self.close()
            raise KernelError(f"packet socket on {name}", error.errno or 0) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._link >= 0:
            os.close(self._link)
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """KernelError: EMSGSIZE for more than the MTU and its header."""
        try:
            self._socket.send(frame)
        except OSError as error:
            raise KernelError(f"sending a frame of {len(frame)} bytes", error.errno or 0) from None


def _loaded() -> bpf.Object:
    """The object with nothing but the taps."""
    try:
        return open_object(autoload={name: name in TAPS for name in PROGRAMS})
    except KernelError as error:
        raise refusal(error) from error
