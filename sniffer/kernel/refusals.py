"""Analyzers that refuse copies: feeds plan/refusal.py with counters, and tells what it found."""

import logging
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sniffer.abi.records import OuterKey
from sniffer.kernel.pins import Maps
from sniffer.plan import rejecting
from sniffer.plan.compile import Sources
from sniffer.plan.facts import Facts
from sniffer.plan.refusal import Refusals
from sniffer.plan.state import State, Wanted

log = logging.getLogger(__name__)

EVERY_S = 0.9
"""How often counters are read while nothing is watched."""
WATCHING_S = 0.25
_COUNTED = {b"Icmp6InDestUnreachs", b"Icmp6InParmProblems"}


class Watch:
    """The node's eye on those who refuse."""

    def __init__(self, proc: Path = Path("/proc/self/net")) -> None:
        """proc: this network namespace's."""
        self.wait_s: float | None = None
        """How soon to look again; None: in a second is soon enough."""
        self._proc = proc
        self._refusals = Refusals()
        self._looked_s = float("-inf")
        self._said: frozenset[rejecting.Endpoint] = frozenset()

    def look(self, maps: Maps, observed: State, facts: Facts) -> None:
        """Reads what it needs, if it is time."""
        now_s = facts.now_ns / 1e9
        refusals = self._refusals
        if now_s - self._looked_s < (WATCHING_S / 2 if refusals.watching else EVERY_S):
            return
        self._looked_s = now_s
        counted = refusals.watching or bool(rejecting.watching(observed))
        refusals.look(errors(self._proc), dict(_refused(maps)) if counted else {}, now_s)
        self.wait_s = WATCHING_S if refusals.watching else None

    def told(self, wanted: Wanted, facts: Facts, sources: Sources) -> Wanted:
        """With hooks that watch, and with the verdicts on those whose copies are refused."""
        found = rejecting.endpoints_of(self._refusals.rejecting, sources.targets)
        for target, address in sorted(found - self._said):
            log.warning("MirrorTarget %s: %s refuses copies by ICMP", target, address)
        for target, address in sorted(self._said - found):
            log.info("MirrorTarget %s: %s refuses copies no more", target, address)
        self._said = found
        wanted = rejecting.told(wanted, found)
        return rejecting.watched(wanted, facts, sources.targets) if self._refusals.watching else wanted


def errors(proc: Path = Path("/proc/self/net")) -> int:
    """ICMP errors of the kinds that refuse a packet, received in this network namespace; 0 where that is not told.

    proc(5): `snmp` has a line of names and one of numbers for each protocol, `snmp6` a name and a number in each line.
    """
    total = 0
    with suppress(OSError, ValueError):
        lines = [line.split() for line in (proc / "snmp").read_bytes().splitlines() if line.startswith(b"Icmp: ")]
        total += int(dict(zip(*lines, strict=False)).get(b"InDestUnreachs", 0))
    with suppress(OSError, ValueError):
        pairs = (line.split() for line in (proc / "snmp6").read_bytes().splitlines())
        total += sum(int(number) for name, number in pairs if name in _COUNTED)
    return total


def _refused(maps: Maps) -> Iterator[tuple[OuterKey, int]]:
    for key, value in maps.outers.items():
        yield OuterKey.unpack(key), struct.unpack("=I", value)[0]
