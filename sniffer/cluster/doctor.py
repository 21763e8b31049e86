"""Whether a cluster has what sniffer needs, and whether what is installed works: `sniffer doctor --cluster`."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import sniffer
from sniffer.cluster.client import Client
from sniffer.cluster.leases import NAME as LEASE
from sniffer.errors import ApiError
from sniffer.model.resources import API_VERSION, GROUP, ClusterTrafficMirror, TrafficMirror
from sniffer.model.schema import CRD_KINDS, definition
from sniffer.stats import floors
from sniffer.stats.finding import Finding, Findings, Result

OLDEST = (1, 32)
"""Of Kubernetes, as in the chart."""
LEASE_AGE_S = 60.0
SHOWN = 10
_POLICIES = ("sniffer-use-target", "sniffer-agent-own-node")
_CNIS = {
    "calico-node": "calico",
    "canal": "canal",
    "cilium": "cilium",
    "kube-flannel-ds": "flannel",
    "antrea-agent": "antrea",
    "weave-net": "weave",
    "kube-router": "kube-router",
    "kindnet": "kindnet",
    "aws-node": "aws-cni",
    "azure-cns": "azure-cni",
    "ovnkube-node": "ovn-kubernetes",
    "multus": "multus",
    "kube-multus-ds": "multus",
}
"""By the names of their DaemonSets."""

Document = Mapping[str, Any]


def examine(client: Client, namespace: str) -> Findings:
    """All checks in order, of the sniffer in a namespace. One that may not be made says so, as a warning."""
    try:
        yield from _server(client)
    except ApiError as error:
        fix = "look at --kubeconfig and at the network; a token may have expired"
        yield Finding("api server", Result.FAIL, str(error), fix)
        return
    checks: tuple[tuple[str, Callable[[], Findings]], ...] = (
        ("definitions", lambda: _definitions(client)),
        ("policies", lambda: _policies(client)),
        ("kernels", lambda: _kernels(_items(client, "/api/v1/nodes"))),
        ("cni", lambda: _cni(_items(client, "/apis/apps/v1/daemonsets"))),
        ("agents", lambda: _agents(client, namespace)),
        (
            "reports",
            lambda: _reports(_items(client, f"/apis/{API_VERSION}/sniffernodes"), _items(client, "/api/v1/nodes")),
        ),
        ("controller", lambda: _controller(client, namespace)),
        ("mirrors", lambda: _mirrors(client)),
    )
    for name, check in checks:
        try:
            yield from check()
        except ApiError as error:
            yield Finding(name, Result.WARN, f"not known: {error}", _FIXES.get(error.status, "see the message"))


_FIXES = {
    403: "ask as somebody who may read it (ClusterRoles view and sniffer-view)",
    404: "install it: see definitions, above",
}
"""By HTTP's status."""


def _items(client: Client, path: str) -> list[Document]:
    items: list[Document] = client.get(path).get("items") or []
    return items


def _found(client: Client, path: str) -> Document | None:
    try:
        return client.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def _server(client: Client) -> Findings:
    said = client.get("/version")
    digits = tuple(int("".join(filter(str.isdigit, str(said.get(part, "")))) or 0) for part in ("major", "minor"))
    text = str(said.get("gitVersion"))
    if digits < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Finding("api server", Result.FAIL, f"Kubernetes {text} is older than {oldest}", f"use {oldest} or later")
    else:
        yield Finding("api server", Result.OK, f"Kubernetes {text}")


