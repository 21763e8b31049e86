"""Resources of a cluster, its pods and namespaces, to hooks and verdicts: who may mirror what, where to, until when."""

import json
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Network
from typing import Any

import pytest

from sniffer.abi.limits import LIST_LENGTH, Direction, Guard, OuterKind
from sniffer.abi.records import Hook
from sniffer.model.identity import Identity
from sniffer.model.resources import KINDS, MirrorTarget, SnifferNode
from sniffer.plan.cluster import Binding, Cluster, Pod, Policy
from sniffer.plan.compile import Sources, compile_sources, hold_waiting
from sniffer.plan.facts import Facts, Mechanism
from sniffer.plan.report import report
from sniffer.plan.state import Verdict, Wanted
from tests.agent import VERSION, Document
from tests.agent import mirror as cluster_mirror
from tests.agent import target as open_target
from tests.unit.test_compile import LINKS, link, paths

NAMESPACES = {
    "shop": {"kubernetes.io/metadata.name": "shop", "team": "shop"},
    "bank": {"kubernetes.io/metadata.name": "bank", "team": "bank"},
    "vault": {"kubernetes.io/metadata.name": "vault", "sniffer.dev/protected": "true"},
    "kube-system": {"kubernetes.io/metadata.name": "kube-system"},
}
BOUND = (link(20, "veth20"), link(21, "veth21"), link(22, "veth22"), link(23, "veth23"))


def pod(number: int, namespace: str = "shop", host_network: bool = False, **labels: str) -> Pod:
    """web-N with the address 10.244.1.N; bound to vethN in FACTS below."""
    labels = labels or {"app": "web"}
    address = (f"10.244.1.{number}",)
    return Pod(f"uid-{number}", namespace, f"web-{number}", labels, address, host_network, True, "2026-01-01T00:00:00Z")


PODS = (pod(20), pod(21, app="db"), pod(22, "bank"), pod(23, "kube-system"), pod(24, "shop", True, app="node"))
ANYWHERE = Policy()
BINDINGS = {f"uid-{n}": Binding((n,), None, n) for n in range(20, 24)} | {"uid-24": Binding((), "HostNetwork")}


def target(name: str = "ana", address: str = "10.9.0.2", **spec: Any) -> Document:
    """A target that is granted to everybody."""
    return open_target(name, address, **({"allowedNamespaces": {}} | spec))


def mirror(name: str = "web", namespace: str = "shop", created: str | None = None, **spec: Any) -> Document:
    """A TrafficMirror of every pod of its namespace."""
    metadata: Document = {"name": name, "namespace": namespace, "uid": f"uid-of-{name}", "generation": 3}
    if created:
        metadata["creationTimestamp"] = created
    spec = {"podSelector": {}, "targetRefs": [{"name": "ana"}]} | spec
    return {"apiVersion": VERSION, "kind": "TrafficMirror", "metadata": metadata, "spec": spec}


def wide(name: str = "all", **spec: Any) -> Document:
    """A ClusterTrafficMirror of pods."""
    document = cluster_mirror(name, ["x"], **({"podSelector": {}} | spec))
    del document["spec"]["interfaces"]
    return document


def facts(bindings: dict[str, Binding] | None = None, at: str = "2026-06-01T00:00:00Z") -> Facts:
    return Facts(
        10**12,
        60 * 10**9,
        LINKS + BOUND,
        paths(),
        None,
        Mechanism.TCX,
        {},
        BINDINGS if bindings is None else bindings,
        datetime.fromisoformat(at),
    )


def sources(*documents: Document, pods: tuple[Pod, ...] = PODS, policy: Policy = ANYWHERE) -> Sources:
    values = [KINDS[one["kind"]].model_validate(one) for one in documents]
    return Sources(
        tuple(value for value in values if isinstance(value, MirrorTarget)),
        tuple(value for value in values if not isinstance(value, MirrorTarget)),
        cluster=Cluster("n1", {"pool": "edge"}, NAMESPACES, pods, policy=policy),
    )


def compiled(*documents: Document, **fields: Any) -> Wanted:
    return compile_sources(sources(*documents, **fields), facts())


