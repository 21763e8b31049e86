"""What a doctor says without a machine or a cluster: CNIs, modules that cannot be seen, answers of an API server."""

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sniffer
from sniffer.cluster.doctor import examine
from sniffer.errors import ApiError
from sniffer.kernel import cni, preflight, tcx
from sniffer.kernel.cni import Cni
from sniffer.model.schema import CRD_KINDS, definition
from sniffer.model.target import Encapsulation, Outer
from sniffer.plan.facts import Path as Path_
from sniffer.plan.facts import PathState
from sniffer.plan.template import egress_record
from sniffer.stats.finding import Finding, Result


@pytest.mark.parametrize(
    ("files", "interfaces", "expected"),
    [
        ({}, ["eth0", "lo"], None),
        ({}, ["eth0", "cali1234", "vxlan.calico"], Cni("calico", "interface vxlan.calico")),
        ({}, ["lxc12", "cilium_host"], Cni("cilium", "interface cilium_host")),
        ({}, ["cni0", "flannel.1"], Cni("flannel", "interface flannel.1")),
        ({"10-flannel.conflist": ["flannel", "portmap"]}, [], ("flannel", ("flannel", "portmap"))),
        ({"10-b.conflist": ["ptp"], "05-cilium.conf": ["cilium-cni"]}, ["cni0"], ("cilium", ("cilium-cni",))),
        (
            {"10-broken.conflist": None, "20-b.conflist": ["bridge", "bandwidth"]},
            [],
            ("bridge", ("bridge", "bandwidth")),
        ),
        ({"10-a.conflist.bak": ["ptp"]}, ["weave"], Cni("weave", "interface weave")),
    ],
)
def test_which_cni(tmp_path: Path, files: dict[str, list[str] | None], interfaces: list[str], expected: Any) -> None:
    for name, types in files.items():
        plugins = [{"type": one} for one in types or ()]
        document = plugins[0] if name.endswith(".conf") else {"plugins": plugins}
        (tmp_path / name).write_text("{" if types is None else json.dumps(document))
    found = cni.found(interfaces, tmp_path)
    assert (found if isinstance(expected, Cni | None) else (found.name, found.plugins) if found else None) == expected


@pytest.mark.parametrize(
    ("one", "with_tcx", "kinds", "words"),
    [
        (Cni("cilium", ""), True, ["veth"], None),
        (Cni("cilium", ""), True, ["netkit"], "netkit"),
        (Cni("cilium", ""), False, ["veth"], "priority 1"),
        (Cni("bridge", "", ("bridge", "bandwidth")), False, ["veth"], "ingress"),
        (Cni("bridge", "", ("bridge", "bandwidth")), True, ["veth"], None),
        (Cni("flannel", ""), False, [None, "vxlan"], None),
    ],
)
def test_what_is_known_of_it(one: Cni, with_tcx: bool, kinds: Sequence[str | None], words: str | None) -> None:
    """D5: a plugin that will want the qdisc's place is told of before it fails."""
    said = cni.remark(one, with_tcx, kinds)
    assert (said is None) == (words is None)
    if said and words:
        assert words in said[0]
        assert said[1]


@pytest.mark.parametrize(
    ("lists", "result", "words"),
    [
        ({}, Result.WARN, "cannot be seen from here"),
        (
            {"modules.builtin": "", "modules.dep": ""},
            Result.FAIL,
            "neither TCX nor the modules sch_ingress and cls_bpf",
        ),
        (
            {
                "modules.builtin": "kernel/net/sched/sch_ingress.ko\n",
                "modules.dep": "kernel/net/sched/cls_bpf.ko.xz:\n",
            },
            Result.OK,
            "clsact",
        ),
        ({"modules.builtin": "", "modules.dep": "kernel/net/sched/cls_bpf.ko:\n"}, Result.FAIL, "sch_ingress"),
        ({"modules.builtin": "kernel/net/sched/cls_bpf.ko\n"}, Result.WARN, "if the kernel has sch_ingress:"),
    ],
)
def test_attachment_without_tcx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: dict[str, str], result: Result, words: str
) -> None:
    """E15: in a container /lib/modules is not to be seen: that is no reason to fail."""
    monkeypatch.setattr(tcx, "has_tcx", lambda: False)
    monkeypatch.setattr(preflight, "_modules", lambda: tmp_path)
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    (found,) = preflight._attachment()
    assert found.result is result
    assert words in found.text
    assert bool(found.fix) == (result is not Result.OK)


