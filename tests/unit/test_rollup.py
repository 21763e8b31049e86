"""The roll-up: what the status of mirrors and targets should be."""

from datetime import timedelta
from ipaddress import IPv4Network
from typing import Any

import pytest

from sniffer.plan.cluster import Policy
from sniffer.plan.endpoints import choose
from sniffer.plan.said import condition
from tests.rollup import NO_POLICY, NOW, World, cluster_mirror, identity_of, mirror, pod, target


def world(*objects: Any, policy: Policy = NO_POLICY) -> World:
    """Namespace shop, target zeek, nodes n1 and n2 with agents."""
    made = World(policy)
    made.rollup.namespace("shop", {"team": "shop"})
    made.node("n1")
    made.node("n2")
    made.put(target(), *objects)
    return made


class TestReady:
    def test_when_every_node_with_a_selected_pod_has_programmed_this_generation(self) -> None:
        web = mirror()
        at = world(web, pod("a", "n1"), pod("b", "n2"), pod("c", "n2"), pod("other", "n3", labels={"app": "db"}))
        assert at.condition(web)[:2] == ("False", "NodesNotReady")
        at.report("n1", web)
        assert at.condition(web)[:2] == ("False", "NodesNotReady")
        assert at.condition(web)[2] == ("1 of 2 nodes carry out this generation; not yet: n2 (has not reported yet)")
        assert at.condition(web, "Programmed")[:2] == ("True", "Programmed")
        at.report("n2", web)
        assert at.condition(web)[:2] == ("True", "Ready")
        status = at.status(web)
        assert (status["pods"], status["nodes"], status["readyNodes"]) == (3, 2, 2)
        assert all(condition["observedGeneration"] == 1 for condition in status["conditions"])

    def test_not_by_a_report_of_a_former_generation_or_a_former_mirror_of_the_name(self) -> None:
        web = mirror()
        at = world(web, pod("a"))
        at.report("n1", web)
        newer = mirror(generation=2, filter="tcp")
        at.put(newer)
        assert at.condition(newer)[1:] == (
            "NodesNotReady",
            "0 of 1 nodes carry out this generation; not yet: n1 (still has generation 1)",
        )
        assert at.condition(newer, "Programmed")[:2] == ("False", "NodesNotReady")
        recreated = mirror()
        recreated["metadata"]["uid"] = "another"
        at.put(recreated)
        assert "has not reported this mirror yet" in at.condition(recreated)[2]

    @pytest.mark.parametrize(
        ("state", "reason", "message", "words"),
        [
            ("Degraded", "HookFull", "veth1 ingress", "n1 (HookFull: veth1 ingress)"),
            ("Rejected", "EndpointIsNode", "", "n1 (EndpointIsNode)"),
            ("Pending", "", "", "n1 (Pending)"),
            ("Degraded", "HookFull", "a\x1b[31m\nb" + "x" * 600, "n1 (HookFull: a\\x1b[31m\\nbxxx"),
        ],
    )
    def test_not_while_a_node_says_otherwise(self, state: str, reason: str, message: str, words: str) -> None:
        """G26: what a node says is shown without its control characters."""
        web = mirror()
        at = world(web, pod("a"))
        at.report("n1", web, state=state, reason=reason, message=message)
        assert at.condition(web)[:2] == ("False", "NodesNotReady")
        assert words in at.condition(web)[2]
        assert len(at.condition(web)[2]) < 300

    def test_not_while_the_agent_of_a_node_is_away(self) -> None:
        web = mirror()
        at = world(web, pod("a"))
        at.report("n1", web)
        at.rollup.dirty.clear()
        at.agent("n1", alive=False)
        at.rollup.tick(NOW + timedelta(seconds=9))
        assert at.condition(web)[0] == "True", "an agent is replaced in less"
        at.rollup.tick(NOW + timedelta(seconds=10))
        assert at.rollup.dirty == {identity_of(web)}
        assert at.condition(web)[1:] == (
            "NodesNotReady",
            "0 of 1 nodes carry out this generation; not yet: n1 (no agent is ready)",
        )
        at.rollup.dirty.clear()
        at.agent("n1")
        assert at.rollup.dirty == {identity_of(web)}
        assert at.condition(web)[0] == "True"

    def test_while_an_agent_replaces_another(self) -> None:
        web = mirror()
        at = world(web, pod("a"))
        at.report("n1", web)
        at.rollup.agent(("sniffer-system", "new"), ("n1", False), NOW)
        at.rollup.agent(("sniffer-system", "agent-n1"), None, NOW)
        at.rollup.agent(("sniffer-system", "new"), ("n1", True), NOW + timedelta(seconds=2))
        at.rollup.tick(NOW + timedelta(seconds=60))
        assert at.condition(web)[0] == "True"

    def test_not_where_sniffer_was_removed(self) -> None:
        web = mirror()
        at = world(web, pod("a"))
        at.report("n1", web)
        at.report("n1", web, clean=True)
        assert "n1 (sniffer was removed)" in at.condition(web)[2]

    def test_names_five_nodes_and_counts_the_others(self) -> None:
        web = mirror()
        at = world(web, *(pod(f"p{n}", f"m{n}") for n in range(8)))
        assert at.condition(web)[2].endswith("m4 (no agent is ready) and 3 more")

    def test_with_no_pods(self) -> None:
        web = mirror()
        at = world(web, pod("a", phase="Succeeded"), pod("b", node=None), pod("c", namespace="other"))
        assert at.condition(web)[:2] == ("True", "NoPods")
        assert at.condition(web, "Programmed")[:2] == ("False", "NoPods")
        assert at.status(web)["pods"] == 0

    def test_not_while_suspended_or_by_suspended_targets(self) -> None:
        web = mirror(suspend=True)
        at = world(web, pod("a"))
        assert at.condition(web) == ("False", "Suspended", "spec.suspend is true")
        assert at.condition(web, "Accepted")[0] == "True"
        assert at.status(web)["nodes"] == 0
        web = mirror()
        at = world(web, pod("a"))
        suspended = target(suspend=True)
        suspended["metadata"]["generation"] = 2
        at.put(suspended)
        assert at.condition(web) == ("False", "Suspended", "every target is suspended")

    @pytest.mark.parametrize(
        ("spec", "limits", "ends_s"),
        [
            ({"durationSeconds": 7200}, {}, 3600),
            ({"expireTime": "2026-01-31T12:00:10Z"}, {}, 10),
            ({"durationSeconds": 7200}, {"maxDurationSeconds": 3660}, 60),
            ({}, {"maxDurationSeconds": 3605}, 5),
        ],
    )
    def test_until_it_ends(self, spec: dict[str, Any], limits: dict[str, Any], ends_s: int) -> None:
        """The earliest of its own words and of its target's limit; by the clock alone."""
        web = mirror(**spec)
        at = World()
        at.rollup.namespace("shop", {})
        at.put(target(limits=limits), web)
        assert at.condition(web)[0] == "True"
        at.rollup.dirty.clear()
        at.rollup.tick(NOW + timedelta(seconds=ends_s - 1))
        assert not at.rollup.dirty
        at.rollup.tick(NOW + timedelta(seconds=ends_s))
        assert at.rollup.dirty == {identity_of(web)}
        assert at.condition(web, now=NOW + timedelta(seconds=ends_s))[:2] == ("False", "Expired")
        assert at.condition(web, now=NOW + timedelta(seconds=ends_s - 1))[0] == "True"

    def test_says_which_nodes_do_not_reach_an_analyzer(self) -> None:
        web = mirror()
        at = world(web, pod("a"))
        at.report("n1", web, reason="EndpointUnreachable", message="10.0.9.5 (zeek): no route")
        assert at.condition(web)[:2] == ("True", "Ready")
        assert at.condition(web)[2].endswith("EndpointUnreachable on n1 (10.0.9.5 (zeek): no route)")


