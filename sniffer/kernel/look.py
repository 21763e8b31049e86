"""One look at what a node mirrors, from the pins alone: it works with the agent dead."""

import struct
import time
from pathlib import Path

from sniffer.abi.limits import NameKind
from sniffer.abi.records import Hook, Tally, unpack_counters
from sniffer.errors import InputError, KernelError
from sniffer.kernel import bpf, clsact, tcx
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.observe import observe, own_relay_of
from sniffer.kernel.pins import Maps, Pins, is_held
from sniffer.plan.facts import Mechanism
from sniffer.plan.state import State
from sniffer.stats.rows import Look, unsettled

SETTLE_ROUNDS = 5
SETTLE_S = 0.002


def look_at(root: Path) -> Look:
    """InputError: no agent was ever here."""
    pins = Pins(root)
    if not pins.exists():
        raise InputError(f"--pin-root: nothing of sniffer at {root}; no agent has run here, or it was cleaned up")
    netlink = Netlink()
    try:
        with Maps(pins, writable=False) as maps:
            state = observe(maps, pins, netlink, own_relay_of(netlink, pins))
            return Look(
                state=state,
                counters=_counters(maps, state),
                links=netlink.links(),
                ahead={hook: _ahead(hook, state, netlink) for hook in state.hooks},
                now_ns=bpf.monotonic_ns(),
                running=is_held(pins),
            )
    finally:
        netlink.close()


def _counters(maps: Maps, state: State) -> dict[int, tuple[Tally, ...]]:
    """Read again for a moment while frames are in the relay, so that what is on its way does not look lost."""
    numbers = [0, *(key.id for key in state.names if key.kind == NameKind.COUNTER)]
    for _ in range(SETTLE_ROUNDS):
        found = {number: _tallies(maps, number) for number in numbers}
        if not unsettled(found.values()):
            break
        time.sleep(SETTLE_S)
    return found


def _tallies(maps: Maps, number: int) -> tuple[Tally, ...]:
    blob = maps.counters.lookup(struct.pack("=I", number))
    return unpack_counters(blob or b"")


def _ahead(hook: Hook, state: State, netlink: Netlink) -> tuple[int, ...]:
    """Ids of the programs that run on the hook before ours."""
    attachment = state.attachments.get(hook)
    if attachment is None or not attachment.program:
        return ()
    try:
        chain = tcx.query_tcx(hook.ifindex, hook.direction) if tcx.has_tcx() else ()
        if attachment.mechanism == Mechanism.CLSACT:
            found = clsact.filters(netlink, hook.ifindex, hook.direction)
            chain = (*chain, *(one.prog_id or 0 for one in found if not one.captures))
    except KernelError:
        return ()
    return tuple(chain[: chain.index(attachment.program)]) if attachment.program in chain else ()
