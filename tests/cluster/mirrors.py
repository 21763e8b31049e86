"""Mirrors and targets as people write them, and what tests ask of them in a cluster with sniffer installed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.cluster.api import Document
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster, condition
from tests.cluster.pod import Pod
from tests.numbered import VXLAN, Datagram, datagrams, numbers
from tests.traffic import Background
from tests.wire import Capture, Frame

VERSION = "sniffer.dev/v1alpha1"
VNI = 4242
ANALYZER = "10.200.0.100"


def target(name: str, address: str = ANALYZER, vni: int = VNI, **spec: Any) -> Document:
    """A MirrorTarget, VXLAN unless the spec says otherwise, granted to every namespace."""
    whole = {"encapsulation": {"vxlan": {"vni": vni}}, "endpoints": [{"address": address}], "allowedNamespaces": {}}
    return {"apiVersion": VERSION, "kind": "MirrorTarget", "metadata": {"name": name}, "spec": whole | spec}


def mirror(
    name: str, namespace: str, targets: Sequence[str], labels: Mapping[str, str] | None = None, **spec: Any
) -> Document:
    """A TrafficMirror of the pods with these labels, by default of all in its namespace."""
    selector = {"matchLabels": dict(labels)} if labels else {}
    whole = {"podSelector": selector, "targetRefs": [{"name": one} for one in targets]}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": VERSION, "kind": "TrafficMirror", "metadata": metadata, "spec": whole | spec}


@contextmanager
def applied(cluster: Cluster, *documents: Document) -> Iterator[None]:
    """These resources; deleted at the end."""
    cluster.apply(*documents)
    try:
        yield
    finally:
        for one in reversed(documents):
            metadata = one["metadata"]
            cluster.delete(one["kind"], metadata["name"], metadata.get("namespace"))


def ready(cluster: Cluster, kind: str, name: str, namespace: str | None = None, timeout: float = 15.0) -> Document:
    """Waits until a mirror is Ready at its present generation, and returns it."""

    def asked() -> Document | None:
        found = cluster.get(kind, name, namespace)
        conditions = {one["type"]: one for one in found.get("status", {}).get("conditions", ())}
        now = conditions.get("Ready", {}).get("observedGeneration") == found["metadata"]["generation"]
        return found if now and condition(found, "Ready") else None

    try:
        found = cluster.wait(asked, timeout, f"{kind} {name} Ready")
    except AssertionError as error:
        status = cluster.get(kind, name, namespace).get("status")
        raise AssertionError(f"{error}\n{status}\n{words_of(cluster)}") from None
    assert found is not None
    return found


def words_of(cluster: Cluster) -> str:
    """What agents and controllers say, for people who look for a fault."""
    said = [cluster.kubectl("get", "sniffernodes", "-o", "yaml", check=False)]
    for component in ("agent", "controller"):
        selector = f"app.kubernetes.io/component={component}"
        said.append(cluster.kubectl("logs", "-n", NAMESPACE, "-l", selector, "--prefix", "--tail=30", check=False))
    return "\n".join(said)


def condition_of(document: Document, kind: str) -> Document:
    """One condition of an object; {} where it has none of this type."""
    conditions = document.get("status", {}).get("conditions", ())
    return next((one for one in conditions if one["type"] == kind), {})


def copies(frames: Sequence[Frame], vni: int = VNI) -> list[Datagram]:
    """The numbered datagrams among the copies of one VNI."""
    return [one for one in datagrams(frames, VXLAN) if one.vni == vni]


def assert_exact(sent: Sequence[Datagram], received: Sequence[Datagram], since: float, until: float) -> None:
    """Every datagram that was sent between two moments was copied once, in order; when both were seen tells."""
    wanted = [one.number for one in sent if since < one.when < until]
    assert wanted, "nothing was sent meanwhile"
    first, last = wanted[0], wanted[-1]
    got = [number for number in numbers(received) if first <= number <= last]
    missing = sorted(set(wanted) - set(got))
    assert not missing, f"{len(missing)} of {len(wanted)} copies are missing: {missing[:10]}"
    assert len(got) == len(set(got)), f"{len(got) - len(set(got))} copies came twice"
    assert got == sorted(got), "copies out of order"


@contextmanager
def stream(client: Pod, server: Pod, rate: int = 500, size: int = 200, port: int = 9) -> Iterator[Background]:
    """Numbered datagrams from one pod to another, until the end."""
    options = {"dst": server.address, "port": port, "size": size, "rate": rate, "seconds": 600}
    with Background(client.netns, **options) as load:
        yield load


def wait_for_copy(capture: Capture, since: float, timeout: float, vni: int = VNI) -> float:
    """Seconds from `since` (monotonic) to the first copy after it."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found = [one for one in copies(capture.frames, vni) if one.when > since]
        if found:
            return found[0].when - since
        time.sleep(0.02)
    raise AssertionError(f"no copy within {timeout} s")