class TestSelection:
    def test_follows_pods_that_come_go_and_change(self) -> None:
        web = mirror()
        at = world(web)
        at.rollup.dirty.clear()
        at.put(pod("a", "n1"))
        assert at.rollup.dirty == {identity_of(web)}
        assert at.status(web)["nodes"] == 1
        at.put(pod("a", "n1", labels={"app": "web", "more": "x"}))
        assert at.status(web)["pods"] == 1
        at.put(pod("a", "n1", labels={}))
        assert at.status(web)["pods"] == 0
        at.put(pod("a", "n2", uid="new"))
        assert at.status(web)["pods"] == 1
        at.rollup.pod(("shop", "a"), None)
        assert at.status(web)["nodes"] == 0

    def test_of_a_namespaced_mirror_refuses_pods_of_the_node_network(self) -> None:
        """G9."""
        web = mirror()
        at = world(web, pod("a"), pod("b", host_network=True))
        at.report("n1", web)
        assert at.status(web)["pods"] == 1
        assert at.condition(web, "Accepted")[2].endswith("they use their node's network: shop/b")
        at.rollup.pod(("shop", "a"), None)
        nothing = "False", "HostNetwork", "no selected pod can be mirrored: they use their node's network: shop/b"
        assert at.condition(web) == at.condition(web, "Programmed") == nothing
        at.rollup.pod(("shop", "b"), None)
        assert at.condition(web)[:2] == ("True", "NoPods")
        assert "network" not in at.condition(web, "Accepted")[2]

    def test_of_a_cluster_mirror_names_no_pod_of_a_node_that_it_does_not_mean(self) -> None:
        edge = cluster_mirror(podSelector={}, nodeSelector={"pool": "edge"})
        at = world(edge, pod("b", "n2", host_network=True))
        assert at.condition(edge)[:2] == ("True", "NoPods")
        assert "network" not in at.condition(edge, "Accepted")[2]
        at.node("n2", {"pool": "edge"})
        assert at.condition(edge)[:2] == ("False", "HostNetwork")

    def test_of_a_cluster_mirror_by_namespace_pod_and_node(self) -> None:
        edge = cluster_mirror(
            namespaceSelector={"matchLabels": {"team": "shop"}},
            podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "api"]}]},
            nodeSelector={"pool": "edge"},
        )
        at = world(edge, pod("a", "n1"), pod("b", "n2"), pod("c", "n1", "other"), pod("d", "n1", labels={"app": "db"}))
        at.rollup.node("n1", {"pool": "edge"})
        assert (at.status(edge)["pods"], at.status(edge)["nodes"]) == (1, 1)
        at.rollup.namespace("other", {"team": "shop"})
        assert at.status(edge)["pods"] == 2
        at.rollup.node("n2", {"pool": "edge"})
        assert (at.status(edge)["pods"], at.status(edge)["nodes"]) == (3, 2)

    def test_of_interfaces_is_every_node_that_the_node_selector_selects(self) -> None:
        edge = cluster_mirror(interfaces=["eth0"], nodeSelector={"pool": "edge"})
        at = world(edge, pod("a", "n1"))
        assert at.condition(edge)[:2] == ("True", "NoNodes")
        at.rollup.dirty.clear()
        at.rollup.node("n1", {"pool": "edge"})
        assert at.rollup.dirty == {identity_of(edge)}
        assert at.condition(edge)[:2] == ("False", "NodesNotReady")
        at.report("n1", edge)
        assert at.condition(edge)[:2] == ("True", "Ready")
        assert (at.status(edge)["pods"], at.status(edge)["readyNodes"]) == (0, 1)

    def test_leaves_out_protected_namespaces_unless_the_mirror_says_so(self) -> None:
        """G10."""
        plain = cluster_mirror(podSelector={})
        including = cluster_mirror("including", podSelector={}, includeProtectedNamespaces=True)
        at = world(plain, including, pod("a"), pod("b", namespace="kube-system"), pod("c", namespace="vault"))
        at.rollup.namespace("vault", {"sniffer.dev/protected": ""})
        assert at.status(plain)["pods"] == 1
        assert at.status(including)["pods"] == 3
        at.rollup.namespace("vault", {})
        assert at.status(plain)["pods"] == 2

    def test_tells_of_running_pods_that_left_a_cluster_mirror_by_their_labels(self) -> None:
        """G2."""
        every = cluster_mirror(podSelector={"matchLabels": {"app": "web"}})
        web = mirror()
        at = world(every, web, pod("a"), pod("b"), pod("c"))
        at.put(pod("a", labels={"app": "gone"}), pod("b", uid="another", labels={"app": "gone"}))
        at.rollup.pod(("shop", "c"), None)
        assert at.rollup.left == {identity_of(every): {"pod shop/a"}}