def _definitions(client: Client) -> Findings:
    fix = "helm upgrade the release, or: sniffer crds | kubectl apply -f -"
    good = True
    for kind in CRD_KINDS:
        name = f"{kind.plural}.{GROUP}"
        there = _found(client, f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        if there is None:
            good = False
            yield Finding("definitions", Result.FAIL, f"{name} is not there", fix)
            continue
        lacking = sorted(_fields(definition(kind)) - _fields(there))
        if lacking:
            good = False
            words = ", ".join(lacking[:SHOWN])
            yield Finding("definitions", Result.WARN, f"{name} is of a former version: it lacks {words}", fix)
    if good:
        yield Finding("definitions", Result.OK, f"all {len(CRD_KINDS)}, as this version has them")


def _fields(crd: Document) -> set[str]:
    """Paths of all properties of a CRD's versions."""

    def below(schema: Document, path: str) -> Iterable[str]:
        for name, one in (schema.get("properties") or {}).items():
            yield f"{path}{name}"
            yield from below(one, f"{path}{name}.")
        if isinstance(schema.get("items"), Mapping):
            yield from below(schema["items"], path)

    return {field for one in crd["spec"]["versions"] for field in below(one["schema"]["openAPIV3Schema"], "")}


def _policies(client: Client) -> Findings:
    group = "/apis/admissionregistration.k8s.io/v1"
    path, bound = f"{group}/validatingadmissionpolicies", f"{group}/validatingadmissionpolicybindings"
    missing = [name for name in _POLICIES if _found(client, f"{path}/{name}") is None]
    bindings = [name for name in _POLICIES if _found(client, f"{bound}/{name}") is None]
    if missing or bindings:
        text = (
            f"{', '.join(dict.fromkeys([*missing, *bindings]))} missing: whoever may write a mirror may use any target"
        )
        yield Finding("policies", Result.FAIL, text, "helm upgrade the release")
    else:
        yield Finding("policies", Result.OK, "both, bound")


def _kernels(nodes: Iterable[Document]) -> Findings:
    """By version, as nodes tell them; only a doctor on the node itself knows which fixes a vendor's kernel has."""
    versions = Counter(str(node["status"]["nodeInfo"]["kernelVersion"]) for node in nodes)
    for release, count in sorted(versions.items()):
        judgement = floors.judge(*floors.version_of(release, ""))
        fix = "" if judgement.result == "ok" else "sniffer doctor on such a node; a newer kernel of its distribution"
        text = f"{release} on {count} node{'s' * (count > 1)}"
        said = text if judgement.result == "ok" else f"{text}: {judgement.text}"
        yield Finding("kernels", Result(judgement.result), said, fix)


def _cni(daemons: Iterable[Document]) -> Findings:
    found = sorted({_CNIS[name] for one in daemons if (name := one["metadata"]["name"]) in _CNIS})
    yield Finding("cni", Result.OK, ", ".join(found) or "none that is known by its DaemonSet")


def _agents(client: Client, namespace: str) -> Findings:
    there = _found(client, f"/apis/apps/v1/namespaces/{namespace}/daemonsets/sniffer-agent")
    if there is None:
        fix = "helm install it, or name its namespace: --namespace"
        yield Finding("agents", Result.FAIL, f"no DaemonSet sniffer-agent in namespace {namespace}", fix)
        return
    status = there.get("status") or {}
    wanted, up = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    look = f"kubectl get pods -n {namespace} -l app.kubernetes.io/component=agent -o wide"
    if not wanted:
        yield Finding("agents", Result.WARN, "no node is selected", "look at agent.nodeSelector of the release")
    elif up < wanted:
        yield Finding("agents", Result.WARN, f"{up} of {wanted} are Ready", look)
    else:
        yield Finding("agents", Result.OK, f"{up} of {wanted} are Ready")


def _reports(reports: Iterable[Document], nodes: Iterable[Document]) -> Findings:
    by_name = {one["metadata"]["name"]: one.get("status") or {} for one in reports}
    names = sorted(node["metadata"]["name"] for node in nodes)
    silent = [name for name in names if name not in by_name]
    if silent:
        fix = "no agent ran there yet: look at its pod, or at agent.nodeSelector"
        yield Finding("reports", Result.WARN, f"no SnifferNode of {_some(silent)}", fix)
    others = sorted({str(one.get("version")) for one in by_name.values()} - {sniffer.__version__, ""})
    if others:
        text = f"agents of version {', '.join(others)}, this is {sniffer.__version__}"
        yield Finding("reports", Result.WARN, text, "an upgrade is under way, or stopped: kubectl rollout status")
    if not silent and not others:
        yield Finding("reports", Result.OK, f"of {len(by_name)} nodes, version {sniffer.__version__}")


def _controller(client: Client, namespace: str) -> Findings:
    look = f"kubectl get pods -n {namespace} -l app.kubernetes.io/component=controller"
    lease = _found(client, f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}")
    spec = (lease or {}).get("spec") or {}
    holder = str(spec.get("holderIdentity") or "").rpartition("_")[0]
    if not holder:
        yield Finding("controller", Result.WARN, "none leads: statuses are not written", look)
        return
    age_s = (datetime.now(UTC) - datetime.fromisoformat(str(spec["renewTime"]))).total_seconds()
    if age_s > LEASE_AGE_S:
        text = f"{holder} leads, and was last heard of {age_s:.0f} s ago (by this machine's clock)"
        yield Finding("controller", Result.WARN, text, look)
    else:
        yield Finding("controller", Result.OK, f"{holder} leads")


def _mirrors(client: Client) -> Findings:
    mirrors = [
        one
        for kind in (TrafficMirror, ClusterTrafficMirror)
        for one in _items(client, f"/apis/{API_VERSION}/{kind.plural}")
    ]
    bad = [(one, said) for one in mirrors if (said := _not_ready(one))]
    for one, said in bad[:SHOWN]:
        metadata = one["metadata"]
        name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
        where = f" -n {metadata['namespace']}" if metadata.get("namespace") else ""
        fix = f"kubectl describe {one.get('kind', 'mirror').lower()} {metadata['name']}{where}"
        yield Finding("mirrors", Result.WARN, f"{name}: {said}", fix)
    if len(bad) > SHOWN:
        yield Finding("mirrors", Result.WARN, f"and {len(bad) - SHOWN} more", "kubectl get sniffer -A")
    if not bad:
        yield Finding("mirrors", Result.OK, f"{len(mirrors)}, none of them not Ready" if mirrors else "none")


def _not_ready(mirror: Document) -> str | None:
    """Why, in words; None: it is, or is not meant to be."""
    conditions = {one["type"]: one for one in (mirror.get("status") or {}).get("conditions", ())}
    ready = conditions.get("Ready")
    if ready is None:
        return "nobody has said anything of it yet"
    if ready["status"] == "True" or ready["reason"] in {"Suspended", "Expired", "TargetSuspended"}:
        return None
    accepted = conditions.get("Accepted", ready)
    why = ready if accepted["status"] == "True" else accepted
    return f"{why['reason']}: {why.get('message', '')}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
