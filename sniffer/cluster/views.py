"""What is kept of the objects that are followed, and what they mean: memory is saved here, and wake-ups."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from pydantic import ValidationError

from sniffer.cluster.listing import Key, Object
from sniffer.model.identity import Identity
from sniffer.model.problem import field_of, printable
from sniffer.model.resources import API_VERSION, Written, WrittenKind
from sniffer.plan.cluster import Pod

WORDS_LENGTH = 200
_METADATA = ("name", "namespace", "uid", "labels", "creationTimestamp", "deletionTimestamp", "generation")
_ENDED = ("Succeeded", "Failed")
_SANDBOX = "PodReadyToStartContainers"
_NODE_ADDRESSES = ("InternalIP", "ExternalIP")


def _metadata(item: Object, names: Iterable[str] = _METADATA) -> dict[str, Any]:
    return {name: item["metadata"][name] for name in names if item["metadata"].get(name)}


def of_mirror(item: Object) -> Object:
    """The status is the controller's business."""
    return {"metadata": _metadata(item), "spec": item.get("spec")}


def of_target(item: Object) -> Object:
    """Of the status, what Services stand for, and that the controller refuses it."""
    told = item.get("status") or {}
    refused = [
        one for one in told.get("conditions") or () if (one.get("type"), one.get("status")) == ("Accepted", "False")
    ]
    status = {name: value for name, value in (("endpoints", told.get("endpoints")), ("conditions", refused)) if value}
    return {"metadata": _metadata(item), "spec": item.get("spec"), **({"status": status} if status else {})}


def of_namespace(item: Object) -> Object:
    """Labels."""
    return {"labels": item["metadata"].get("labels") or {}}


def of_pod(item: Object) -> Object:
    """What `pod` needs."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    sandbox = conditions.get(_SANDBOX, {})
    return {
        "metadata": _metadata(item),
        "addresses": tuple(one["ip"] for one in status.get("podIPs") or () if one.get("ip")),
        "hostNetwork": bool(spec.get("hostNetwork")),
        "ended": status.get("phase") in _ENDED,
        # A cluster that does not have the condition says nothing against the sandbox.
        "sandbox": sandbox.get("status", "True") == "True",
        "since": sandbox.get("lastTransitionTime") or "",
    }


def of_node(item: Object) -> Object:
    """Labels, uid, addresses."""
    addresses = (item.get("status") or {}).get("addresses") or ()
    return {
        "metadata": _metadata(item, ("name", "uid", "labels")),
        "addresses": tuple(one.get("address") for one in addresses if one.get("type") in _NODE_ADDRESSES),
    }


def of_slice(item: Object) -> Object:
    """The addresses of an EndpointSlice."""
    endpoints = item.get("endpoints") or ()
    return {"addresses": tuple(address for one in endpoints for address in one.get("addresses") or ())}


def pod(item: Object) -> Pod | None:
    """None: it has ended."""
    if item["ended"]:
        return None
    metadata = item["metadata"]
    return Pod(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        labels=metadata.get("labels", {}),
        addresses=item["addresses"],
        host_network=item["hostNetwork"],
        sandbox_ready=item["sandbox"],
        created=metadata.get("creationTimestamp", ""),
        sandbox_since=item["since"],
    )


def parsed(items: Iterable[Object]) -> frozenset[str]:
    """What is an address among the `addresses` of nodes or slices, as the kernel would write it."""
    found = set()
    for item in items:
        for address in item["addresses"]:
            with suppress(ValueError):
                found.add(str(ip_address(address)))
    return frozenset(found)


@dataclass(slots=True)
class _Reading:
    """One object as it was read last, and the last good reading."""

    item: Object
    uid: str
    value: Written | None
    fault: str | None


class Readings:
    """The resources of one kind. What cannot be read keeps its last good version, as long as it is the same object."""

    def __init__(self, kind: WrittenKind) -> None:
        self._kind = kind
        self._readings: dict[Key, _Reading] = {}

    def take(self, objects: Mapping[Key, Object]) -> None:
        """Reads what has changed since the last call; equal objects are identical ones (`Reflector`)."""
        readings: dict[Key, _Reading] = {}
        for key, item in objects.items():
            former = self._readings.get(key)
            readings[key] = former if former and former.item is item else self._read(item, former)
        self._readings = readings

    def good(self) -> tuple[Written, ...]:
        """What is in force."""
        return tuple(reading.value for reading in self._readings.values() if reading.value)

    def stale(self) -> dict[Identity, str]:
        """Why a former version is in force."""
        return {self._identity(key): r.fault for key, r in self._readings.items() if r.value and r.fault}

    def refused(self) -> dict[Identity, str]:
        """Why nothing is in force."""
        return {self._identity(key): r.fault for key, r in self._readings.items() if not r.value and r.fault}

    def _identity(self, key: Key) -> Identity:
        return Identity(self._kind.__name__, key[0] or None, key[1])

    def _read(self, item: Object, former: _Reading | None) -> _Reading:
        uid = item["metadata"].get("uid", "")
        try:
            # A newer definition may have fields that this version does not know.
            value = {"apiVersion": API_VERSION, "kind": self._kind.__name__, **item}
            return _Reading(item, uid, self._kind.model_validate(value, extra="ignore"), None)
        except ValidationError as error:
            good = former.value if former and former.uid == uid else None
            return _Reading(item, uid, good, _words(error))


def _words(error: ValidationError) -> str:
    """The first fault in one line."""
    details = error.errors(include_url=False)[0]
    return f"{field_of(details['loc'])}: {printable(details['msg'], WORDS_LENGTH)}"