def verdict(wanted: Wanted, name: str = "web") -> Verdict:
    (found,) = (one for one in wanted.verdicts if one.identity.name == name)
    return found


def interfaces(wanted: Wanted) -> set[int]:
    return {hook.ifindex for hook in wanted.hooks}


def test_pods_of_the_mirrors_own_namespace() -> None:
    wanted = compiled(target(), mirror(podSelector={"matchLabels": {"app": "web"}}))
    assert interfaces(wanted) == {20}
    one = verdict(wanted)
    assert (one.state, one.reason, one.interfaces, one.selected, one.pods) == ("Programmed", None, ("veth20",), 1, 1)


def test_an_empty_selector_means_every_pod_of_the_namespace_and_no_other() -> None:
    """G1, F13."""
    wanted = compiled(target(), mirror(podSelector={}))
    assert interfaces(wanted) == {20, 21}


@pytest.mark.parametrize(
    ("direction", "expected"),
    [("Ingress", {Direction.EGRESS}), ("Egress", {Direction.INGRESS}), ("Both", set(Direction))],
)
def test_the_direction_is_the_pods(direction: str, expected: set[Direction]) -> None:
    wanted = compiled(target(), mirror(direction=direction, podSelector={"matchLabels": {"app": "web"}}))
    assert set(wanted.hooks) == {Hook(20, one) for one in expected}


def test_the_direction_is_the_interfaces_where_interfaces_are_named() -> None:
    wanted = compiled(target(), cluster_mirror("all", ["pod0"], direction="Ingress"))
    assert set(wanted.hooks) == {Hook(10, Direction.INGRESS)}


def test_a_pod_in_the_nodes_network_is_refused_and_named() -> None:
    """G9, D13."""
    wanted = compiled(target(), mirror(podSelector={"matchLabels": {"app": "node"}}))
    one = verdict(wanted)
    assert (one.state, one.reason, one.selected, one.pods) == ("Pending", "HostNetwork", 1, 0)
    assert one.message == "shop/web-24: uses the node's network"
    assert not wanted.hooks


def test_a_pod_behind_an_interface_without_an_ethernet_header() -> None:
    """C30, D14: netkit in its L3 mode; pods behind others are mirrored."""
    bare = (replace(BOUND[0], arphrd=65534), *BOUND[1:])
    one = verdict(wanted := compile_sources(sources(target(), mirror()), replace(facts(), links=(*LINKS, *bare))))
    assert (one.state, one.reason, one.selected, one.pods) == ("Programmed", "HostNetwork", 3, 1)
    assert one.message == "shop/web-24: uses the node's network; shop/web-20: its interface has no Ethernet header"
    assert {hook.ifindex for hook in wanted.hooks} == {21}


def test_what_can_be_mirrored_is_and_the_rest_is_said() -> None:
    one = verdict(compiled(target(), mirror()))
    assert (one.state, one.reason, one.selected, one.pods) == ("Programmed", "HostNetwork", 3, 2)


def test_a_pod_that_is_not_bound_yet() -> None:
    wanted = compile_sources(sources(target(), mirror(podSelector={"matchLabels": {"app": "web"}})), facts({}))
    one = verdict(wanted)
    assert (one.state, one.reason) == ("Pending", "NotYet")
    assert not wanted.hooks


def test_a_veth_that_may_be_that_of_a_pod_that_is_not_bound_yet() -> None:
    """In the directions of mirrors that are in force and wait for it; nothing is mirrored there."""
    one = mirror(podSelector={"matchLabels": {"app": "web"}}, direction="Ingress")
    others = mirror("db", podSelector={"matchLabels": {"app": "db"}}), mirror("off", suspend=True)
    some = replace(facts({"uid-21": BINDINGS["uid-21"]}), unclaimed=(20, 22))
    wanted = compile_sources(sources(target(), one, *others), some)
    assert {hook.ifindex for hook in wanted.hooks} == {21}
    assert wanted.ahead == {Hook(20, Direction.EGRESS), Hook(22, Direction.EGRESS)}
    assert not compile_sources(sources(target(), *others), some).ahead


