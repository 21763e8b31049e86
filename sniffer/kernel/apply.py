"""Carries out a plan, one op after the other. No rollback: whoever fails observes again and plans again."""

import contextlib
import errno
import os
import struct
from collections.abc import Mapping

from sniffer.abi.limits import NameKind
from sniffer.abi.records import BUCKET_SIZE, COUNTERS_SIZE, Hook, TunnelRecord, pack_list, pack_name, pack_program
from sniffer.errors import KernelError, SnifferError
from sniffer.kernel import bpf, clsact, relay, tcx, unmanaged
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.observe import relay_alias
from sniffer.kernel.pins import Maps, Pins
from sniffer.plan import ops
from sniffer.plan.facts import Mechanism

FILTER_NAME = "sniffer"
_WORDS = {ops.SetLease: "leases", ops.SetPath: "paths", ops.SetLabel: "labels"}


class Kernel:
    """The place where ops take effect. programs: fds by name."""

    def __init__(self, maps: Maps, pins: Pins, netlink: Netlink, programs: Mapping[str, int]) -> None:
        self._maps = maps
        self._pins = pins
        self._netlink = netlink
        self._programs = programs

    def apply(self, plan: ops.Plan) -> dict[Hook, str]:
        """The hooks that could not be attached to, or for which there is no room, and why. Raises SnifferError at any
        other op that fails.
        """
        failures = {}
        for op in plan:
            if isinstance(op, ops.Attach) and op.hook in failures:
                continue
            try:
                self._apply(op)
            except SnifferError as error:
                number = error.errno if isinstance(error, KernelError) else 0
                if not (isinstance(op, ops.Attach) or (isinstance(op, ops.SetHook) and number == errno.ENOSPC)):
                    raise
                if number != errno.ENODEV:  # gone meanwhile
                    failures[op.hook] = str(error)
        return failures

    def _apply(self, op: ops.Op) -> None:  # noqa: C901, PLR0912 (one match over all ops)
        maps = self._maps
        match op:
            case ops.CreateRelay():
                unmanaged.mark()
                relay.create(self._netlink, relay_alias(self._pins))
            case ops.AttachRing(ifindex):
                self._netlink.attach_xdp(ifindex, self._programs["relay_ring"])
                self._netlink.offloads_off(relay.RX)  # the kernel switches GRO on with it; the ring stays
            case ops.SetRelay(word):
                bpf.store_word(maps.memory["relay"], 0, word)
            case ops.SetLease(number, word) | ops.SetPath(number, word) | ops.SetLabel(number, word):
                bpf.store_word(maps.memory[_WORDS[type(op)]], number, word)
            case ops.PutName(key, text):
                maps.names.update(key.pack(), pack_name(text))
            case ops.PutEgress(number, record):
                maps.write("egress", number, record.pack())
            case ops.PutBudget(number, record):
                maps.buckets.update(struct.pack("=I", number), bytes(BUCKET_SIZE))
                maps.write("budgets", number, record.pack())
            case ops.PutTunnel(number, record):
                maps.write("tunnels", number, record.pack())
            case ops.PutFilter(number, program):
                maps.write("filters", number, pack_program(program))
            case ops.PutMirror(number, record):
                maps.write("mirrors", number, record.pack())
            case ops.PutList(number, mirrors):
                maps.write("lists", number, pack_list(mirrors))
            case ops.SetHook(hook, number, guard, stamps):
                self._set_hook(hook, hook.word(number, guard, stamps))
            case ops.RemoveHook(hook):
                self._remove_hook(hook)
            case ops.Attach(hook, mechanism, program):
                self._attach(hook, mechanism, self._programs[program])
            case ops.Detach(hook, _, gone=True):
                self._pins.link(hook).unlink(missing_ok=True)
            case ops.Detach(hook, mechanism):
                self._detach(hook, mechanism)
            case ops.Grace():
                bpf.synchronize_rcu()
            case ops.Clear(table, number):
                self._clear(table, number)
            case ops.RemoveName(key):
                if key.kind == NameKind.COUNTER:
                    maps.counters.update(struct.pack("=I", key.id), bytes(COUNTERS_SIZE * bpf.possible_cpus()))
                maps.names.delete(key.pack())
            case ops.PutOuter(key):
                maps.outers.update(key.pack(), struct.pack("=I", 1))
            case ops.RemoveOuter(key):
                maps.outers.delete(key.pack())

    def _set_hook(self, hook: Hook, word: int) -> None:
        """One store, at the hook's place or at a free one."""
        words = {place: bpf.load_word(self._maps.memory["hooks"], place) for place in hook.places()}
        taken = next((place for place, other in words.items() if other and Hook.of_word(other)[0] == hook), None)
        place = taken if taken is not None else next((place for place, other in words.items() if not other), None)
        if place is None:
            raise KernelError(f"no room in `hooks` for ifindex {hook.ifindex}", errno.ENOSPC)
        bpf.store_word(self._maps.memory["hooks"], place, word)

    def _remove_hook(self, hook: Hook) -> None:
        memory = self._maps.memory["hooks"]
        found = [place for place in hook.places() if Hook.of_word(bpf.load_word(memory, place))[0] == hook]
        if not found:  # where we have put none: somebody else has
            words = struct.iter_unpack("=Q", memory[:])
            found = [place for place, (word,) in enumerate(words) if word and Hook.of_word(word)[0] == hook]
        for place in found:
            bpf.store_word(memory, place, 0)

    def _clear(self, table: str, number: int) -> None:
        maps = self._maps
        record = bytes(maps.size[table])
        if table == "tunnels":
            generation = TunnelRecord.unpack(maps.record(table, number)).generation
            record = TunnelRecord(generation, 0, 0, 0, ()).pack()
        maps.write(table, number, record)
        words = {"mirrors": "leases", "egress": "paths"}.get(table)
        if words:
            bpf.store_word(maps.memory[words], number, 0)

    def _attach(self, hook: Hook, mechanism: Mechanism, program_fd: int) -> None:
        if mechanism == Mechanism.TCX:
            self._attach_tcx(hook, program_fd)
        else:
            clsact.ensure(self._netlink, hook.ifindex)
            clsact.add(self._netlink, hook.ifindex, hook.direction, program_fd, FILTER_NAME)

    def _attach_tcx(self, hook: Hook, program_fd: int) -> None:
        path = self._pins.link(hook)
        if path.exists():
            link_fd = bpf.get_pinned(path)
            try:
                tcx.link_update(link_fd, program_fd)
            except KernelError as error:
                if error.errno != errno.ENOLINK:
                    raise
                path.unlink()  # of an interface that is gone, whose index another has now
            else:
                return
            finally:
                os.close(link_fd)
        link_fd = tcx.attach_tcx(hook.ifindex, hook.direction, program_fd)
        try:
            bpf.pin(link_fd, path)
        finally:
            os.close(link_fd)

    def _detach(self, hook: Hook, mechanism: Mechanism) -> None:
        if mechanism == Mechanism.CLSACT:
            with contextlib.suppress(KernelError):  # gone with its interface
                clsact.delete(self._netlink, hook.ifindex, hook.direction)
            return
        path = self._pins.link(hook)
        with contextlib.suppress(FileNotFoundError):
            link_fd = bpf.get_pinned(path)
            try:
                tcx.link_detach(link_fd)
            finally:
                os.close(link_fd)
            path.unlink()
