"""Objects as the API server tells them -> what the roll-up reads of them. What is not as expected is left out, never an
exception: an agent, or an older version, may have written it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sniffer.model.identity import Identity
from sniffer.model.node import NodeState, NodeStatus
from sniffer.model.problem import field_of, printable
from sniffer.model.resources import KINDS, Written
from sniffer.model.selector import Labels
from sniffer.model.target import Address

Object = Mapping[str, Any]
"""JSON of one object."""
Key = tuple[str, str]
"""Namespace (or ""), name."""

AGENT_LABELS = {"app.kubernetes.io/name": "sniffer", "app.kubernetes.io/component": "agent"}
ERRORS_NAMED = 3
WORDS_LENGTH = 200

_ADDRESS: TypeAdapter[str] = TypeAdapter(Address)


@dataclass(frozen=True, slots=True)
class Stored:
    """A mirror or target of the API server; `value` is None, and `problem` says why, where it is not valid."""

    identity: Identity
    uid: str
    resource_version: str
    generation: int
    value: Written | None
    problem: str
    status: Object

    def reads_as(self, other: "Stored") -> bool:
        """Whether only what we do not read, or write ourselves, differs."""
        return (self.uid, self.problem) == (other.uid, other.problem) and self.value is other.value


def stored(kind: str, raw: Object, former: Stored | None) -> Stored:
    """Reads an object of a kind of KINDS; `former`: what was read of it before, whose value holds for a generation."""
    metadata = raw["metadata"]
    identity = Identity(kind, metadata.get("namespace"), metadata["name"])
    uid, generation = str(metadata.get("uid", "")), _number(metadata.get("generation"))
    status = raw.get("status")
    if former and (former.uid, former.generation) == (uid, generation):
        value, problem = former.value, former.problem
    else:
        value, problem = _value(kind, raw)
    version = str(metadata.get("resourceVersion", ""))
    return Stored(identity, uid, version, generation, value, problem, status if isinstance(status, Mapping) else {})


def _value(kind: str, raw: Object) -> tuple[Written | None, str]:
    # Its status is ours: taken from what we know, never from what is written there.
    spec = {name: item for name, item in raw.items() if name != "status"}
    try:
        return KINDS[kind].model_validate(spec, by_alias=True, by_name=False, extra="ignore"), ""
    except ValidationError as error:
        return None, _words(error)


def _words(error: ValidationError) -> str:
    found = []
    for details in error.errors(include_url=False, include_input=False):
        context = details.get("ctx", {})
        path = tuple(step for step in details["loc"] if step != "[key]")
        if details["type"] == "refused":
            given = f"given {context['given']}, " if context["given"] else ""
            found.append(f"{field_of(path)}: {given}allowed {context['allowed']}")
        else:
            found.append(f"{field_of(path)}: {details['msg']}")
    more = f"; {len(found) - ERRORS_NAMED} more" if len(found) > ERRORS_NAMED else ""
    return "; ".join(printable(words, WORDS_LENGTH) for words in found[:ERRORS_NAMED]) + more


@dataclass(frozen=True, slots=True)
class PlacedPod:
    """A pod that has a node and has neither succeeded nor failed."""

    uid: str
    namespace: str
    name: str
    labels: Labels
    node: str
    host_network: bool


def placed_pod(raw: Object) -> PlacedPod | None:
    """None: nothing of it runs anywhere."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    phase = (raw.get("status") or {}).get("phase")
    node = spec.get("nodeName")
    if not node or phase in ("Succeeded", "Failed"):
        return None
    labels = metadata.get("labels") or {}
    host_network = spec.get("hostNetwork") is True
    return PlacedPod(metadata.get("uid", ""), metadata["namespace"], metadata["name"], labels, node, host_network)


def ready_agent(raw: Object) -> tuple[str, bool] | None:
    """The node of an agent's pod, and whether it is Ready; None: it is no agent, or not placed yet."""
    labels = raw["metadata"].get("labels") or {}
    node = (raw.get("spec") or {}).get("nodeName")
    if not node or any(labels.get(key) != value for key, value in AGENT_LABELS.items()):
        return None
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return node, any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def node_addresses(raw: Object) -> frozenset[str]:
    """A Node's own addresses, not its names."""
    listed = (raw.get("status") or {}).get("addresses") or ()
    return frozenset(item["address"] for item in listed if item.get("type") in ("InternalIP", "ExternalIP"))


@dataclass(frozen=True, slots=True)
class Entry:
    """What a node says of one mirror."""

    generation: int
    state: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a node's agent says: by the mirror's uid."""

    clean: bool
    """Everything of sniffer was removed from the node."""
    mirrors: Mapping[str, Entry]


def node_report(raw: Object) -> Report | None:
    """None: it has not said anything that can be read."""
    try:
        status = NodeStatus.model_validate(raw.get("status") or {}, by_alias=True, by_name=False, extra="ignore")
    except ValidationError:
        return None
    entries = {
        mirror.uid: Entry(mirror.generation, mirror.state, mirror.reason or "", mirror.message or "")
        for mirror in status.mirrors
    }
    return Report(status.state is NodeState.CLEAN, entries)


def ready_addresses(slices: Iterable[Object]) -> frozenset[str]:
    """Addresses of the ready endpoints of one Service's EndpointSlices, those that an analyzer can have.

    Of a Service that has both, only the IPv4 ones: they are the same pods.
    """
    found: dict[str, set[str]] = {"IPv4": set(), "IPv6": set()}
    for item in slices:
        addresses = found.get(item.get("addressType", ""))
        if addresses is None:
            continue
        for endpoint in item.get("endpoints") or ():
            # Absent means unknown, and unknown means ready (discovery.k8s.io/v1 EndpointConditions).
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                addresses.update(filter(_is_address, endpoint.get("addresses") or ()))
    return frozenset(found["IPv4"] or found["IPv6"])


def _is_address(text: object) -> bool:
    try:
        _ADDRESS.validate_python(text)
    except ValidationError:
        return False
    return True


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
