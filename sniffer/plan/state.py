"""What the kernel holds, or should hold.

`Wanted` says it in terms of contents, `State` in terms of ids in maps; desired and observed are both a `State`, and
`ids.contents` reads a `State` back as contents.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sniffer.abi.limits import Guard, PathWord
from sniffer.abi.records import BudgetRecord, EgressRecord, Hook, MirrorRecord, NameKey, OuterKey, Program, TunnelRecord
from sniffer.model.identity import Identity
from sniffer.plan.facts import Mechanism, Relay


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One target as the data path sees it."""

    target: str
    encapsulation: int
    oversize: int
    snap_length: int
    endpoints: tuple[EgressRecord, ...]
    budget: BudgetRecord | None = None


@dataclass(frozen=True, slots=True)
class Mirror:
    """One mirror as the data path sees it; an empty filter is every frame."""

    identity: Identity
    filter: Program
    snap_length: int
    tunnels: tuple[Tunnel, ...]
    one_in: int = 0
    """One of so many frames or flows; 0: all."""
    sampling: int = 0
    budget: BudgetRecord | None = None
    from_pod: bool = False
    """Directions are those of the pod behind the interface."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mirror of the source: the states of docs/status.md."""

    identity: Identity
    state: str
    reason: str | None = None
    message: str | None = None
    interfaces: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    selected: int = 0
    """Pods of this node that the mirror selects."""
    pods: int = 0
    """Those of them whose traffic is mirrored."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The result of a compile."""

    hooks: Mapping[Hook, tuple[Mirror, ...]]
    """Those that mirror nothing are there for their guard."""
    paths: Mapping[EgressRecord, PathWord]
    verdicts: tuple[Verdict, ...] = ()
    guards: Mapping[Hook, Guard] = field(default_factory=dict)
    """Of hooks where copies pass that have no mark and header of ours."""
    outers: frozenset[OuterKey] = frozenset()
    """What those look like; empty where no hook is guarded."""
    ahead: frozenset[Hook] = frozenset()
    """Where a program is attached before it is known whether anything is mirrored there: that takes the kernel long."""
    until: datetime | None = None
    """When the next mirror ends: what time alone changes."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One of our programs on a hook."""

    mechanism: Mechanism
    program: int
    """Its id; 0: a link that is left of an interface that is gone."""


@dataclass(frozen=True, slots=True)
class State:
    """The contents of our maps and hooks. Ids that are absent are free."""

    hooks: Mapping[Hook, int] = field(default_factory=dict)
    """List ids, 0 for none."""
    guards: Mapping[Hook, Guard] = field(default_factory=dict)
    stamps: frozenset[Hook] = frozenset()
    """Hooks on the way out of devices that stamp what they send."""
    outers: frozenset[OuterKey] = frozenset()
    lists: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    filters: Mapping[int, Program] = field(default_factory=dict)
    mirrors: Mapping[int, MirrorRecord] = field(default_factory=dict)
    leases: Mapping[int, int] = field(default_factory=dict)
    """Words: until when, with LEASE_ flags."""
    tunnels: Mapping[int, TunnelRecord] = field(default_factory=dict)
    generations: Mapping[int, int] = field(default_factory=dict)
    """Of cleared tunnels that were in use once."""
    egress: Mapping[int, EgressRecord] = field(default_factory=dict)
    paths: Mapping[int, int] = field(default_factory=dict)
    budgets: Mapping[int, BudgetRecord] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)
    """By counter: words of `labels`."""
    names: Mapping[NameKey, str] = field(default_factory=dict)
    attachments: Mapping[Hook, Attachment] = field(default_factory=dict)
    relay: Relay | None = None
    relay_word: int = 0
    """What the programs are told of the relay: its sending end, and whether it has no ring."""