class TestAccepted:
    def test_says_what_admission_says(self) -> None:
        web = mirror(filter="tcp prot 80")
        at = world(web, pod("a"))
        status, reason, message = at.condition(web, "Accepted")
        assert (status, reason) == ("False", "BadFilter")
        assert message.startswith("spec.filter: ")
        assert at.condition(web)[:2] == ("False", "NotAccepted")
        assert at.condition(web, "Programmed")[:2] == ("False", "NotAccepted")

    def test_follows_its_target(self) -> None:
        web = mirror()
        at = World()
        at.rollup.namespace("shop", {})
        at.put(web)
        assert at.condition(web, "Accepted")[:2] == ("False", "TargetNotFound")
        at.rollup.dirty.clear()
        at.put(target())
        assert identity_of(web) in at.rollup.dirty
        assert at.condition(web, "Accepted")[0] == "True"
        at.rollup.target("zeek", None)
        assert at.condition(web, "Accepted")[:2] == ("False", "TargetNotFound")

    def test_follows_the_grant_and_the_labels_of_its_namespace(self) -> None:
        """G4, G6."""
        web, granting = mirror(), target(allowedNamespaces={"matchLabels": {"team": "shop"}})
        at = World()
        at.rollup.namespace("shop", {"team": "shop"})
        at.put(granting, web)
        before = at.status(web)
        assert condition(before, "Accepted")["status"] == "True"
        at.rollup.dirty.clear()
        at.rollup.namespace("shop", {})
        assert identity_of(web) in at.rollup.dirty
        assert at.condition(web, "Accepted")[:2] == ("False", "TargetNotAllowed")
        outcome = at.rollup.outcome(identity_of(web), before, NOW)
        assert outcome
        assert [(note.reason, note.warning) for note in outcome.notes] == [("TargetGrantRemoved", True)]

    def test_of_what_a_former_version_stored(self) -> None:
        """F12: shown with the field's name, and no exception."""
        web = mirror(direction="Sideways", snapLength=3)
        at = world(web, pod("a"))
        status, reason, message = at.condition(web, "Accepted")
        assert (status, reason) == ("False", "Invalid")
        assert "spec.direction" in message
        assert "spec.snapLength" in message
        at.put(mirror(generation=2))
        assert at.condition(web, "Accepted")[0] == "True"
        for broken in ({"spec": None}, {"spec": []}, {"spec": {"podSelector": None}}):
            item = {**mirror(generation=3), **broken}
            at.put(item)
            assert at.condition(item, "Accepted")[:2] == ("False", "Invalid")
            item["metadata"]["generation"] += 1

    def test_with_fields_of_a_later_version(self) -> None:
        web = mirror(compression={"level": 10})
        assert world(web).condition(web, "Accepted")[0] == "True"

    def test_refuses_addresses_of_nodes(self) -> None:
        """G7."""
        web = mirror()
        at = world(web)
        at.rollup.dirty.clear()
        at.node("n3", addresses=["10.0.9.5"])
        assert at.rollup.dirty == {identity_of(web), identity_of(target())}
        assert at.condition(web, "Accepted")[:2] == ("False", "EndpointRefused")
        assert at.condition(target(), "Accepted")[:2] == ("False", "EndpointRefused")
        at.node("n3", addresses=["10.0.9.6"])
        assert at.condition(web, "Accepted")[0] == "True"
        allowed = Policy(allowed=(IPv4Network("10.0.9.0/24"),))
        at = world(web, policy=allowed)
        at.node("n3", addresses=["10.0.9.5"])
        assert at.condition(web, "Accepted")[0] == "True"