PATH = Path_("10.9.0.2", PathState.REACHABLE, "eth0", 2, "10.9.0.1", "10.9.0.2", 1500)
PATH_SIX = replace(PATH, address="fd00::2", source="fd00::1", nexthop="fd00::2")


@pytest.mark.parametrize(
    ("path", "tunnel", "added"),
    [
        (PATH, {"vxlan": {"vni": 1}}, 50),
        (PATH, {"gre": {}}, 38),
        (PATH, {"gre": {"key": 1, "sequence": True}}, 46),
        (PATH, {"geneve": {"vni": 1}}, 90),
        (PATH, {"erspan": {"version": 3, "sessionId": 1}}, 54),
        (PATH_SIX, {"vxlan": {"vni": 1}}, 70),
        (PATH_SIX, {"geneve": {"vni": 1}}, 110),
    ],
)
def test_how_much_longer_a_copy_is(path: Path_, tunnel: dict[str, Any], added: int) -> None:
    record = egress_record(path, Encapsulation.model_validate(tunnel), Outer())
    least = egress_record(PATH, Encapsulation.model_validate({"gre": {}}), Outer())
    assert preflight._overhead([least, record])[0] == added
    assert added <= preflight._OVERHEAD_MOST


def test_how_much_longer_a_copy_is_where_nobody_has_said() -> None:
    assert preflight._overhead([]) == (50, "in VXLAN over IPv4; GENEVE over IPv6 takes 60 more")


class Server:
    """An API server of documents by path."""

    def __init__(self) -> None:
        now = datetime.now(UTC).isoformat()
        group = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
        node = {"metadata": {"name": "n1"}, "status": {"nodeInfo": {"kernelVersion": "6.18.44"}}}
        report = {"metadata": {"name": "n1"}, "status": {"version": sniffer.__version__}}
        ready = {"type": "Ready", "status": "True", "reason": "AllReady"}
        self.documents: dict[str, Any] = {
            "/version": {"major": "1", "minor": "36+", "gitVersion": "v1.36.3"},
            **{
                f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.plural}.sniffer.dev": definition(kind)
                for kind in CRD_KINDS
            },
            **{f"{group}ies/{name}": {} for name in ("sniffer-use-target", "sniffer-agent-own-node")},
            **{f"{group}ybindings/{name}": {} for name in ("sniffer-use-target", "sniffer-agent-own-node")},
            "/api/v1/nodes": {"items": [node]},
            "/apis/apps/v1/daemonsets": {"items": [{"metadata": {"name": "cilium"}}]},
            "/apis/apps/v1/namespaces/here/daemonsets/sniffer-agent": {
                "status": {"desiredNumberScheduled": 1, "numberReady": 1}
            },
            "/apis/sniffer.dev/v1alpha1/sniffernodes": {"items": [report]},
            "/apis/coordination.k8s.io/v1/namespaces/here/leases/sniffer-controller": {
                "spec": {"holderIdentity": "controller-1_abc", "renewTime": now}
            },
            "/apis/sniffer.dev/v1alpha1/trafficmirrors": {
                "items": [{"metadata": {"name": "web", "namespace": "shop"}, "status": {"conditions": [ready]}}]
            },
            "/apis/sniffer.dev/v1alpha1/clustertrafficmirrors": {"items": []},
        }

    def get(self, path: str) -> Any:
        found = self.documents.get(path)
        if isinstance(found, ApiError):
            raise found
        if found is None:
            raise ApiError(404, "NotFound", path)
        return found


def said(server: Server) -> list[Finding]:
    return list(examine(server, "here"))  # type: ignore[arg-type]


def faults(server: Server) -> list[tuple[str, str]]:
    found = said(server)
    assert all(bool(one.fix) == (one.result is not Result.OK) for one in found), found
    return [(one.check, one.result) for one in found if one.result is not Result.OK]


def test_a_cluster_where_all_is_well() -> None:
    found = said(Server())
    assert faults(Server()) == []
    checks = ["api server", "definitions", "policies", "kernels", "cni", "agents", "reports", "controller", "mirrors"]
    assert [one.check for one in found] == checks
    assert [one.text for one in found if one.check == "cni"] == ["cilium"]


CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/mirrortargets.sniffer.dev"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"


