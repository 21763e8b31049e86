"""Mirrors whose copies come back: feeds plan/storm.py with counters, and tells what it found."""

import logging
import struct
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from sniffer.abi.limits import LEASE_HELD, LEASE_WATCHED, NameKind, Outcome
from sniffer.abi.records import NameKey
from sniffer.kernel.pins import Maps
from sniffer.model.identity import Identity
from sniffer.plan.facts import Facts
from sniffer.plan.names import identity_of
from sniffer.plan.state import State, Wanted
from sniffer.plan.storm import DRAIN_S, Breaker, Counts

log = logging.getLogger(__name__)

EVERY_S = 0.9
"""How often counters are read while nobody is held."""


class Storms:
    """The node's circuit breaker."""

    def __init__(self) -> None:
        self.wait_s: float | None = None
        """How soon to look again; None: in a second is soon enough."""
        self._breaker: Breaker | None = None
        self._flags: Mapping[Identity, int] = {}
        self._looked_s = float("-inf")
        self._stopped: dict[Identity, str] = {}

    def look(self, maps: Maps, observed: State, facts: Facts) -> Mapping[Identity, int]:
        """The LEASE_ flags that mirrors should have."""
        now_s = facts.now_ns / 1e9
        every_s = DRAIN_S / 2 if self.wait_s is not None else EVERY_S
        if now_s - self._looked_s < every_s:
            return self._flags
        self._looked_s = now_s
        if self._breaker is None:
            self._breaker = Breaker(one for one, flags in flags_of(observed).items() if flags & LEASE_HELD)
        self._flags = self._breaker.look(_counts(maps, observed), now_s, facts.time.timestamp())
        self.wait_s = self._breaker.wait_s(now_s)
        self._tell(self._breaker.stopped(now_s), facts)
        return self._flags

    def _tell(self, stopped: Mapping[Identity, float], facts: Facts) -> None:
        for identity in self._stopped.keys() - stopped.keys():
            log.warning("%s: tried again after a storm", _name(identity))
            del self._stopped[identity]
        for identity, left_s in stopped.items():
            if identity not in self._stopped:
                again = facts.time + timedelta(seconds=left_s)
                words = "its copies come back as frames to copy: does somebody send on what the analyzer unwraps?"
                self._stopped[identity] = f"{words} Nothing is copied until {again:%Y-%m-%dT%H:%M:%SZ}"
                log.error("%s: storm: %s", _name(identity), self._stopped[identity])

    def told(self, wanted: Wanted) -> Wanted:
        """With the verdicts on those that are stopped."""
        if not self._stopped:
            return wanted
        verdicts = tuple(
            replace(verdict, state="Suspended", reason="Storm", message=self._stopped[verdict.identity])
            if verdict.identity in self._stopped and verdict.state == "Programmed"
            else verdict
            for verdict in wanted.verdicts
        )
        return replace(wanted, verdicts=verdicts)


def flags_of(observed: State) -> Mapping[Identity, int]:
    """The LEASE_ flags that mirrors have now."""
    flags: dict[Identity, int] = {}
    for number, word in observed.leases.items():
        if word & (LEASE_HELD | LEASE_WATCHED) and number in observed.mirrors:
            name = observed.names.get(NameKey(NameKind.COUNTER, observed.mirrors[number].counter), "")
            identity = identity_of(name)
            if identity:
                flags[identity] = word & (LEASE_HELD | LEASE_WATCHED)
    return flags


def _counts(maps: Maps, observed: State) -> dict[Identity, Counts]:
    """Of the mirrors that are in the kernel."""
    found = {}
    for counter in {record.counter for record in observed.mirrors.values()}:
        identity = identity_of(observed.names.get(NameKey(NameKind.COUNTER, counter), ""))
        blob = maps.counters.lookup(struct.pack("=I", counter))
        if identity and blob:
            words = memoryview(blob).cast("Q")
            matched, repeated = (
                sum(words[2 * o :: 2 * len(Outcome)].tolist()) for o in (Outcome.MATCHED, Outcome.REPEATED)
            )
            found[identity] = Counts(matched, repeated)
    return found


def _name(identity: Identity) -> str:
    return "/".join(filter(None, (identity.kind, identity.namespace, identity.name)))