def test_a_mirror_without_pods_here_is_of_no_concern() -> None:
    """Its filters are not even compiled, and it takes no room in the maps: the controller tells of it."""
    nobody = {"matchLabels": {"app": "nobody"}}
    assert compiled(target(), mirror(podSelector=nobody, filter="tcp prot 80")).verdicts == ()
    assert compiled(target(), mirror(namespace="elsewhere")).verdicts == ()


def test_a_target_that_is_not_granted() -> None:
    """G4, G6, F16: without allowedNamespaces nobody; with them, who matches."""
    ungranted = open_target()
    for grant, allowed in (
        (None, False),
        ({"matchLabels": {"team": "bank"}}, False),
        ({"matchLabels": {"team": "shop"}}, True),
    ):
        document = ungranted if grant is None else target(allowedNamespaces=grant)
        wanted = compiled(document, mirror())
        assert (verdict(wanted).state == "Programmed") is allowed, grant
        assert bool(wanted.hooks) is allowed
        if not allowed:
            assert verdict(wanted).reason == "TargetNotAllowed"
            words = "MirrorTarget ana is not granted to namespace shop, by its allowedNamespaces"
            assert verdict(wanted).message == f"spec.targetRefs[0].name: {words}"


def test_grants_do_not_bind_cluster_mirrors() -> None:
    assert interfaces(compiled(open_target(), wide())) == {20, 21, 22}


def test_protected_namespaces() -> None:
    """G10."""
    one = verdict(compiled(target(), mirror(namespace="kube-system")))
    assert (one.state, one.reason) == ("Rejected", "ProtectedNamespace")
    in_vault = compiled(target(), mirror(namespace="vault"), pods=(pod(20, "vault"),))
    assert verdict(in_vault).reason == "ProtectedNamespace"
    assert interfaces(compiled(target(), wide(), pods=(pod(20, "vault"), pod(21, "bank")))) == {21}


def test_a_namespace_that_is_not_known_yet_is_protected() -> None:
    """Its pods may be heard of before it is."""
    pods = (pod(20, "new"),)
    assert not compiled(target(), wide(), pods=pods).hooks
    lacking = {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}
    assert not compiled(target(), wide(namespaceSelector=lacking, includeProtectedNamespaces=True), pods=pods).hooks
    assert verdict(compiled(target(), mirror(namespace="new"), pods=pods)).state == "Rejected"
    assert 23 not in interfaces(compiled(target(), wide()))
    assert 23 in interfaces(compiled(target(), wide(includeProtectedNamespaces=True)))


def test_selectors_of_namespaces_and_nodes() -> None:
    selector = {"matchExpressions": [{"key": "team", "operator": "In", "values": ["bank"]}]}
    assert interfaces(compiled(target(), wide(namespaceSelector=selector))) == {22}
    assert compiled(target(), wide(nodeSelector={"pool": "other"})).verdicts == ()
    assert interfaces(compiled(target(), wide(nodeSelector={"pool": "edge"}))) == {20, 21, 22}


@pytest.mark.parametrize(("address", "what"), [("10.96.3.4", "in the service range"), ("10.9.0.3", "a node")])
def test_addresses_that_no_target_may_have(address: str, what: str) -> None:
    """G7."""
    ranges = {"in the service range": (IPv4Network("10.96.0.0/16"),), "a node": (IPv4Network("10.9.0.3"),)}
    document = target(address=address)
    one = verdict(compiled(document, mirror(), policy=Policy(ranges)))
    assert (one.state, one.reason) == ("Rejected", "EndpointRefused")
    assert f"{address} is {what}" in (one.message or "")
    if address == "10.9.0.3":
        assert compiled(document, mirror(), policy=Policy(ranges, (IPv4Network("10.9.0.0/24"),))).hooks


def test_another_policy_has_other_answers() -> None:
    open_to_all = Policy()
    assert open_to_all.objection("10.9.0.3") is None
    assert replace(open_to_all, refused={"a node": (IPv4Network("10.9.0.3"),)}).objection("10.9.0.3") == "a node"


