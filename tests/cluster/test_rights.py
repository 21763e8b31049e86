"""Who may do what: one table of requests, each put to a real API server with the chart's roles and policies."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sniffer.model.resources import API_VERSION
from tests.cluster.api import Document
from tests.cluster.chart import NAMESPACE, api_of_chart
from tests.cluster.lab import Cluster
from tests.topology import wait_until

AGENT, CONTROLLER = (f"system:serviceaccount:{NAMESPACE}:sniffer-{name}" for name in ("agent", "controller"))

# Everybody's bindings: (role, where); `-` is the whole cluster. What begins with use- is made here: see ROLES.
PEOPLE: dict[str, list[tuple[str, str]]] = {
    "nobody": [],
    "viewer": [("view", "shop")],  # the built-in one, to which sniffer-view is aggregated
    "editor": [("edit", "shop")],  # built in
    "owner": [("admin", "shop")],  # built in
    "watcher": [("sniffer-view", "-")],
    "mirrorer": [("sniffer-edit", "shop")],  # without the right to use any target
    "zeeker": [("sniffer-edit", "shop"), ("use-zeek", "shop")],
    "roamer": [("sniffer-edit", "-"), ("use-zeek", "shop")],
    "three": [("sniffer-edit", "shop"), ("use-abc", "shop")],
    "four": [("sniffer-edit", "shop"), ("use-abc", "shop"), ("use-d", "-")],
    "prober": [("mirror-cluster", "-"), ("use-zeek", "shop")],
    "clusterer": [("mirror-cluster", "-"), ("use-zeek", "-")],
    "admin-here": [("sniffer-admin", "shop")],
    "admin": [("sniffer-admin", "-")],
}

# Answers: yes; rbac, refused for want of a role; policy, refused by a ValidatingAdmissionPolicy.
# What: for create and update, the targets of the mirror are behind the slash.
TABLE = """
nobody      get         trafficmirrors/web                shop   rbac
nobody      list        mirrortargets                     -      rbac
nobody      create      trafficmirrors/zeek               shop   rbac
nobody      use         mirrortargets/zeek                shop   rbac

viewer      get         trafficmirrors/web                shop   yes
viewer      list        trafficmirrors                    shop   yes
viewer      watch       trafficmirrors                    shop   yes
viewer      list        trafficmirrors                    stall  rbac
viewer      list        mirrortargets                     -      rbac
viewer      create      trafficmirrors/zeek               shop   rbac
viewer      delete      trafficmirrors/web                shop   rbac

watcher     list        trafficmirrors                    stall  yes
watcher     list        mirrortargets                     -      yes
watcher     list        clustertrafficmirrors             -      yes
watcher     list        sniffernodes                      -      yes
watcher     relabel     mirrortargets/zeek                -      rbac
watcher     use         mirrortargets/zeek                shop   rbac

editor      get         trafficmirrors/web                shop   yes
editor      create      trafficmirrors/zeek               shop   rbac
editor      update      trafficmirrors/zeek               shop   rbac
editor      delete      trafficmirrors/web                shop   rbac
owner       get         trafficmirrors/web                shop   yes
owner       create      trafficmirrors/zeek               shop   rbac
owner       use         mirrortargets/zeek                shop   rbac

mirrorer    list        trafficmirrors                    shop   yes
mirrorer    create      trafficmirrors/zeek               shop   policy
mirrorer    apply       trafficmirrors/zeek               shop   policy
mirrorer    update      trafficmirrors/suricata           shop   policy
mirrorer    update      trafficmirrors/zeek               shop   yes
mirrorer    suspend     trafficmirrors/web                shop   policy
mirrorer    relabel     trafficmirrors/web                shop   yes
mirrorer    delete      trafficmirrors/web                shop   yes
mirrorer    status      trafficmirrors/web                shop   rbac
mirrorer    create      trafficmirrors/zeek               stall  rbac
mirrorer    create      clustertrafficmirrors/zeek        -      rbac
mirrorer    create      mirrortargets/mine                -      rbac
mirrorer    get         mirrortargets/zeek                -      rbac

