"""`kubectl sniffer doctor`: whether the cluster and each of its nodes can mirror, with fixes."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import sniffer
from sniffer.errors import SnifferError
from sniffer.plugin.kubectl import CONTROLLERS, Kubectl, Object, is_ready
from sniffer.plugin.status import KINDS, NODES, TARGETS
from sniffer.plugin.terminal import ASKING, ask_all, progress, show, table

OK, WARN, FAIL = "ok", "warn", "fail"
_DEFINITIONS = (*KINDS.values(), TARGETS, NODES)
_VERSION = "v1alpha1"
_ASKED = 200
"""Nodes; eight at a time, a second each."""
INSTALL = "helm upgrade --install sniffer deploy/helm/sniffer -n sniffer-system ... (README, In a cluster)"


@dataclass(frozen=True, slots=True)
class Finding:
    """`result` is ok, warn or fail; `fix` says what to do about the latter two."""

    result: str
    check: str
    text: str
    fix: str = ""


def doctor(kubectl: Kubectl, *, as_json: bool) -> int:
    """Prints what was found: 0 all fine, 1 something to know, 3 this cluster, or a node of it, cannot mirror."""
    with progress(ASKING) as tell:
        found = list(_findings(kubectl, tell))
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        rows = [(one.result, one.check, one.text, one.fix) for one in found]
        show(table(("", "CHECK", "FOUND", "FIX"), rows, coloured=0))
    results = {one.result for one in found}
    return 3 if FAIL in results else 1 if WARN in results else 0


def _findings(kubectl: Kubectl, tell: Callable[[str], None]) -> Iterator[Finding]:
    """KubectlError: there is no answer at all."""
    yield _server(kubectl)
    yield from _as_allowed("definitions", _definitions, kubectl)
    agents = kubectl.agents()
    yield from _as_allowed("controller", _controllers, kubectl, agents)
    yield from _as_allowed("agents", _coverage, kubectl, agents)
    yield from _as_allowed("reports", _reports, kubectl, agents)
    ready = {pod["spec"]["nodeName"]: pod for pod in agents if is_ready(pod)}
    answers = ask_all("asking nodes", sorted(ready)[:_ASKED], partial(_of_node, kubectl, ready), tell)
    if len(answers) < len(ready):
        fix = "kubectl exec into the agent of another: sniffer doctor"
        yield Finding(WARN, "nodes asked", f"{len(answers)} of {len(ready)}", fix)
    for node in answers:
        yield from answers[node]


def _as_allowed(check: str, examine: Callable[..., Iterable[Finding]], *subjects: object) -> Iterable[Finding]:
    """What it finds, or that it may not look."""
    try:
        return list(examine(*subjects))
    except SnifferError as error:
        return [Finding(WARN, check, f"cannot be looked at: {error}", "ask an administrator, or for the right to list")]


def _server(kubectl: Kubectl) -> Finding:
    told = json.loads(kubectl.run("version", "-o", "json"))
    server, client = (told.get(name, {}).get("gitVersion", "?") for name in ("serverVersion", "clientVersion"))
    return Finding(OK, "versions", f"API server {server}, kubectl {client}, this plugin {sniffer.__version__}")


def _definitions(kubectl: Kubectl) -> Iterator[Finding]:
    stored = {item["metadata"]["name"]: item for item in kubectl.listed("customresourcedefinitions")}
    missing = [name for name in _DEFINITIONS if name not in stored]
    if missing:
        yield Finding(FAIL, "definitions", f"missing: {', '.join(missing)}", INSTALL)
        return
    for name in _DEFINITIONS:
        served = [one["name"] for one in stored[name]["spec"]["versions"] if one.get("served")]
        if _VERSION not in served:
            yield Finding(FAIL, "definitions", f"{name} is served as {', '.join(served)}, not {_VERSION}", INSTALL)
            return
    yield Finding(OK, "definitions", f"all {len(_DEFINITIONS)}, {_VERSION}")


def _controllers(kubectl: Kubectl, agents: Iterable[Object]) -> Iterator[Finding]:
    """Those beside agents, where there are any: the labels alone anybody can have."""
    homes = {pod["metadata"]["namespace"] for pod in agents}
    listed = kubectl.listed("pods", "-A", "-l", CONTROLLERS)
    pods = [pod for pod in listed if not homes or pod["metadata"]["namespace"] in homes]
    ready = sum(map(is_ready, pods))
    if ready:
        yield Finding(OK, "controller", f"{ready} of {len(pods)} pods ready")
        return
    fix = "kubectl describe pods -A -l app.kubernetes.io/component=controller; mirroring goes on, statuses grow old"
    yield Finding(WARN, "controller", f"none of {len(pods)} pods is ready", fix if pods else INSTALL)


def _coverage(kubectl: Kubectl, agents: Iterable[Object]) -> Iterator[Finding]:
    """Nodes without an agent that is ready, and why, as far as the pods tell."""
    nodes = kubectl.listed("nodes")
    by_node: dict[str, list[Object]] = {}
    for pod in agents:
        by_node.setdefault(pod["spec"].get("nodeName", ""), []).append(pod)
    names = [node["metadata"]["name"] for node in nodes]
    ready = [name for name in names if any(map(is_ready, by_node.get(name, ())))]
    if names and len(ready) == len(names):
        yield Finding(OK, "agents", f"ready on all {len(names)} nodes")
    elif ready:
        yield Finding(WARN, "agents", f"ready on {len(ready)} of {len(names)} nodes", "see the nodes below")
    else:
        yield Finding(FAIL, "agents", f"ready on none of {len(names)} nodes", INSTALL)
    for name in (name for name in names if name not in ready):
        pods = by_node.get(name)
        if pods:
            yield Finding(WARN, f"node {name}", f"agent not ready: {_why(pods[0])}", f"kubectl logs {_logs(pods[0])}")
        else:
            fix = "none, if it is not meant to have one; else see agent.nodeSelector and agent.tolerations"
            yield Finding(WARN, f"node {name}", "no agent", fix)


def _why(pod: Object) -> str:
    """The first container that does not run, in the kubelet's words; else the pod's own."""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        for told in (container.get("state") or {}).values():
            if told.get("reason"):
                return f"{told['reason']} {told.get('message', '')}".strip()
    return str(status.get("message") or status.get("phase") or "no status")


def _logs(pod: Object) -> str:
    return f"-n {pod['metadata']['namespace']} {pod['metadata']['name']}"


def _reports(kubectl: Kubectl, agents: Iterable[Object]) -> Iterator[Finding]:
    """What the agents say of themselves: every one that is ready has written its SnifferNode."""
    reports = {item["metadata"]["name"]: item.get("status") or {} for item in kubectl.listed(NODES)}
    silent = sorted({pod["spec"]["nodeName"] for pod in agents if is_ready(pod)} - reports.keys())
    if silent:
        fix = "kubectl sniffer logs; its ServiceAccount may lack the right"
        yield Finding(WARN, "reports", f"no SnifferNode of {', '.join(silent)}", fix)
    for node, status in sorted(reports.items()):
        if status.get("state") == "Refused":
            fix = "see what it says; agents of the chart run there with agent.allowKernel"
            yield Finding(FAIL, f"node {node}", status.get("message") or "refused", fix)
    versions = sorted({status.get("version", "?") for status in reports.values()} or {"none"})
    same = versions in ([sniffer.__version__], ["none"])
    fix = "" if same else "finish the upgrade; get this plugin from the cluster anew (docs/plugin.md)"
    yield Finding(OK if same else WARN, "agents' version", ", ".join(versions), fix)


def _of_node(kubectl: Kubectl, agents: Mapping[str, Object], node: str) -> list[Finding]:
    """`sniffer doctor` there: what is not fine, or one line."""
    check = f"node {node}"
    try:
        told = kubectl.ask(agents[node], "sniffer", "doctor", "--json")
        found = [Finding(one["result"], f"{check}, {one['check']}", one["text"], one["fix"]) for one in told]
    except SnifferError as error:
        fix = "the right to exec into sniffer's agents is needed for this part"
        return [Finding(WARN, check, f"cannot be asked: {error}", fix)]
    bad = [one for one in found if one.result != OK]
    return bad or [Finding(OK, check, f"all {len(found)} checks of the node are fine")]