def test_one_target_of_two_gets_nothing() -> None:
    refs = {"targetRefs": [{"name": "ana"}, {"name": "roll"}]}
    rolling = target("roll", endpoints=[{"service": {"namespace": "obs", "name": "zeek"}}])
    one = verdict(compiled(target(), rolling, mirror(podSelector={"matchLabels": {"app": "web"}}, **refs)))
    assert (one.state, one.reason) == ("Programmed", "NoEndpoints")
    assert "roll" in (one.message or "")
    asleep = target("roll", suspend=True)
    one = verdict(compiled(target(), asleep, mirror(podSelector={"matchLabels": {"app": "web"}}, **refs)))
    assert (one.state, one.reason) == ("Programmed", "TargetSuspended")


def test_filters_are_compiled_a_few_at_a_time_and_what_was_in_force_goes_on() -> None:
    """So that nobody's filters keep the agent from renewing everybody's leases."""
    long = " or ".join(f"port {number}" for number in range(1, 100))
    many = [mirror(f"m{n}", filter=f"len > {n} and ({long})") for n in range(10)]
    both = sources(target(), *many)
    first = compile_sources(both, facts())
    waiting = [one for one in first.verdicts if one.reason == "Compiling"]
    assert 0 < len(waiting) < len(many)
    hook = Hook(20, Direction.INGRESS)
    former = replace(first.hooks[hook][0], identity=waiting[0].identity)
    held = hold_waiting(first, {hook: (former,)}, first.paths)
    assert former in held.hooks[hook]
    assert former not in hold_waiting(first, {hook: (replace(former, identity=many_gone()),)}, first.paths).hooks[hook]
    for _ in range(len(many)):
        last = compile_sources(both, facts())
    assert not [one for one in last.verdicts if one.reason == "Compiling"]
    assert len(last.hooks[hook]) == len(many)


def test_more_texts_than_are_remembered_are_compiled_once() -> None:
    """Some seventy mirrors of one tenant have more: not all anew at every change, while everybody waits."""
    rows = [[{"action": "Mirror", "filter": f"udp port {64 * n + m}"} for m in range(1, 65)] for n in range(70)]
    many = [mirror(f"m{n}", rules=rules) for n, rules in enumerate(rows)]
    both = sources(target(), *many, mirror("z", filter="udp port 7"))
    for _ in range(50):
        wanted = compile_sources(both, facts())
        if not [one for one in wanted.verdicts if one.reason == "Compiling"]:
            break
    again = compile_sources(both, facts())
    assert not [one for one in again.verdicts if one.reason == "Compiling"]


def many_gone() -> Identity:
    return Identity("TrafficMirror", "shop", "gone")


def test_interfaces_wait_for_the_list_of_nodes() -> None:
    """Else the copies of others would be copied meanwhile."""
    known = sources(target(), cluster_mirror("nics", ["pod0"]))
    assert known.cluster is not None
    wanted = compile_sources(known, facts())
    assert set(wanted.guards.values()) == {Guard.NODE}
    unknown = replace(known, cluster=replace(known.cluster, nodes_known=False))
    (one,) = compile_sources(unknown, facts()).verdicts
    assert (one.state, one.reason) == ("Pending", "NodesUnknown")


def test_the_way_to_a_pod_that_is_an_analyzer_is_guarded() -> None:
    """By the header alone: an overlay gives copies addresses of its own."""
    wanted = compiled(target(address="10.9.0.2"), wide(), pods=(replace(pod(20), addresses=("10.9.0.2",)), pod(21)))
    assert wanted.guards == {Hook(20, direction): Guard.ANALYZER for direction in Direction}
    assert {key.kind for key in wanted.outers} == {OuterKind.HEADER, OuterKind.LATER}