zeeker      create      trafficmirrors/zeek               shop   yes
zeeker      apply       trafficmirrors/zeek               shop   yes
zeeker      suspend     trafficmirrors/web                shop   yes
zeeker      create      trafficmirrors/suricata           shop   policy
zeeker      create      trafficmirrors/zeek,suricata      shop   policy
zeeker      update      trafficmirrors/suricata           shop   policy
zeeker      create      trafficmirrors/nowhere            shop   policy
zeeker      delete      trafficmirrors/web                shop   yes
zeeker      deletecollection trafficmirrors               shop   yes
zeeker      create      trafficmirrors/zeek               stall  rbac
zeeker      create      clustertrafficmirrors/zeek        -      rbac
zeeker      suspend     mirrortargets/zeek                -      rbac
zeeker      delete      mirrortargets/zeek                -      rbac
roamer      create      trafficmirrors/zeek               shop   yes
roamer      create      trafficmirrors/zeek               stall  policy
roamer      suspend     trafficmirrors/web                stall  policy
three       create      trafficmirrors/a,b,c              shop   yes
three       create      trafficmirrors/a,b,c,d            shop   policy
four        create      trafficmirrors/a,b,c,d            shop   yes
four        create      trafficmirrors/a,b,c,zeek         shop   policy

prober      create      clustertrafficmirrors/zeek        -      policy
prober      relabel     clustertrafficmirrors/all         -      yes
prober      suspend     clustertrafficmirrors/all         -      policy
prober      create      trafficmirrors/zeek               shop   rbac
clusterer   create      clustertrafficmirrors/zeek        -      yes
clusterer   suspend     clustertrafficmirrors/all         -      yes
clusterer   create      clustertrafficmirrors/suricata    -      policy
clusterer   create      mirrortargets/mine                -      rbac

admin-here  create      trafficmirrors/zeek,suricata      shop   yes
admin-here  create      trafficmirrors/zeek               stall  rbac
admin-here  create      clustertrafficmirrors/zeek        -      rbac
admin-here  create      mirrortargets/mine                -      rbac
admin       create      mirrortargets/mine                -      yes
admin       suspend     mirrortargets/zeek                -      yes
admin       delete      mirrortargets/zeek                -      yes
admin       status      mirrortargets/zeek                -      rbac
admin       create      trafficmirrors/zeek               stall  yes
admin       create      clustertrafficmirrors/suricata    -      yes
admin       status      clustertrafficmirrors/all         -      rbac
admin       create      sniffernodes/node1                -      rbac
admin       status      sniffernodes/node1                -      rbac
admin       delete      sniffernodes/node1                -      yes

on-node1    list        pods                              -      yes
on-node1    list        namespaces                        -      yes
on-node1    list        nodes                             -      yes
on-node1    watch       trafficmirrors                    -      yes
on-node1    list        mirrortargets                     -      yes
on-node1    get         customresourcedefinitions/trafficmirrors.sniffer.dev - yes
on-node1    get         customresourcedefinitions/others.example.org - rbac
on-node1    find        customresourcedefinitions/trafficmirrors.sniffer.dev - yes
on-node1    list        customresourcedefinitions         -      rbac
on-node1    watch       endpointslices                    default yes
on-node1    list        endpointslices                    shop   rbac
on-node1    create      sniffernodes/node1                -      yes
on-node1    apply       sniffernodes/node1                -      yes
on-node1    status      sniffernodes/node1                -      yes
on-node1    create      sniffernodes/node2                -      policy
on-node1    create      sniffernodes/                     -      policy
on-node1    apply       sniffernodes/node2                -      policy
on-node1    status      sniffernodes/node2                -      policy
on-node1    relabel     sniffernodes/node2                -      policy
on-node1    delete      sniffernodes/node1                -      rbac
on-node1    list        sniffernodes                      -      rbac
on-node1    create      trafficmirrors/zeek               shop   rbac
on-node1    status      trafficmirrors/web                shop   rbac
on-node1    status      mirrortargets/zeek                -      rbac
on-node1    suspend     mirrortargets/zeek                -      rbac
on-node1    list        secrets                           shop   rbac
on-node1    get         configmaps/sniffer                sniffer-system yes
on-node1    get         configmaps/other                  sniffer-system rbac
on-node1    relabel     pods/any                          shop   rbac
on-node1    relabel     nodes/node1                       -      rbac
in-a-pod    status      sniffernodes/node2                -      yes
in-a-pod    status      sniffernodes/node1                -      policy
unbound     status      sniffernodes/node1                -      policy
unbound     create      sniffernodes/node1                -      policy

