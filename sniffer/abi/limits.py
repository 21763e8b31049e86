"""The constants of bpf/sniffer.h. A test compares each with the header."""

from enum import IntEnum, IntFlag

ABI = 2

HOOKS_MAX = 8192
HOOKS_ROW = 8
HOOKS_PROBES = 16
HOOKS_STRIDE = 1021
LISTS_MAX = 2048
FILTERS_MAX = 2048
MIRRORS_MAX = 4096
TUNNELS_MAX = 1024
EGRESS_MAX = 2048
COUNTERS_MAX = 2048
BUDGETS_MAX = 2048
NAMES_MAX = 8192
OUTERS_MAX = 16384
SEQUENCES_MAX = 2048

LIST_LENGTH = 16
PROGRAM_LENGTH = 512
TARGETS_LENGTH = 4
ENDPOINTS_LENGTH = 8
COPIES_LIMIT = 16
TEMPLATE_LENGTH = 112
NAME_LENGTH = 1016
FLIGHT_LIMIT = 256
FRAME_LIMIT = 16000

BUDGET_UNITS_PER_NS = 16
BUDGET_BYTE_FRACTION = 256

CODE_RULE = 0x1000
RELAY_SHARED = 1 << 32
HOOK_GUARD_SHIFT = 29
HOOK_STAMPS = 0x10000000
HOOK_LIST_MASK = 0x0FFFFFFF
LEASE_HELD = 1 << 63
LEASE_WATCHED = 1 << 62
LEASE_FLAGS_SHIFT = 62
OUTER_GRE_KEY = 0x2000
LABEL_MIRROR_SHIFT = 32
MARK_COPY = 0x5E1F0000
MARK_COPY_MASK = 0xFFFF0000
GENERATIONS = 1024


class Direction(IntEnum):
    """Of the interface, never of the pod."""

    INGRESS = 0
    EGRESS = 1


class Action(IntEnum):
    """What a matching rule decides."""

    SKIP = 0
    MIRROR = 1


class Sampling(IntEnum):
    """What one in so many is chosen of."""

    FLOW = 0
    PACKET = 1


class Encapsulation(IntEnum):
    """How copies are wrapped."""

    NONE = 0
    VXLAN = 1
    GRE = 2
    GENEVE = 3
    ERSPAN2 = 4
    ERSPAN3 = 5


class EgressFlag(IntFlag):
    """What the programs do with an outer header beside filling it in."""

    IPV6 = 1
    SEQUENCE = 2
    DSCP = 4
    CHECKSUM = 8
    DONT_FRAGMENT = 16


class Oversize(IntEnum):
    """What becomes of a copy that does not fit the underlay's MTU."""

    SEGMENT = 0
    DROP = 1
    TRUNCATE = 2


class PathWord(IntEnum):
    """The word of `paths`, by egress id."""

    NONE = 0
    REACHABLE = 1
    UNREACHABLE = 2
    NO_ROUTE = 3
    REJECTING = 4


class Guard(IntEnum):
    """Which copies pass a hook beside those with our mark and header."""

    NONE = 0
    NODE = 1
    ANALYZER = 2
    REFUSALS = 3


class OuterKind(IntEnum):
    """What a key of `outers` describes."""

    NODE = 1
    HEADER = 2
    LATER = 3


class NameKind(IntEnum):
    """What a text in `names` is about."""

    NODE = 0
    COUNTER = 1
    TUNNEL = 2
    VERDICT = 3


class Outcome(IntEnum):
    """Index of a tally in `counters`."""

    MATCHED = 0
    SENT = 1
    DROPPED_RATE_LIMIT = 2
    DROPPED_SAMPLED_OUT = 3
    DROPPED_OVERSIZE = 4
    DROPPED_TOO_BIG = 5
    DROPPED_NO_ROUTE = 6
    DROPPED_NO_NEIGHBOUR = 7
    DROPPED_NO_MEMORY = 8
    DROPPED_RELAY_DOWN = 9
    DROPPED_COPY_LIMIT = 10
    DROPPED_PTP = 11
    DROPPED_STORM = 12
    WIRE = 13
    LOST_NO_MEMORY = 14
    LOST_OVERSIZE = 15
    LOST_NO_ROUTE = 16
    LOST_NO_NEIGHBOUR = 17
    LOST_STALE = 18
    RELAYED = 19
    ARRIVED = 20
    SKIPPED = 21
    TURNS = 22
    TRUNCATED = 23
    REPEATED = 24