def former(document: Any) -> Any:
    made = copy.deepcopy(document)
    del made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["oversize"]
    return made


def changed(document: Any, *path: str, to: Any) -> Any:
    made = copy.deepcopy(document)
    at = made
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = to
    return made


@pytest.mark.parametrize(
    ("path", "to", "expected", "words"),
    [
        ("/version", {"major": "1", "minor": "31"}, ("api server", "fail"), "older than 1.32"),
        (CRD, None, ("definitions", "fail"), "mirrortargets.sniffer.dev is not there"),
        (CRD, former, ("definitions", "warn"), "spec.oversize"),
        (f"{POLICIES}/sniffer-use-target", None, ("policies", "fail"), "any target"),
        (f"{POLICIES[:-3]}ybindings/sniffer-use-target", None, ("policies", "fail"), "any target"),
        (
            "/api/v1/nodes",
            {"items": [{"metadata": {"name": "n1"}, "status": {"nodeInfo": {"kernelVersion": "4.19.0"}}}]},
            ("kernels", "fail"),
            "4.19.0 on 1 node: 4.19.0 is older than 5.10",
        ),
        ("/apis/apps/v1/namespaces/here/daemonsets/sniffer-agent", None, ("agents", "fail"), "namespace here"),
        (
            "/apis/apps/v1/namespaces/here/daemonsets/sniffer-agent",
            {"status": {"desiredNumberScheduled": 3, "numberReady": 2}},
            ("agents", "warn"),
            "2 of 3",
        ),
        ("/apis/sniffer.dev/v1alpha1/sniffernodes", {"items": []}, ("reports", "warn"), "no SnifferNode of n1"),
        (
            "/apis/sniffer.dev/v1alpha1/sniffernodes",
            {"items": [{"metadata": {"name": "n1"}, "status": {"version": "0.0.9"}}]},
            ("reports", "warn"),
            "0.0.9",
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/here/leases/sniffer-controller",
            None,
            ("controller", "warn"),
            "none leads",
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/here/leases/sniffer-controller",
            lambda found: changed(
                found, "spec", "renewTime", to=(datetime.now(UTC) - timedelta(minutes=5)).isoformat()
            ),
            ("controller", "warn"),
            "300 s ago",
        ),
        (
            "/apis/sniffer.dev/v1alpha1/trafficmirrors",
            {
                "items": [
                    {
                        "metadata": {"name": "web", "namespace": "shop"},
                        "status": {
                            "conditions": [
                                {"type": "Ready", "status": "False", "reason": "NotReady", "message": "words"}
                            ]
                        },
                    }
                ]
            },
            ("mirrors", "warn"),
            "shop/web: NotReady: words",
        ),
        ("/api/v1/nodes", ApiError(403, "Forbidden", "may not list nodes"), ("kernels", "warn"), "may not list nodes"),
    ],
)
def test_what_is_wrong_is_said(path: str, to: Any, expected: tuple[str, str], words: str) -> None:
    server = Server()
    server.documents[path] = to(server.documents[path]) if callable(to) else to
    assert expected in faults(server)
    assert any(words in one.text for one in said(server) if (one.check, one.result) == expected)


def test_a_server_that_does_not_answer() -> None:
    server = Server()
    server.documents["/version"] = ApiError(0, "NoAnswer", "silent")
    assert faults(server) == [("api server", "fail")]


def test_a_mirror_that_is_not_accepted_says_why() -> None:
    server = Server()
    conditions = [
        {"type": "Accepted", "status": "False", "reason": "TargetNotFound", "message": "no target zeek"},
        {"type": "Ready", "status": "False", "reason": "NotAccepted", "message": ""},
    ]
    document = {"metadata": {"name": "web", "namespace": "shop"}, "status": {"conditions": conditions}}
    server.documents["/apis/sniffer.dev/v1alpha1/trafficmirrors"] = {"items": [document]}
    (found,) = (one for one in said(server) if one.check == "mirrors")
    assert found.text == "shop/web: TargetNotFound: no target zeek"


def test_a_suspended_mirror_is_as_asked() -> None:
    server = Server()
    path = "/apis/sniffer.dev/v1alpha1/trafficmirrors"
    ready = {"type": "Ready", "status": "False", "reason": "Suspended"}
    server.documents[path] = {"items": [{"metadata": {"name": "web"}, "status": {"conditions": [ready]}}]}
    assert faults(server) == []