controller  status      trafficmirrors/web                shop   yes
controller  status      clustertrafficmirrors/all         -      yes
controller  status      mirrortargets/zeek                -      yes
controller  list        sniffernodes                      -      yes
controller  find        customresourcedefinitions/trafficmirrors.sniffer.dev - yes
controller  list        endpointslices                    -      yes
controller  list        pods                              -      yes
controller  create      events/some                       shop   yes
controller  create      leases/sniffer-controller         sniffer-system yes
controller  create      configmaps/sniffer                sniffer-system yes
controller  relabel     configmaps/other                  sniffer-system rbac
controller  create      configmaps/sniffer                shop   rbac
controller  create      leases/some                       shop   rbac
controller  status      sniffernodes/node1                -      rbac
controller  suspend     trafficmirrors/web                shop   rbac
controller  create      trafficmirrors/zeek               shop   rbac
controller  delete      trafficmirrors/web                shop   rbac
controller  list        secrets                           sniffer-system rbac
controller  relabel     pods/any                          shop   rbac
"""

GROUPS = {
    "sniffernodes": "sniffer.dev/v1alpha1",
    "trafficmirrors": "sniffer.dev/v1alpha1",
    "clustertrafficmirrors": "sniffer.dev/v1alpha1",
    "mirrortargets": "sniffer.dev/v1alpha1",
    "customresourcedefinitions": "apiextensions.k8s.io/v1",
    "endpointslices": "discovery.k8s.io/v1",
    "events": "events.k8s.io/v1",
    "leases": "coordination.k8s.io/v1",
}
KINDS = {
    "sniffernodes": "SnifferNode",
    "trafficmirrors": "TrafficMirror",
    "clustertrafficmirrors": "ClusterTrafficMirror",
    "mirrortargets": "MirrorTarget",
    "events": "Event",
    "leases": "Lease",
    "configmaps": "ConfigMap",
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    who: str
    verb: str
    resource: str
    detail: str
    """A name, or a mirror's targets."""
    where: str
    answer: str


def _rows() -> list[Row]:
    rows = []
    for line in TABLE.split("\n"):
        if line:
            who, verb, what, where, answer = line.split()
            resource, _, detail = what.partition("/")
            rows.append(Row(who, verb, resource, detail, where, answer))
    return rows


ROWS = _rows()
TOKENS = ("on-node1", "in-a-pod", "unbound", "controller")


def test_the_table_is_whole() -> None:
    assert len(ROWS) >= 60
    assert {row.who for row in ROWS} == {*PEOPLE, *TOKENS}
    assert {row.answer for row in ROWS} == {"yes", "rbac", "policy"}


def rbac(kind: str, name: str, namespace: str | None = None, **fields: Any) -> Document:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata, **fields}


def use(*names: str) -> list[Document]:
    return [{"apiGroups": ["sniffer.dev"], "resources": ["mirrortargets"], "verbs": ["use"], "resourceNames": names}]


CLUSTER_MIRRORS = {
    "apiGroups": ["sniffer.dev"],
    "resources": ["clustertrafficmirrors"],
    "verbs": ["get", "list", "create", "update", "patch", "delete"],
}
ROLES = {
    "use-zeek": use("zeek", "not-there"),
    "use-abc": use("a", "b", "c"),
    "use-d": use("d"),
    "mirror-cluster": [CLUSTER_MIRRORS],
}


