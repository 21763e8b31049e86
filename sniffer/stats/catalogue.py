"""Every metric of agent and controller: the one place of their names, labels and words (docs/metrics.md)."""

from dataclasses import dataclass
from enum import StrEnum

from sniffer.abi import limits

MIRROR = ("kind", "mirror_namespace", "mirror")
"""Not `namespace`: Prometheus has that for where it scrapes."""
OTHER = "(other)"
"""Stands for all that have no series of their own; no resource can have such a name."""
TABLES = {
    "hooks": limits.HOOKS_MAX,
    "lists": limits.LISTS_MAX,
    "filters": limits.FILTERS_MAX,
    "mirrors": limits.MIRRORS_MAX,
    "tunnels": limits.TUNNELS_MAX,
    "egress": limits.EGRESS_MAX,
    "names": limits.NAMES_MAX,
    "outers": limits.OUTERS_MAX,
}
"""The maps that can be full, and the entries that they take."""


class Type(StrEnum):
    """As Prometheus has them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` as in a query: counters end in _total."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""


def _counter(name: str, words: str, *labels: str) -> Metric:
    return Metric(f"{name}_total", Type.COUNTER, words, labels)


def _gauge(name: str, words: str, *labels: str) -> Metric:
    return Metric(name, Type.GAUGE, words, labels)


BUILD = _gauge("sniffer_build_info", "1, with the version of sniffer and of its maps.", "component", "version", "abi")

FRAMES = _counter(
    "sniffer_mirror_frames",
    "Frames that a mirror's filter accepted, once for each target, by what became of the copy: sent or dropped.",
    *(*MIRROR, "outcome", "reason"),
)
MATCHED = _counter(
    "sniffer_mirror_matched_frames",
    "Frames that a mirror's filter accepted, once for each target: always the sum of sniffer_mirror_frames_total.",
    *MIRROR,
)
MATCHED_BYTES = _counter("sniffer_mirror_matched_bytes", "Bytes of the frames that matched.", *MIRROR)
SENT_BYTES = _counter(
    "sniffer_mirror_sent_bytes", "Bytes of the copies that were sent, without outer headers; fewer where cut.", *MIRROR
)
TRUNCATED = _counter(
    "sniffer_mirror_truncated_copies", "Copies that were cut to what the underlay has room for.", *MIRROR
)
WIRE = _counter(
    "sniffer_mirror_wire_packets", "Packets handed to the uplink, segments and fragments one by one.", *MIRROR
)
WIRE_BYTES = _counter("sniffer_mirror_wire_bytes", "Bytes handed to the uplink, with outer headers.", *MIRROR)
LOST = _counter(
    "sniffer_mirror_lost_packets", "Packets lost behind the relay, after sent was counted.", *MIRROR, "reason"
)
UNDECIDED = _counter(
    "sniffer_mirror_undecided_frames", "Frames whose filter took too many steps: not matched. Should be 0.", *MIRROR
)
LEASE = _gauge("sniffer_mirror_lease_seconds", "Seconds until the mirror ends by itself; 0: over, or nowhere.", *MIRROR)
MIRRORS = _gauge("sniffer_mirrors", "Mirrors that the agent knows, by state and reason.", *MIRROR, "state", "reason")
ENDPOINTS = _gauge(
    "sniffer_endpoints",
    "Endpoints of targets in use, by state: reachable, unreachable, no_route, rejecting.",
    *("target", "address", "state"),
)
HOOKS = _gauge(
    "sniffer_hooks",
    "Hooks in use, by state: attached, bypassed, missing.",
    *("interface", "direction", "state"),
)
SKIPPED = _counter("sniffer_skipped_frames", "Copies of our own, seen again at a hook and not copied again.")
ENTRIES = _gauge("sniffer_table_entries", "Entries of a map in use.", "table")
CAPACITY = _gauge("sniffer_table_capacity_entries", "Entries that a map takes.", "table")
READABLE = _gauge(
    "sniffer_pins_readable", "1: maps and hooks could be read for this scrape; 0: what they tell is missing."
)

ROUND_S = Metric(
    "sniffer_agent_reconcile_duration_seconds",
    Type.HISTOGRAM,
    "How long the agent's loop took for one look: facts, plan, operations.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
LAG_S = _gauge("sniffer_agent_reconcile_lag_seconds", "How much later than it was due the loop last looked.")
ERRORS = _counter("sniffer_agent_reconcile_errors", "Looks of the loop in which something could not be done.")
LOOKED = _gauge("sniffer_agent_last_reconcile_timestamp_seconds", "When the loop last ended a look.")
CONTACT = _gauge(
    "sniffer_agent_api_last_contact_timestamp_seconds",
    "When all that the agent follows was last known to be as the API server has it; 0: never. A quiet cluster is heard "
    "once a minute.",
)
FRESH = _gauge(
    "sniffer_agent_source_fresh", "1: leases are renewed; 0: the source was silent for longer than its grace."
)
AGENT_FAULTS = _gauge("sniffer_agent_source_faults", "Watches that are not followed now, files that cannot be read.")

WRITES = _counter("sniffer_controller_writes", "Requests that write, by what and outcome.", "what", "outcome")
QUEUE = _gauge("sniffer_controller_queue", "What waits to be looked at or written.", "what")
LEADER = _gauge("sniffer_controller_leader", "1: this replica writes; 0: it stands by.")
CONTROLLER_FAULTS = _gauge("sniffer_controller_watch_faults", "Watches that are not followed now.")
EVENTS_DROPPED = _counter("sniffer_controller_events_dropped", "Events for which the queue had no room.")
DESELECTED = _counter(
    "sniffer_controller_deselected_pods", "Pods that left a ClusterTrafficMirror by a change of their labels."
)
TURNED = _gauge("sniffer_controller_last_turn_timestamp_seconds", "When the controller's loop last began a turn.")

COMMON = (BUILD,)
NODE = (
    *(FRAMES, MATCHED, MATCHED_BYTES, SENT_BYTES, TRUNCATED, WIRE, WIRE_BYTES, LOST, UNDECIDED, LEASE, MIRRORS),
    *(ENDPOINTS, HOOKS, SKIPPED, ENTRIES, CAPACITY, READABLE),
)
AGENT = (ROUND_S, LAG_S, ERRORS, LOOKED, CONTACT, FRESH, AGENT_FAULTS)
CONTROLLER = (WRITES, QUEUE, LEADER, CONTROLLER_FAULTS, EVENTS_DROPPED, DESELECTED, TURNED)
ALL = (*COMMON, *NODE, *AGENT, *CONTROLLER)