class TestTarget:
    SERVICE = ({"service": {"namespace": "ids", "name": "zeek"}},)

    def test_publishes_the_addresses_of_its_services(self) -> None:
        zeek, web = target(endpoints=self.SERVICE), mirror()
        at = World()
        at.put(zeek, web)
        assert at.rollup.services == {("ids", "zeek")}
        assert at.condition(zeek)[:2] == ("False", "NoEndpoints")
        at.rollup.dirty.clear()
        at.rollup.service(("ids", "zeek"), frozenset({"10.244.1.9", "10.244.0.7"}))
        assert at.rollup.dirty == {identity_of(zeek), identity_of(web)}
        assert at.status(zeek)["endpoints"] == [
            {"service": {"namespace": "ids", "name": "zeek"}, "addresses": ["10.244.0.7", "10.244.1.9"]}
        ]
        assert at.condition(zeek)[0] == "True"

    def test_keeps_what_is_published_until_the_services_are_known(self) -> None:
        zeek = target(endpoints=self.SERVICE)
        at = World()
        at.put(zeek)
        published = {"endpoints": [{"service": self.SERVICE[0]["service"], "addresses": ["10.244.0.7"]}]}
        assert at.status(zeek, stored_status=published)["endpoints"] == published["endpoints"]
        at.rollup.service(("ids", "zeek"), frozenset())
        assert at.status(zeek, stored_status=published)["endpoints"][0]["addresses"] == []

    def test_refuses_a_service_whose_endpoints_no_target_may_have(self) -> None:
        zeek, web = target(endpoints=self.SERVICE), mirror()
        at = World(Policy(refused={"the service range": (IPv4Network("10.96.0.0/16"),)}))
        at.rollup.namespace("shop", {})
        at.put(zeek, web)
        at.rollup.service(("ids", "zeek"), frozenset({"10.96.0.10"}))
        assert at.condition(zeek, "Accepted")[:2] == ("False", "EndpointRefused")
        assert at.condition(web, "Accepted")[:2] == ("False", "EndpointRefused")

    def test_addresses_in_use_stay(self) -> None:
        many = frozenset(f"10.0.0.{n}" for n in range(1, 21))
        first = choose((), many, 8)
        assert first == tuple(f"10.0.0.{n}" for n in range(1, 9))
        assert choose(first, many - {"10.0.0.3"}, 8) == (*first[:2], *first[3:], "10.0.0.9")
        assert choose(("10.0.0.20",), many, 2) == ("10.0.0.1", "10.0.0.20")
        assert choose(first, many, 0) == ()

    def test_that_is_invalid(self) -> None:
        """Its mirrors have no target."""
        zeek, web = target(encapsulation={}), mirror()
        at = world(web)
        zeek["metadata"]["generation"] = 2
        at.put(zeek)
        assert at.condition(zeek, "Accepted")[:2] == ("False", "Invalid")
        assert "exactly one of vxlan" in at.condition(zeek, "Accepted")[2]
        assert at.condition(web, "Accepted")[0] == "False"


