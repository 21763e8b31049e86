"""What the API server makes of the resources, against what lint makes of them: the two agree, or one is wrong."""

import copy
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sniffer.model.manifest import Source, read
from sniffer.model.resources import API_VERSION, KINDS
from sniffer.model.schema import CRD_KINDS, definition
from tests.cluster.api import Document
from tests.cluster.chart import applied
from tests.cluster.lab import Cluster

NAMESPACE = "default"


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the definitions."""
    with applied(cluster, [definition(kind) for kind in CRD_KINDS]):
        yield cluster


def target(**spec: Any) -> Document:
    """A good MirrorTarget with these fields in place of its own; `...` takes one away."""
    return _document(
        "MirrorTarget", {"encapsulation": {"vxlan": {"vni": 42}}, "endpoints": [{"address": "10.0.9.5"}]}, spec
    )


def mirror(**spec: Any) -> Document:
    """A good ClusterTrafficMirror."""
    return _document("ClusterTrafficMirror", {"interfaces": ["eth0"], "targetRefs": [{"name": "zeek"}]}, spec)


def traffic(**spec: Any) -> Document:
    """A good TrafficMirror."""
    return _document("TrafficMirror", {"podSelector": {}, "targetRefs": [{"name": "zeek"}]}, spec)


def _document(kind: str, good: Document, changes: Document) -> Document:
    spec = {name: value for name, value in (good | changes).items() if value is not ...}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "one"}, "spec": spec}


def linted(document: Document) -> Source:
    return read(yaml.safe_dump(document, allow_unicode=True), "f.yaml")


def asked(api: Cluster, document: Document) -> tuple[bool, Document]:
    """Whether the API server takes a document, unknown fields refused as kubectl has it, and its answer."""
    namespace = NAMESPACE if document["kind"] == "TrafficMirror" else None
    path = api.api.path(document["kind"], namespace=namespace, dryRun="All", fieldValidation="Strict")
    status, answer = api.api.request("POST", path, document)
    assert status in (201, 400, 422), answer
    return status == 201, answer


def address(text: str) -> Document:
    return target(endpoints=[{"address": text}])


def requirement(**fields: Any) -> Document:
    return traffic(podSelector={"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]} | fields]})


FILTERS = [{"action": "Skip", "filter": f"port {n}"} for n in range(65)]
ADDRESSES = [{"address": f"10.0.0.{n}"} for n in range(1, 10)]
SERVICE = {"service": {"namespace": "ids", "name": "zeek"}}

# What is wrong, and the field that both name.
BAD: list[tuple[Document, str]] = [
    # I3
    (target(encapsulation={"vxlan": {"vni": 1 << 24}}), "spec.encapsulation.vxlan.vni"),
    (target(encapsulation={"vxlan": {"vni": -1}}), "spec.encapsulation.vxlan.vni"),
    (target(encapsulation={"vxlan": {"vni": "42"}}), "spec.encapsulation.vxlan.vni"),
    (target(encapsulation={"vxlan": {"vni": 1.5}}), "spec.encapsulation.vxlan.vni"),
    (target(encapsulation={"vxlan": {}}), "spec.encapsulation.vxlan.vni"),
    (target(encapsulation={"vxlan": {"vni": None}}), "spec.encapsulation.vxlan.vni"),
    (target(encapsulation={"gre": {"key": 1 << 32}}), "spec.encapsulation.gre.key"),
    (target(encapsulation={"gre": {"key": -1}}), "spec.encapsulation.gre.key"),
    (target(encapsulation={"gre": {"key": 1 << 64}}), "spec.encapsulation.gre.key"),
    # I1, of the tunnel's port
    (target(encapsulation={"vxlan": {"vni": 1, "port": 0}}), "spec.encapsulation.vxlan.port"),
    (target(encapsulation={"vxlan": {"vni": 1, "port": 65536}}), "spec.encapsulation.vxlan.port"),
    (target(encapsulation={"vxlan": {"vni": 1, "port": "4789"}}), "spec.encapsulation.vxlan.port"),
    # I15
    (target(encapsulation={"geneve": {"vni": 1 << 24}}), "spec.encapsulation.geneve.vni"),
    (target(encapsulation={"geneve": {"vni": 1, "port": 0}}), "spec.encapsulation.geneve.port"),
    (target(encapsulation={"gre": {"sequence": 1}}), "spec.encapsulation.gre.sequence"),
    (target(encapsulation={"erspan": {"version": 2}}), "spec.encapsulation.erspan.sessionId"),
    (target(encapsulation={"erspan": {"version": 1, "sessionId": 1}}), "spec.encapsulation.erspan.version"),
    (target(encapsulation={"erspan": {"version": 3, "sessionId": 1024}}), "spec.encapsulation.erspan.sessionId"),
    (target(encapsulation={"vxlan": {"vni": 1}, "gre": {}}), "spec.encapsulation"),
    (target(encapsulation={"geneve": {"vni": 1}, "erspan": {"version": 2, "sessionId": 1}}), "spec.encapsulation"),
    (target(encapsulation={}), "spec.encapsulation"),
    (target(encapsulation={"gre": None}), "spec.encapsulation"),
    (target(encapsulation=...), "spec.encapsulation"),
    (target(encapsulation="vxlan"), "spec.encapsulation"),
    # I2, and what no analyzer can have
    (address("10.0.0.1/"), "spec.endpoints[0].address"),
    (address("10.0.0.0/33"), "spec.endpoints[0].address"),
    (address("fd00::01"), "spec.endpoints[0].address"),
    (address("fd00:0:0:0:0:0:0:1"), "spec.endpoints[0].address"),
    (address("FD00::1"), "spec.endpoints[0].address"),
    (address("fd00::1%eth0"), "spec.endpoints[0].address"),
    (address("fd00::1/64"), "spec.endpoints[0].address"),
    (address("::"), "spec.endpoints[0].address"),
    (address("::1"), "spec.endpoints[0].address"),
    (address("fe80::1"), "spec.endpoints[0].address"),
    (address("ff02::1"), "spec.endpoints[0].address"),
    (address("ff0e::1"), "spec.endpoints[0].address"),
    (address("::ffff:a00:1"), "spec.endpoints[0].address"),
    (address("::ffff:10.0.0.1"), "spec.endpoints[0].address"),
    (address("010.0.0.1"), "spec.endpoints[0].address"),
    (address("10.1"), "spec.endpoints[0].address"),
    (address("10.0.0.256"), "spec.endpoints[0].address"),
    (address(" 10.0.0.1"), "spec.endpoints[0].address"),
    (address("zeek.lan"), "spec.endpoints[0].address"),
    (address(""), "spec.endpoints[0].address"),
    (address("127.0.0.1"), "spec.endpoints[0].address"),
    (address("127.255.255.254"), "spec.endpoints[0].address"),
    (address("169.254.169.254"), "spec.endpoints[0].address"),
    (address("224.0.0.1"), "spec.endpoints[0].address"),
    (address("239.255.255.255"), "spec.endpoints[0].address"),
    (address("0.0.0.0"), "spec.endpoints[0].address"),
    (address("0.1.2.3"), "spec.endpoints[0].address"),
    (address("255.255.255.255"), "spec.endpoints[0].address"),
    (target(endpoints=[{"address": "10.0.0.1"}, {"address": "127.0.0.1"}]), "spec.endpoints[1].address"),
    (target(endpoints=[]), "spec.endpoints"),
    (target(endpoints=...), "spec.endpoints"),
    (target(endpoints=ADDRESSES), "spec.endpoints"),
    (target(endpoints={"address": "10.0.0.1"}), "spec.endpoints"),
    (target(endpoints=[{}]), "spec.endpoints[0]"),
    (target(endpoints=[{"address": "10.0.0.1"} | SERVICE]), "spec.endpoints[0]"),
    (target(endpoints=[{"address": "10.0.0.1"}, {"address": "10.0.0.1"}]), "spec.endpoints"),
    (target(endpoints=[SERVICE, {"address": "10.0.0.1"}, SERVICE]), "spec.endpoints"),
    (target(endpoints=[{"service": {"namespace": "ids"}}]), "spec.endpoints[0].service.name"),
    (target(endpoints=[{"service": {"namespace": "i/s", "name": "zeek"}}]), "spec.endpoints[0].service.namespace"),
    # I10
    (target(outer={"ttl": 0}), "spec.outer.ttl"),
    (target(outer={"ttl": 256}), "spec.outer.ttl"),
    (target(outer={"ttl": "1000y"}), "spec.outer.ttl"),
    (target(outer={"dscp": 64}), "spec.outer.dscp"),
    (target(outer={"dscp": -1}), "spec.outer.dscp"),
    (target(outer={"dscp": "copy"}), "spec.outer.dscp"),
    (target(outer={"dscp": "46"}), "spec.outer.dscp"),
    (target(outer={"dscp": 1.5}), "spec.outer.dscp"),
    (target(outer={"dscp": True}), "spec.outer.dscp"),
    (target(outer={"dontFragment": "true"}), "spec.outer.dontFragment"),
    (target(outer={"udpChecksum": 1}), "spec.outer.udpChecksum"),
    (target(encapsulation={"gre": {}}, outer={"udpChecksum": True}), "outer.udpChecksum"),
    (target(oversize="segment"), "spec.oversize"),
    (target(limits={"maxDurationSeconds": 0}), "spec.limits.maxDurationSeconds"),
    (mirror(durationSeconds=0), "spec.durationSeconds"),
    (mirror(durationSeconds=-1), "spec.durationSeconds"),
    (mirror(durationSeconds=366 * 86400 + 1), "spec.durationSeconds"),
    (mirror(durationSeconds="1000y"), "spec.durationSeconds"),
    (mirror(expireTime="2026-01-31"), "spec.expireTime"),
    (mirror(expireTime="2026-01-31T12:00:00"), "spec.expireTime"),
    (mirror(expireTime="2026-02-30T12:00:00Z"), "spec.expireTime"),
    (mirror(expireTime="2026-01-31T12:00:60Z"), "spec.expireTime"),
    (mirror(expireTime="9026-01-31T12:00:00Z"), "spec.expireTime"),
    (mirror(expireTime="tomorrow"), "spec.expireTime"),
    (mirror(expireTime=[]), "spec.expireTime"),
    # I8
    (mirror(snapLength=13), "spec.snapLength"),
    (mirror(snapLength=1), "spec.snapLength"),
    (mirror(snapLength=65536), "spec.snapLength"),
    (mirror(snapLength=-1), "spec.snapLength"),
    (target(limits={"maxSnapLength": 13}), "spec.limits.maxSnapLength"),
    (target(limits={"maxSnapLength": 0}), "spec.limits.maxSnapLength"),
    # I11
    (mirror(direction="ingress"), "spec.direction"),
    (mirror(direction=""), "spec.direction"),
    # I4, I5, I6
    (mirror(rules=[]), "spec.rules"),
    (mirror(rules=FILTERS), "spec.rules"),
    (mirror(rules=[FILTERS[1], FILTERS[1]]), "spec.rules"),
    (mirror(rules=[{"action": "Skip"}, FILTERS[1], {"action": "Mirror"}]), "spec.rules"),
    (mirror(rules=[{"action": "Skip", "filter": f"{n:02}" + "x" * 1023} for n in range(64)]), "spec.rules"),
    (mirror(rules=[{"action": "Skip", "filter": f"{n:02}" + "x" * 4094} for n in range(64)]), "spec.rules"),
    (mirror(rules=[{"action": "skip", "filter": "arp"}]), "spec.rules[0].action"),
    (mirror(rules=[FILTERS[0], {"filter": "arp"}]), "spec.rules[1].action"),
    (mirror(filter="arp", rules=FILTERS[:1]), "spec"),
    (mirror(filter=""), "spec.filter"),
    (mirror(filter=" \t\n"), "spec.filter"),
    (mirror(filter="x" * 4097), "spec.filter"),
    (mirror(filter=80), "spec.filter"),
    (mirror(filter=["arp"]), "spec.filter"),
    # I12
    (requirement(operator="in"), "spec.podSelector.matchExpressions[0].operator"),
    (requirement(operator="Gt"), "spec.podSelector.matchExpressions[0].operator"),
    (requirement(values=[]), "spec.podSelector.matchExpressions[0]"),
    (requirement(operator="Exists"), "spec.podSelector.matchExpressions[0]"),
    (requirement(operator="DoesNotExist"), "spec.podSelector.matchExpressions[0]"),
    (requirement(key="a b"), "spec.podSelector.matchExpressions[0].key"),
    (requirement(key=""), "spec.podSelector.matchExpressions[0].key"),
    (requirement(values=["-"]), "spec.podSelector.matchExpressions[0].values[0]"),
    (requirement(values=["x" * 64]), "spec.podSelector.matchExpressions[0].values[0]"),
    (traffic(podSelector={"matchLabels": {"a b": "c"}}), "spec.podSelector.matchLabels"),
    (traffic(podSelector={"matchLabels": {"a": 1}}), "spec.podSelector.matchLabels"),
    (traffic(podSelector={"matchLabels": {"a": None}}), "spec.podSelector.matchLabels"),
    (traffic(podSelector={"matchLabels": {"a": "b c"}}), "spec.podSelector.matchLabels"),
    (traffic(podSelector=[]), "spec.podSelector"),
    (traffic(podSelector=...), "spec.podSelector"),
    (target(allowedNamespaces={"matchLabels": {"/": "c"}}), "spec.allowedNamespaces.matchLabels"),
    (mirror(nodeSelector={"pool": "edge!"}), "spec.nodeSelector"),
    (mirror(nodeSelector={"": "edge"}), "spec.nodeSelector"),
    (mirror(podSelector={}), "spec"),
    (mirror(namespaceSelector={}), "spec"),
    (mirror(interfaces=...), "spec"),
    # I13
    (traffic(targetRefs=[{"name": "zeek", "namespace": "ids"}]), "namespace"),
    (mirror(targetRefs=[]), "spec.targetRefs"),
    (mirror(targetRefs=...), "spec.targetRefs"),
    (mirror(targetRefs=[{"name": "a"}, {"name": "b"}, {"name": "a"}]), "spec.targetRefs"),
    (mirror(targetRefs=[{"name": name} for name in "abcde"]), "spec.targetRefs"),
    (mirror(targetRefs=[{}]), "spec.targetRefs[0].name"),
    # I14
    (mirror(targetRefs=[{"name": "x" * 4096}]), "spec.targetRefs[0].name"),
    (mirror(targetRefs=[{"name": "zé"}]), "spec.targetRefs[0].name"),
    (mirror(targetRefs=[{"name": "a\0"}]), "spec.targetRefs[0].name"),
    (mirror(targetRefs=[{"name": "A"}]), "spec.targetRefs[0].name"),
    (mirror(interfaces=["a\0b"]), "spec.interfaces[0]"),
    (mirror(interfaces=["x" * 65]), "spec.interfaces[0]"),
    (mirror() | {"metadata": {"name": "a_b"}}, "metadata.name"),
    (mirror() | {"metadata": {"name": "x" * 254}}, "metadata.name"),
    # I9
    (mirror(rateLimit={"packetsPerSecond": 0}), "spec.rateLimit.packetsPerSecond"),
    (mirror(rateLimit={"packetsPerSecond": -1}), "spec.rateLimit.packetsPerSecond"),
    (mirror(rateLimit={"packetsPerSecond": 10**12}), "spec.rateLimit.packetsPerSecond"),
    (target(rateLimit={"kilobitsPerSecond": 0}), "spec.rateLimit.kilobitsPerSecond"),
    (target(rateLimit={}), "spec.rateLimit"),
    (target(rateLimit={"kilobitsPerSecond": 1, "burstPackets": 1}), "spec.rateLimit"),
    (traffic(rateLimit={"packetsPerSecond": 1, "burstPackets": 3601}), "spec.rateLimit"),
    (traffic(rateLimit={"kilobitsPerSecond": 2, "burstKilobits": 7201}), "spec.rateLimit"),
    # I19
    (mirror(sampling={"oneIn": 0}), "spec.sampling.oneIn"),
    (mirror(sampling={"oneIn": 1 << 32}), "spec.sampling.oneIn"),
    (mirror(sampling={"per": "Flow"}), "spec.sampling.oneIn"),
    (traffic(sampling={"oneIn": 2, "per": "flow"}), "spec.sampling.per"),
    # I16
    (target(encapsulation={"vxlan": {"vni": 1, "prot": 2}}), "prot"),
    (target(max_snap_length=5), "max_snap_length"),
    (target(unknown=None), "unknown"),
    (traffic(interfaces=["eth0"]), "interfaces"),
    (traffic(namespaceSelector={}), "namespaceSelector"),
    (traffic() | {"speck": {}}, "speck"),
    # I18: what YAML has made of a word or a number
    (mirror(interfaces=[True]), "spec.interfaces[0]"),
    (mirror(interfaces=[0]), "spec.interfaces[0]"),
    (mirror(suspend="on"), "spec.suspend"),
    (mirror(suspend=1), "spec.suspend"),
    (mirror(snapLength="0o100"), "spec.snapLength"),
    (mirror(interfaces=[None]), "spec.interfaces[0]"),
    # Interfaces
    (mirror(interfaces=["abcdefghijklmnop"]), "spec.interfaces[0]"),
    (mirror(interfaces=["ünïcödeünïcöd"]), "spec.interfaces[0]"),
    (mirror(interfaces=["a/b"]), "spec.interfaces[0]"),
    (mirror(interfaces=["a:b"]), "spec.interfaces[0]"),
    (mirror(interfaces=["a b"]), "spec.interfaces[0]"),
    (mirror(interfaces=["a\u2028"]), "spec.interfaces[0]"),
    (mirror(interfaces=[""]), "spec.interfaces[0]"),
    (mirror(interfaces=["eth0", ".."]), "spec.interfaces[1]"),
    (mirror(interfaces=[]), "spec.interfaces"),
    (mirror(interfaces="eth0"), "spec.interfaces"),
    (mirror(interfaces=["eth*"] * 65), "spec.interfaces"),
]


@pytest.mark.parametrize(("document", "field"), BAD, ids=[f"{number}-{field}" for number, (_, field) in enumerate(BAD)])
def test_refused_by_both(api: Cluster, document: Document, field: str) -> None:
    """CASES I: the API server and lint refuse it, and both name the field."""
    taken, answer = asked(api, document)
    assert not taken, "the API server takes it"
    assert field in answer["message"]
    source = linted(document)
    assert source.resources == (), "lint takes it"
    words = [f"{problem.field} {problem.given}" for problem in source.problems]
    assert any(field in word for word in words), words


GOOD = [
    target(),
    target(encapsulation={"vxlan": {"vni": 0, "port": 65535}}),
    target(encapsulation={"vxlan": {"vni": (1 << 24) - 1, "port": 1}}),
    target(encapsulation={"gre": {}}),
    target(oversize="Truncate", rateLimit={"kilobitsPerSecond": 10**8, "burstKilobits": 36 * 10**10}),
    traffic(sampling={"oneIn": 1 << 31}, rateLimit={"packetsPerSecond": 1, "burstPackets": 3600}),
    mirror(sampling={"oneIn": 1, "per": "Packet"}, rateLimit={"packetsPerSecond": 5, "kilobitsPerSecond": 7}),
    target(encapsulation={"gre": {"key": (1 << 32) - 1}, "vxlan": None}),
    target(endpoints=ADDRESSES[:8], outer={"ttl": 255}),
    target(endpoints=[{"address": text} for text in ("fd00::1", "2001:db8:0:1:1:1:1:1", "1::", "::1:0", "10.0.0.1")]),
    target(encapsulation={"gre": {"key": 1, "sequence": True}}, outer={"dscp": "Copy", "dontFragment": True}),
    target(encapsulation={"geneve": {"vni": 1}}, outer={"udpChecksum": True}),
    target(encapsulation={"erspan": {"version": 2, "sessionId": 0}}, outer={"dscp": 0, "udpChecksum": False}),
    target(encapsulation={"erspan": {"version": 3, "sessionId": 1023}}),
    target(endpoints=[SERVICE, {"address": "240.0.0.1"}, {"service": {"namespace": "ids", "name": "suricata"}}]),
    target(oversize="Drop", outer={"dscp": 63}, suspend=True),
    target(limits={"maxSnapLength": 14, "maxDurationSeconds": 86400}, allowedNamespaces={}),
    target(allowedNamespaces={"matchLabels": {"example.org/team": "shop", "x": ""}}, outer=None),
    mirror(snapLength=65535, direction="Ingress", filter="x" * 4096),
    mirror(rules=FILTERS[:64], suspend=None),
    mirror(rules=[{"action": "Skip", "filter": f"{n:02}" + "x" * 1022} for n in range(64)]),
    mirror(rules=[{"action": "Skip", "filter": f"{n:02}" + "x" * 4094} for n in range(16)]),
    mirror(rules=[{"action": "Skip", "filter": "arp"}, {"action": "Mirror"}], filter=None),
    mirror(interfaces=["abcdefghijklmno", "veth[0-9a-f]*-and-longer", "*", "ünï", "e-_.!~@"]),
    mirror(interfaces=["eth*"] * 64, nodeSelector={"pool": "edge"}),
    mirror(interfaces=..., podSelector={}, includeProtectedNamespaces=True),
    mirror(interfaces=..., namespaceSelector={"matchLabels": {"a": "b"}}, durationSeconds=366 * 86400),
    mirror(targetRefs=[{"name": name} for name in "abcd"]),
    requirement(operator="NotIn", key="example.org/app", values=["", "b.c"]),
    requirement(operator="Exists", values=[]),
    traffic(expireTime="2026-01-31T12:00:00.123456+05:30"),
    traffic(podSelector={"matchLabels": {}, "matchExpressions": None}, snapLength=14),
]


@pytest.mark.parametrize("document", GOOD, ids=range(len(GOOD)))
def test_taken_by_both(api: Cluster, document: Document) -> None:
    """And what the API server makes of it, defaults filled in, is what lint's model says."""
    taken, answer = asked(api, document)
    assert taken, answer["message"]
    assert_same(document, answer)