def bindings() -> Iterator[Document]:
    for user, roles in PEOPLE.items():
        for role, where in roles:
            namespace = None if where == "-" else where
            yield rbac(
                "ClusterRoleBinding" if namespace is None else "RoleBinding",
                f"test-{user}-{role}",
                namespace,
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                subjects=[{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
            )


def resource(row: Row) -> Document:
    """The document that a row creates."""
    name = row.detail
    spec: Document = {}
    if row.resource in ("trafficmirrors", "clustertrafficmirrors"):
        name = "made"
        selector = {"podSelector": {}} if row.resource == "trafficmirrors" else {"interfaces": ["*"]}
        spec = {"spec": {**selector, "targetRefs": [{"name": target} for target in row.detail.split(",")]}}
    elif row.resource == "mirrortargets":
        spec = {"spec": {"encapsulation": {"gre": {}}, "endpoints": [{"address": "10.0.9.5"}]}}
    elif row.resource == "events":
        about = {"apiVersion": API_VERSION, "kind": "TrafficMirror", "name": "web", "namespace": row.where}
        said = {"reason": "Accepted", "action": "Check", "type": "Normal", "note": "It is."}
        by = {"reportingController": "sniffer.dev/controller", "reportingInstance": "one"}
        spec = {"regarding": about, "eventTime": "2026-01-31T12:00:00.000000Z", **said, **by}
    metadata = {"name": name} if name else {"generateName": "node1"}
    return {
        "apiVersion": GROUPS.get(row.resource, "v1"),
        "kind": KINDS[row.resource],
        "metadata": metadata | ({"namespace": row.where} if row.where != "-" else {}),
        **spec,
    }


MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"
CHANGES: dict[str, Document] = {
    "relabel": {"metadata": {"labels": {"touched": "yes"}}},
    "suspend": {"spec": {"suspend": True}},
    "status": {"status": {"conditions": []}},
}


def request(row: Row) -> tuple[str, str, Document | None, str]:
    """Method, path, body and content type; nothing that is asked is done."""
    version = GROUPS.get(row.resource, "v1")
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    base += f"/namespaces/{row.where}/{row.resource}" if row.where != "-" else f"/{row.resource}"
    dry = "dryRun=All&fieldManager=test"
    json_ = "application/json"
    if row.verb == "use":
        # Nobody asks for it but the policy.
        attributes = {"group": "sniffer.dev", "resource": row.resource, "verb": "use", "name": row.detail}
        spec = {"user": row.who, "resourceAttributes": attributes | {"namespace": row.where}}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review, json_
    if row.verb == "find":
        return "GET", f"{base}?fieldSelector=metadata.name={row.detail}", None, json_
    if row.verb in ("get", "list", "watch"):
        query = "?watch=1&timeoutSeconds=1" if row.verb == "watch" else ""
        return "GET", f"{base}/{row.detail}{query}".replace("/?", "?").rstrip("/"), None, json_
    if row.verb == "create":
        return "POST", f"{base}?{dry}", resource(row), json_
    if row.verb == "apply":
        made = resource(row)
        return "PATCH", f"{base}/{made['metadata']['name']}?{dry}&force=true", made, APPLY
    if row.verb == "update":
        return "PATCH", f"{base}/web?{dry}", {"spec": resource(row)["spec"]}, MERGE
    if row.verb in ("delete", "deletecollection"):
        return "DELETE", f"{base}/{row.detail}?{dry}".replace("/?", "?"), None, json_
    part = "/status" if row.verb == "status" else ""
    change = {"status": {"version": "1"}} if part and row.resource == "sniffernodes" else CHANGES[row.verb]
    return "PATCH", f"{base}/{row.detail}{part}?{dry}", change, MERGE


@dataclass(frozen=True)
class Gate:
    """Puts requests to the API server as somebody."""

    cluster: Cluster
    tokens: dict[str, str]

    def ask(self, row: Row) -> tuple[int, Document]:
        """HTTP status and answer."""
        method, path, body, content_type = request(row)
        if row.verb == "use":
            _, answer = self.cluster.api.request(method, path, body)
            return (200 if answer["status"]["allowed"] else 403), {"message": "cannot use"}
        if row.who in self.tokens:
            return self.by_token(self.tokens[row.who], method, path, body, content_type)
        return self.cluster.api.request(method, path, body, content_type, as_user=row.who)

    def by_token(
        self, token: str, method: str, path: str, body: Document | None, content_type: str
    ) -> tuple[int, Document]:
        """As whoever the token was made for; a certificate of ours would win."""
        api = self.cluster.api
        asked = urllib.request.Request(
            f"https://{api.host}:{api.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": content_type},
        )
        trust = ssl.create_default_context(cafile=str(self.cluster.control.authority.certificate))
        try:
            with urllib.request.urlopen(asked, context=trust, timeout=15) as answer:
                return answer.status, {"message": answer.read().decode()}
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def answer(self, row: Row) -> tuple[str, str]:
        """yes, rbac or policy, and the words that came with it."""
        status, answer = self.ask(row)
        words = str(answer.get("message", ""))
        if status == 403:
            return ("policy" if "ValidatingAdmissionPolicy 'sniffer-" in words else "rbac"), words
        # There already, or not there: whoever is told that had the right to ask.
        return ("yes" if status in (200, 201, 404, 409) else f"HTTP {status}"), words


@pytest.fixture(scope="module")
def gate(cluster: Cluster) -> Iterator[Gate]:
    """The cluster with the chart's roles and policies, two namespaces, people, and what they ask for."""
    with api_of_chart(cluster), cluster.namespace("shop"), cluster.namespace("stall"):
        made = [rbac("ClusterRole", name, rules=rules) for name, rules in ROLES.items()]
        made += list(bindings())
        for name in ("zeek", "suricata"):
            made.append(resource(Row("", "create", "mirrortargets", name, "-", "")))
        for where in ("shop", "stall"):
            mirror = resource(Row("", "create", "trafficmirrors", "zeek", where, ""))
            made.append(mirror | {"metadata": {"name": "web", "namespace": where}})
        everywhere = resource(Row("", "create", "clustertrafficmirrors", "zeek", "-", ""))
        made.append(everywhere | {"metadata": {"name": "all"}})
        made += [resource(Row("", "create", "sniffernodes", name, "-", "")) for name in ("node1", "node2")]
        cluster.apply(*made)
        try:
            gate = Gate(cluster, tokens(cluster))
            # Policies, bindings and aggregated roles come into force within a second or so.
            for of_kind in ({"who": "viewer"}, {"who": "four"}, *({"resource": name} for name in POLICED)):
                settled(gate, next(row for row in ROWS if of_kind.items() <= vars(row).items() and is_telling(row)))
            yield gate
        finally:
            for one in reversed(made):
                metadata = one["metadata"]
                cluster.delete(one["kind"], metadata["name"], metadata.get("namespace"), wait=False)
            cluster.delete("Pod", "agent-to-be", NAMESPACE, wait=False)


POLICED = ("trafficmirrors", "clustertrafficmirrors", "sniffernodes")


def is_telling(row: Row) -> bool:
    """Whether the answer is another one before everything is in force."""
    return row.answer == "policy" or row.who in ("viewer", "four")


def settled(gate: Gate, row: Row) -> None:
    wait_until(lambda: gate.answer(row)[0] == row.answer, 20, every=0.2, what=str(row))


def tokens(cluster: Cluster) -> dict[str, str]:
    """Real ones, as kubelet would get them."""

    def token(account: str, *options: str) -> str:
        return cluster.kubectl("create", "token", account, "-n", NAMESPACE, *options).strip()

    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent-to-be", "namespace": NAMESPACE},
        "spec": {
            "serviceAccountName": "sniffer-agent",
            "nodeName": "node2",
            "containers": [{"name": "pause", "image": "toolbox", "imagePullPolicy": "Never"}],
        },
    }
    cluster.apply(pod)
    return {
        "on-node1": token("sniffer-agent", "--bound-object-kind=Node", "--bound-object-name=node1"),
        "in-a-pod": token("sniffer-agent", "--bound-object-kind=Pod", "--bound-object-name=agent-to-be"),
        "unbound": token("sniffer-agent"),
        "controller": token("sniffer-controller"),
    }


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{number}-{row.who}-{row.verb}-{row.resource}" for number, row in enumerate(ROWS)]
)
def test_rights(gate: Gate, row: Row) -> None:
    """G8 to G13, I20: the answer that the table says."""
    answer, words = gate.answer(row)
    assert answer == row.answer, words