class TestWriting:
    def test_a_time_changes_only_with_its_status(self) -> None:
        web = mirror()
        at = world(web, pod("a"))
        first = at.status(web)
        assert {c["lastTransitionTime"] for c in first["conditions"]} == {"2026-01-31T12:00:00Z"}
        assert at.status(web, NOW + timedelta(minutes=1), first) == first
        at.report("n1", web)
        later = at.status(web, NOW + timedelta(minutes=1), first)
        assert condition(later, "Accepted")["lastTransitionTime"] == "2026-01-31T12:00:00Z"
        assert condition(later, "Ready")["lastTransitionTime"] == "2026-01-31T12:01:00Z"

    @pytest.mark.parametrize("odd", [{"conditions": None}, {"conditions": [1, {"type": 3}]}, {"conditions": {"a": 1}}])
    def test_over_any_stored_status(self, odd: dict[str, Any]) -> None:
        web = mirror()
        assert condition(world(web).status(web, stored_status=odd), "Accepted")["status"] == "True"

    def test_only_what_is_news_is_noted(self) -> None:
        web = mirror()
        at = world(web)
        outcome = at.rollup.outcome(identity_of(web), {}, NOW)
        assert outcome
        assert [(note.reason, note.warning) for note in outcome.notes] == [("Accepted", False)]
        again = at.rollup.outcome(identity_of(web), outcome.status, NOW)
        assert again
        assert not again.notes
        bad = mirror(generation=2, filter="nonsense")
        at.put(bad)
        refused = at.rollup.outcome(identity_of(web), outcome.status, NOW)
        assert refused
        assert [note.reason for note in refused.notes] == ["BadFilter"]