def test_the_controllers_refusal_of_a_target_binds_agents() -> None:
    """It knows all nodes; of this generation only."""
    document = target()
    document["metadata"]["generation"] = 4
    said = {"type": "Accepted", "status": "False", "reason": "EndpointRefused", "message": "10.9.0.2 is a node"}
    for generation, state in ((4, "Rejected"), (3, "Programmed")):
        condition = said | {"observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}
        document["status"] = {"conditions": [condition]}
        assert verdict(compiled(document, mirror())).state == state


def test_a_report_fits_into_an_object() -> None:
    """Whatever the verdicts say, and however many there are."""
    many = [mirror(f"m{n:04}", filter=f"port {n + 1}") for n in range(2000)]
    both = sources(target(), *many)
    words = "é" * 2000
    wanted = compile_sources(both, facts())
    while any(one.reason == "Compiling" for one in wanted.verdicts):
        wanted = compile_sources(both, facts())
    verdicts = [replace(one, message=words) for one in wanted.verdicts]
    text = json.dumps(report(verdicts, both.mirrors, "1"), ensure_ascii=False)
    assert len(text.encode()) < 1 << 20
    assert text.count("Degraded") + text.count("Programmed") == 2000


def test_a_service_stands_for_what_the_controller_says() -> None:
    service = {"service": {"namespace": "obs", "name": "zeek"}}
    document = target(endpoints=[service])
    one = verdict(compiled(document, mirror()))
    assert (one.state, one.reason) == ("Pending", "NoEndpoints")
    document["status"] = {"endpoints": [service | {"addresses": ["10.9.0.3", "10.9.0.4"]}]}
    wanted = compiled(document, mirror())
    (tunnel,) = {tunnel for mirrors in wanted.hooks.values() for m in mirrors for tunnel in m.tunnels}
    assert len(tunnel.endpoints) == 2


@pytest.mark.parametrize(
    ("spec", "limits", "state"),
    [
        ({"durationSeconds": 3600}, {}, "Expired"),
        ({"durationSeconds": 86400 * 365}, {}, "Programmed"),
        ({"durationSeconds": 86400 * 365}, {"maxDurationSeconds": 60}, "Expired"),
        ({}, {"maxDurationSeconds": 60}, "Expired"),
        ({"expireTime": "2026-05-31T23:59:59Z"}, {}, "Expired"),
        ({"expireTime": "2026-06-01T00:00:01Z"}, {}, "Programmed"),
    ],
)
def test_a_mirror_ends(spec: Document, limits: Document, state: str) -> None:
    """G25, G32: the earliest of its duration, its date and the target's limit."""
    wanted = compiled(target(limits=limits), mirror(created="2026-01-01T00:00:00Z", **spec))
    assert verdict(wanted).state == state
    assert bool(wanted.hooks) is (state == "Programmed")


def test_who_comes_first_on_a_full_hook() -> None:
    """F9: ClusterTrafficMirrors, then the oldest, then by name."""
    old, new = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    many = [mirror(f"m{n:02}", created=new, filter=f"port {n + 1}") for n in range(LIST_LENGTH - 1)]
    wanted = compiled(target(), *many, mirror("zz", created=old), wide("wide"))
    names = [one.identity.name for one in wanted.hooks[Hook(20, Direction.INGRESS)]]
    assert names == ["wide", "zz", *(f"m{n:02}" for n in range(LIST_LENGTH - 2))]
    last = verdict(wanted, f"m{LIST_LENGTH - 2:02}")
    assert (last.state, last.reason) == ("Degraded", "HookFull")


def test_without_a_cluster_pods_cannot_be_selected() -> None:
    values = sources(target(), mirror(), wide())
    wanted = compile_sources(Sources(values.targets, values.mirrors), facts())
    assert {one.reason for one in wanted.verdicts} == {"NeedsCluster"}


def test_the_report_names_what_concerns_this_node() -> None:
    """And is what the API server takes: SnifferNode's own schema."""
    from_here = mirror(podSelector={"matchLabels": {"app": "web"}})
    elsewhere = mirror("elsewhere", podSelector={"matchLabels": {"app": "nobody"}})
    both = sources(target(), from_here, elsewhere, cluster_mirror("nics", ["nothing"]))
    said = report(compile_sources(both, facts()).verdicts, both.mirrors, "1.2.3")
    SnifferNode.model_validate(
        {"apiVersion": VERSION, "kind": "SnifferNode", "metadata": {"name": "n1"}, "status": said}
    )
    rows = {row["name"]: row for row in said["mirrors"]}
    assert set(rows) == {"web", "nics"}
    assert rows["web"] == {
        "kind": "TrafficMirror",
        "namespace": "shop",
        "name": "web",
        "uid": "uid-of-web",
        "generation": 3,
        "state": "Programmed",
        "pods": 1,
    }
    assert rows["nics"]["state"] == "Pending"
    assert "reported" not in said