def assert_same(document: Document, stored: Document) -> None:
    source = linted(document)
    assert source.problems == ()
    kind = KINDS[document["kind"]]
    assert kind.model_validate(stored, by_alias=True, by_name=False).spec == source.resources[0].value.spec


# Whatever one may write

RICH: list[Document] = [
    target(
        encapsulation={"vxlan": {"vni": 42, "port": 4789}},
        endpoints=[{"address": "10.0.9.5"}, SERVICE],
        oversize="Drop",
        outer={"ttl": 3, "dscp": 8},
        allowedNamespaces={
            "matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d"]}],
        },
        limits={"maxSnapLength": 64, "maxDurationSeconds": 5},
        suspend=True,
    ),
    target(encapsulation={"gre": {"key": 7}}),
    target(encapsulation={"geneve": {"vni": 42}}, endpoints=[{"address": "fd00::9:5"}], outer={"udpChecksum": True}),
    target(encapsulation={"erspan": {"version": 3, "sessionId": 5}}, outer={"dscp": "Copy", "dontFragment": True}),
    mirror(filter="arp", nodeSelector={"a": "b"}, snapLength=64, suspend=True, direction="Both"),
    mirror(
        rules=[{"action": "Skip", "filter": "arp"}, {"action": "Mirror"}],
        durationSeconds=5,
        expireTime="2026-01-31T12:00:00Z",
        targetRefs=[{"name": "a"}, {"name": "b"}],
        interfaces=["eth0", "bond*"],
    ),
    mirror(interfaces=..., namespaceSelector={"matchLabels": {"a": "b"}}, podSelector={}),
    traffic(podSelector={"matchExpressions": [{"key": "c", "operator": "Exists"}]}, filter="tcp"),
]
NUMBERS = [0, 1, -1, 5, 13, 14, 63, 64, 255, 256, 65535, 65536, 1 << 24, 1 << 32, 1 << 63, 1 << 64, 0.5, -1.5, 1e30]
TEXTS = [
    *(
        "",
        " ",
        "\n",
        "\0",
        "a",
        "b",
        "A",
        "a.b",
        "a/b",
        "a b",
        "-",
        ".",
        "..",
        "*",
        "e*",
        "[",
        "é",
        "e\u0301",
        "\u200b",
    ),
    *("\u00a0", "\u202e", "\ufffd", "0", "80", "on", "null", "~", "x" * 15, "x" * 16, "é" * 8, "x" * 63, "x" * 64),
    *(
        "x" * 253,
        "x" * 254,
        "x" * 317,
        "a.b/" + "x" * 63,
        "x" * 4096,
        "x" * 4097,
        "10.0.0.1",
        "10.0.9.5",
        "10.0.0.1/24",
    ),
    *(
        "127.0.0.1",
        "0.1.2.3",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "::1",
        "::ffff:10.0.0.1",
        "1.2.3.04",
        "1.2.3",
    ),
    *("Both", "both", "Ingress", "Mirror", "Skip", "In", "NotIn", "Exists", "DoesNotExist", "Segment", "Drop", "arp"),
    *("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5+01:00", "2026-01-31t12:00:00z", "2026-02-29T00:00:00Z"),
    *(
        "2026-01-31",
        "2024-02-29T23:59:59-23:59",
        "2026-01-31T12:00:00+24:00",
        "2026-01-31T12:00Z",
        "1999-01-01T00:00:00Z",
    ),
]
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False, [], {}, [None], {"a": None}, [[]], {"a": "b"}, {"name": "a"}]),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.integers(-10, 70000),
)


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, many of them good."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.sampled_from([number for number in NUMBERS if isinstance(number, int)])
    return st.sampled_from(TEXTS) if isinstance(value, str) else st.just(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a value but the value itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in items:
        yield (*path, step)
        yield from places(inner, (*path, step))


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A good document with one to three changes: a value replaced, taken away, given twice, or added."""
    document = copy.deepcopy(draw(st.sampled_from(RICH)))
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document["spec"]))
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        around = document["spec"]
        for step in path:
            around = around[step]
        change = draw(st.sampled_from(["like", "like", "replace", "remove", "add"]))
        if change == "like":
            around[last] = copy.deepcopy(draw(like(around[last])))
        elif change == "replace":
            around[last] = copy.deepcopy(draw(VALUES))
        elif change == "remove":
            del around[last]
        elif isinstance(around, list):
            around.append(copy.deepcopy(draw(st.one_of(st.just(around[last]), VALUES))))
        else:
            around[draw(st.sampled_from(["key", "gre", "port", "x", "service", "interfaces", "rules"]))] = (
                copy.deepcopy(draw(VALUES))
            )
    return document


@given(documents())
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
def test_lint_and_the_api_server_agree(api: Cluster, document: Document) -> None:
    taken, answer = asked(api, document)
    source = linted(document)
    assert taken == (source.problems == ()), (answer.get("message"), [str(problem) for problem in source.problems])
    if taken:
        assert_same(document, answer)


def test_spellings_that_only_lint_sees(api: Cluster) -> None:
    """I18: to the API server these are plain numbers; whoever wrote them in YAML may have meant something else.

    An agent can read them: what is stored is an integer.
    """
    for spelled, number in (("0100", 64), ("64.0", 64)):
        text = yaml.safe_dump(target(encapsulation={"gre": {"key": "HERE"}})).replace("HERE", spelled)
        assert [problem.field for problem in read(text, "f.yaml").problems] == ["spec.encapsulation.gre.key"]
        taken = json.loads(api.kubectl("create", "-f", "-", "--dry-run=server", "-o", "json", stdin=text))
        assert repr(taken["spec"]["encapsulation"]["gre"]["key"]) == repr(number)


# What happens later


def test_endpoints_cannot_be_changed(api: Cluster) -> None:
    """I17, G5: a grant is for these endpoints. Everything else may be edited."""
    made = target(endpoints=[{"address": "10.0.9.5"}, {"address": "10.0.9.6"}])
    made["metadata"]["name"] = "unchanging"
    api.apply(made)
    try:
        for endpoints in (
            [{"address": "10.0.9.7"}, {"address": "10.0.9.6"}],
            [{"address": "10.0.9.5"}],
            [{"address": "10.0.9.6"}, {"address": "10.0.9.5"}],
            [*made["spec"]["endpoints"], SERVICE],
        ):
            change = {"spec": {"endpoints": endpoints}}
            path = api.api.path("MirrorTarget", "unchanging")
            status, answer = api.api.request("PATCH", path, change, content_type="application/merge-patch+json")
            assert status == 422
            assert "spec.endpoints" in answer["message"]
            assert "cannot be changed" in answer["message"]
        changed = api.patch("MirrorTarget", "unchanging", {"spec": {"suspend": True, "outer": {"ttl": 9}}})
        assert (changed["spec"]["suspend"], changed["spec"]["outer"]) == (
            True,
            {"ttl": 9, "dscp": 0, "dontFragment": False, "udpChecksum": False},
        )
    finally:
        api.delete("MirrorTarget", "unchanging")


def test_status_is_apart(api: Cluster) -> None:
    """Who writes the spec does not write the status, and the other way round."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": now, "observedGeneration": 1}
    status = {"pods": 2, "nodes": 1, "readyNodes": 1, "conditions": [ready]}
    made = traffic(targetRefs=[{"name": "zeek"}, {"name": "suricata"}]) | {"status": status}
    made["metadata"] = {"name": "apart", "namespace": NAMESPACE}
    try:
        [stored] = api.apply(made)
        assert "status" not in stored
        assert stored["metadata"]["generation"] == 1
        path = api.api.path("TrafficMirror", "apart", NAMESPACE)
        change = {"status": status, "spec": {"suspend": True}}
        stored = api.api.ask("PATCH", f"{path}/status", change, content_type="application/merge-patch+json")
        assert (stored["status"], stored["spec"]["suspend"]) == (status, False)
        assert stored["metadata"]["generation"] == 1
        words = api.kubectl("get", "tm", "apart", "-n", NAMESPACE).splitlines()
        assert words[0].split() == ["NAME", "TARGET", "PODS", "NODES", "READYNODES", "READY", "REASON", "AGE"]
        assert words[1].split()[1:7] == ["zeek", "2", "1", "1", "True", "Ready"]
        assert '[{"name":"zeek"},{"name":"suricata"}]' in api.kubectl(
            "get", "tm", "apart", "-n", NAMESPACE, "-o", "wide"
        )
        assert "apart" in api.kubectl("get", "sniffer", "-n", NAMESPACE)
        api.kubectl("wait", "--for=condition=Ready", "trafficmirror/apart", "-n", NAMESPACE, "--timeout=10s")
    finally:
        api.delete("TrafficMirror", "apart", NAMESPACE)


