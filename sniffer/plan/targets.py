"""Targets as mirrors find them: valid, with the addresses of their Services, and within what targets may have."""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network

from sniffer.model.identity import Identity
from sniffer.model.resources import MirrorTarget
from sniffer.model.target import TargetStatus
from sniffer.plan import admission, verdict
from sniffer.plan.admission import Refusal
from sniffer.plan.cluster import Policy
from sniffer.plan.endpoints import ServiceKey, resolve, services
from sniffer.plan.said import Outcome, acceptance, conditions
from sniffer.plan.views import Object, Stored

Names = set[str]
"""Of targets: what their mirrors are told may be something else now, and so may their own status."""


class Targets:
    """All MirrorTargets. What it is told answers with the names that are touched by it."""

    def __init__(self, policy: Policy) -> None:
        """policy: without the addresses of nodes, which are told."""
        self.stored: dict[str, Stored] = {}
        self.valid: dict[str, MirrorTarget] = {}
        """With the addresses of their Services."""
        self.policy = policy
        """With the addresses of nodes."""
        self._given = policy
        self._ready: dict[ServiceKey, frozenset[str]] = {}
        self._addresses: dict[str, frozenset[str]] = {}
        self._used: set[str] = set()
        self._owned: set[str] = set()

    @property
    def services(self) -> frozenset[ServiceKey]:
        """The Services that targets name."""
        return frozenset(key for target in self.valid.values() for key in services(target))

    @property
    def identities(self) -> set[Identity]:
        """Of all of them, the invalid ones too."""
        return {stored.identity for stored in self.stored.values()}

    def put(self, name: str, stored: Stored | None) -> Names:
        """A target came, changed, or (None) went."""
        former = self.stored.pop(name, None)
        if stored:
            self.stored[name] = stored
            if former and former.reads_as(stored):
                return set()
        return self._renew(name)

    def service(self, key: ServiceKey, ready: frozenset[str] | None) -> Names:
        """The addresses of a Service's ready endpoints; None: not known, what the status says holds."""
        if self._ready.get(key) == ready:
            return set()
        self._ready.pop(key, None)
        if ready is not None:
            self._ready[key] = ready
        users = [name for name, target in self.valid.items() if key in services(target)]
        return {touched for name in users for touched in self._renew(name)}

    def node(self, name: str, addresses: frozenset[str]) -> Names:
        """A node's addresses; none: it went."""
        changed = addresses ^ self._addresses.pop(name, frozenset())
        if addresses:
            self._addresses[name] = addresses
        return set() if changed.isdisjoint(self._used) else self._refuse_nodes()

    def limit(self, policy: Policy) -> Names:
        """As the `policy` of the beginning."""
        if policy == self._given:
            return set()
        self._given = policy
        self._set_policy()
        return {*self.stored}

    def outcome(self, stored: Stored, status: Object, now: datetime) -> Outcome:
        """What the status of one should be, given what it is."""
        target = stored.value if isinstance(stored.value, MirrorTarget) else None
        if target:
            target = self._resolved(target, status)
            refused = admission.target_refusal(target, self.policy)
        else:
            refused = Refusal("Invalid", stored.problem)
        said = verdict.of_target(target, refused)
        resolved = target.status.endpoints if target else ()
        written: Mapping[str, object] = {
            "conditions": conditions(said, stored.generation, status, now),
            "endpoints": [item.model_dump(by_alias=True, mode="json") for item in resolved],
        }
        return Outcome(written, acceptance(said[0], status))

    def _renew(self, name: str) -> Names:
        """Its value, or its addresses, are others."""
        stored = self.stored.get(name)
        self.valid.pop(name, None)
        if stored and isinstance(stored.value, MirrorTarget):
            self.valid[name] = self._resolved(stored.value, stored.status)
        self._used = {address for target in self.valid.values() for address in admission.addresses(target)}
        return {name} | self._refuse_nodes()

    def _resolved(self, target: MirrorTarget, status: Object) -> MirrorTarget:
        return target.model_copy(update={"status": TargetStatus(endpoints=resolve(target, status, self._ready))})

    def _refuse_nodes(self) -> Names:
        """Of the nodes' addresses only those that targets have: each look goes through all that are refused."""
        owned = {address for addresses in self._addresses.values() for address in addresses if address in self._used}
        changed = self._owned ^ owned
        if not changed:
            return set()
        self._owned = owned
        self._set_policy()
        return {name for name, target in self.valid.items() if not changed.isdisjoint(admission.addresses(target))}

    def _set_policy(self) -> None:
        networks = tuple(ip_network(address) for address in sorted(self._owned))
        self.policy = Policy({**self._given.refused, "a node": networks}, self._given.allowed)
