"""The steps of a plan: data, so that they can be printed, compared and applied by one `match`.

Each is safe to repeat.
"""

from dataclasses import dataclass

from sniffer.abi.limits import Guard
from sniffer.abi.records import BudgetRecord, EgressRecord, Hook, MirrorRecord, NameKey, OuterKey, Program, TunnelRecord
from sniffer.plan.facts import Mechanism


@dataclass(frozen=True, slots=True)
class CreateRelay:
    """Create or repair the relay; what depends on its ifindex is planned at the next look."""


@dataclass(frozen=True, slots=True)
class AttachRing:
    """The XDP program on the relay's receiving end."""

    ifindex: int


@dataclass(frozen=True, slots=True)
class SetRelay:
    """Tell the programs the relay's sending end, and whether it has no ring: the word of `relay`."""

    word: int


@dataclass(frozen=True, slots=True)
class SetLease:
    """One word: mirror `id` is valid until `until_ns` of CLOCK_MONOTONIC, with LEASE_ flags; 0 ends it."""

    id: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class SetPath:
    """One word: the state of an endpoint's path (abi PathWord)."""

    id: int
    word: int


@dataclass(frozen=True, slots=True)
class SetLabel:
    """One word: what the copies that a counter counts are called (abi LABEL_MIRROR_SHIFT); 0 forgets it."""

    id: int
    word: int


@dataclass(frozen=True, slots=True)
class PutName:
    """Write a text of `names`."""

    key: NameKey
    text: str


@dataclass(frozen=True, slots=True)
class PutEgress:
    """Write a record that nothing refers to yet, as do the other Puts of arrays."""

    id: int
    record: EgressRecord


@dataclass(frozen=True, slots=True)
class PutBudget:
    """See PutEgress. Nothing of it is used up."""

    id: int
    record: BudgetRecord


@dataclass(frozen=True, slots=True)
class PutTunnel:
    """See PutEgress."""

    id: int
    record: TunnelRecord


@dataclass(frozen=True, slots=True)
class PutFilter:
    """See PutEgress."""

    id: int
    program: Program


@dataclass(frozen=True, slots=True)
class PutMirror:
    """See PutEgress."""

    id: int
    record: MirrorRecord


@dataclass(frozen=True, slots=True)
class PutList:
    """See PutEgress."""

    id: int
    mirrors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetHook:
    """One word: the hook's list from now on, and which copies pass there."""

    hook: Hook
    list: int
    guard: Guard = Guard.NONE
    stamps: bool = False
    """Whether PTP's event packets are left out there."""


@dataclass(frozen=True, slots=True)
class RemoveHook:
    """The hook mirrors nothing from now on."""

    hook: Hook


@dataclass(frozen=True, slots=True)
class Attach:
    """Attach a program to a hook, or replace ours that is there."""

    hook: Hook
    mechanism: Mechanism
    program: str
    ahead: bool = False
    """Nothing is mirrored there yet."""


@dataclass(frozen=True, slots=True)
class Detach:
    """Take our program off a hook, nobody else's."""

    hook: Hook
    mechanism: Mechanism
    gone: bool = False
    """Its interface is: only the pin is left."""


@dataclass(frozen=True, slots=True)
class Grace:
    """Wait until no program can still be reading what was unlinked before."""


@dataclass(frozen=True, slots=True)
class Clear:
    """Free an id of the map `table`; nothing refers to it. A tunnel keeps its generation."""

    table: str
    id: int


@dataclass(frozen=True, slots=True)
class RemoveName:
    """Forget a name; a counter's tallies are set to zero first."""

    key: NameKey


@dataclass(frozen=True, slots=True)
class PutOuter:
    """Know copies of other nodes by this, too."""

    key: OuterKey


@dataclass(frozen=True, slots=True)
class RemoveOuter:
    """The reverse."""

    key: OuterKey


Op = (
    CreateRelay
    | AttachRing
    | SetRelay
    | SetLease
    | SetPath
    | SetLabel
    | PutName
    | PutEgress
    | PutBudget
    | PutTunnel
    | PutFilter
    | PutMirror
    | PutList
    | SetHook
    | RemoveHook
    | Attach
    | Detach
    | Grace
    | Clear
    | RemoveName
    | PutOuter
    | RemoveOuter
)
Plan = tuple[Op, ...]