def test_what_kubectl_prints(api: Cluster) -> None:
    """Of kinds that have no namespace: names, targets, conditions."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "lastTransitionTime": now, "observedGeneration": 1}
    node = {"apiVersion": API_VERSION, "kind": "SnifferNode", "metadata": {"name": "one"}}
    said = {"state": "Running", "version": "0.1.0", "mirrors": [], "reported": now}
    accepted = ready | {"type": "Accepted", "reason": "Accepted"}
    for short, made, status, expected in (
        (
            "ctm",
            mirror(),
            {"pods": 0, "nodes": 3, "readyNodes": 2, "conditions": [ready]},
            "NAME TARGET PODS NODES READYNODES READY REASON AGE\none zeek 0 3 2 True Ready",
        ),
        (
            "mt",
            target(),
            {"conditions": [accepted]},
            "NAME ADDRESS SERVICE ACCEPTED REASON AGE\none 10.0.9.5 True Accepted",
        ),
        ("snode", node, said, "NAME STATE VERSION REPORTED AGE\none Running 0.1.0"),
    ):
        kind = made["kind"]
        try:
            api.apply(made)
            path = f"{api.api.path(kind, 'one')}/status"
            api.api.ask("PATCH", path, {"status": status}, content_type="application/merge-patch+json")
            printed = [" ".join(line.split()) for line in api.kubectl("get", short).splitlines()]
        finally:
            api.delete(kind, "one")
        head, line = expected.splitlines()
        assert printed[0] == head
        assert printed[1].startswith(line), printed[1]


@pytest.mark.parametrize("short", ["tm", "ctm", "mt", "snode"])
def test_short_names(api: Cluster, short: str) -> None:
    assert "No resources" in api.kubectl("get", short, "-A", check=False)


def test_unknown_fields_and_kubectl(api: Cluster) -> None:
    """I16: kubectl refuses what nobody knows; told not to look, the API server leaves it out."""
    made = yaml.safe_dump(traffic(colour="red"))
    words = api.kubectl("apply", "-f", "-", stdin=made, check=False)
    assert 'unknown field "spec.colour"' in words
    taken = api.kubectl("create", "-f", "-", "--validate=false", "--dry-run=server", "-o", "yaml", stdin=made)
    assert "colour" not in yaml.safe_load(taken)["spec"]


def test_explain(api: Cluster) -> None:
    """`kubectl explain` has words for every field: its document is the API server's, not the chart's."""
    assert "first rule whose filter matches" in api.kubectl("explain", "trafficmirrors.spec.rules")
    schemas = api.api.ask("GET", "/openapi/v3/apis/sniffer.dev/v1alpha1")["components"]["schemas"]
    for kind in CRD_KINDS:
        schema = schemas[f"dev.sniffer.v1alpha1.{kind.__name__}"]
        for name in {"spec", "status"} & set(schema["properties"]):
            described(schema["properties"][name], f"{kind.__name__}.{name}")


def described(schema: Document, path: str) -> None:
    assert schema.get("description"), path
    inner = schema.get("items", schema)
    for name, field in inner.get("properties", {}).items():
        described(field, f"{path}.{name}")