def test_a_refusal_names_field_target_user_and_place(gate: Gate) -> None:
    row = next(row for row in ROWS if row.who == "three" and row.answer == "policy")
    _, words = gate.answer(row)
    allowed = "allowed a MirrorTarget that three has the right to use in namespace shop"
    assert f"spec.targetRefs[3].name: given d, {allowed}" in words
    row = next(row for row in ROWS if row.who == "prober" and row.answer == "policy")
    assert "has the right to use in the cluster" in gate.answer(row)[1]
    row = next(row for row in ROWS if row.who == "on-node1" and row.answer == "policy")
    assert "metadata.name: given node2, allowed the node of the token" in gate.answer(row)[1]


def test_audit(gate: Gate) -> None:
    """G21: the audit log says who asked to mirror to which targets, and who was refused."""
    cluster = gate.cluster
    zeeker = cluster.kubeconfig_of("zeeker")
    for targets, taken in (("zeek", True), ("zeek,suricata", False)):
        made = resource(Row("zeeker", "create", "trafficmirrors", targets, "shop", ""))
        words = cluster.kubectl(
            *("--kubeconfig", zeeker, "create", "-f", "-", "--dry-run=server"), stdin=json.dumps(made), check=False
        )
        assert ("created" in words) == taken, words

    def said() -> set[tuple[str, int]]:
        found = set()
        for event in cluster.audit():
            annotations = event.get("annotations", {})
            if event.get("user", {}).get("username") == "zeeker" and "sniffer-use-target/targets" in annotations:
                found.add((annotations["sniffer-use-target/targets"], event["responseStatus"]["code"]))
        return found

    wait_until(lambda: said() >= {("zeek", 201), ("zeek suricata", 403)}, 10, what="audit annotations")
