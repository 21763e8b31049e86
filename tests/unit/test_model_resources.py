"""What a resource may say: every bound of every field, from both sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer.model.base import ClusterMetadata
from sniffer.model.identity import Identity
from sniffer.model.manifest import Problem, Source, read
from sniffer.model.resources import (
    ClusterMirrorSpec,
    ClusterTrafficMirror,
    Direction,
    MirrorTarget,
    Oversize,
    TargetRef,
    is_pattern,
)

TARGET = """
apiVersion: sniffer.dev/v1alpha1
kind: MirrorTarget
metadata: {name: zeek}
spec:
  encapsulation: {vxlan: {vni: 42}}
  endpoints: [{address: 10.0.9.5}]
"""
MIRROR = """
apiVersion: sniffer.dev/v1alpha1
kind: ClusterTrafficMirror
metadata: {name: replay}
spec:
  interfaces: [eth0]
  targetRefs: [{name: zeek}]
"""


def source(text: str) -> Source:
    return read(text, "f.yaml")


def target(**fields: str) -> str:
    """TARGET with these lines of the spec in place of its own."""
    spec = {"encapsulation": "{vxlan: {vni: 42}}", "endpoints": "[{address: 10.0.9.5}]"} | fields
    return (
        TARGET.split("spec:", maxsplit=1)[0]
        + "spec:\n"
        + "".join(f"  {name}: {value}\n" for name, value in spec.items())
    )


def mirror(**fields: str) -> str:
    spec = {"interfaces": "[eth0]", "targetRefs": "[{name: zeek}]"} | fields
    return (
        MIRROR.split("spec:", maxsplit=1)[0]
        + "spec:\n"
        + "".join(f"  {name}: {value}\n" for name, value in spec.items())
    )


def only_problem(text: str) -> Problem:
    found = source(text)
    assert found.resources == ()
    assert len(found.problems) == 1, [str(problem) for problem in found.problems]
    return found.problems[0]


def test_defaults() -> None:
    [first, second] = source(f"{TARGET}---{MIRROR}").resources
    spec = first.value.spec
    assert isinstance(first.value, MirrorTarget)
    assert spec.encapsulation.vxlan.port == 4789
    assert spec.encapsulation.gre is None
    assert (spec.oversize, spec.outer.ttl, spec.outer.dscp, spec.suspend) == (Oversize.SEGMENT, 64, 0, False)
    assert spec.limits.max_snap_length is None
    assert isinstance(second.value, ClusterTrafficMirror)
    assert second.value.spec == ClusterMirrorSpec(interfaces=("eth0",), target_refs=(TargetRef(name="zeek"),))
    assert second.value.spec.direction is Direction.BOTH
    assert second.identity == Identity("ClusterTrafficMirror", None, "replay")


GOOD = [
    target(encapsulation="{vxlan: {vni: 0}}"),
    target(encapsulation="{vxlan: {vni: 16777215, port: 65535}}"),
    target(encapsulation="{vxlan: {vni: 0x1092, port: 1}}"),
    target(encapsulation="{gre: {}}"),
    target(encapsulation="{gre: {key: 0}}"),
    target(encapsulation="{gre: {key: 4294967295}}"),
    target(endpoints="[" + ", ".join(f"{{address: 10.0.0.{n}}}" for n in range(1, 9)) + "]"),
    target(oversize="Drop"),
    target(oversize="Truncate"),
    target(outer="{ttl: 1, dscp: 63}"),
    target(outer="{ttl: 255}"),
    target(outer="{dscp: Copy, dontFragment: true, udpChecksum: true}"),
    target(encapsulation="{gre: {sequence: true}}"),
    target(encapsulation="{geneve: {vni: 16777215, port: 1}}", outer="{udpChecksum: true}"),
    target(encapsulation="{erspan: {version: 2, sessionId: 0}}"),
    target(encapsulation="{erspan: {version: 3, sessionId: 1023}}", outer="{udpChecksum: false}"),
    target(endpoints='[{address: "fd00::9:5"}, {address: 2001:db8::1}, {address: 10.0.9.5}]'),
    target(limits="{maxSnapLength: 14}", suspend="true"),
    mirror(snapLength="0"),
    mirror(snapLength="14"),
    mirror(snapLength="65535"),
    mirror(sampling="{oneIn: 1}"),
    mirror(sampling="{oneIn: 2147483648, per: Packet}"),
    mirror(rateLimit="{packetsPerSecond: 1, burstPackets: 3600}"),
    mirror(rateLimit="{kilobitsPerSecond: 100000000, burstKilobits: 360000000000}"),
    target(rateLimit="{packetsPerSecond: 100000000, kilobitsPerSecond: 1}"),
    mirror(direction="Ingress"),
    mirror(filter='"' + "x" * 4096 + '"'),
    mirror(filter="null", rules="[{action: Skip, filter: arp}, {action: Mirror}]"),
    mirror(interfaces="[abcdefghijklmno, 'veth[0-9a-f]*', '*', 'ünï']"),
    mirror(targetRefs="[{name: a}, {name: b}, {name: c}, {name: d.e-f}]"),
]


@pytest.mark.parametrize("text", GOOD)
def test_accepted(text: str) -> None:
    assert source(text).problems == ()
    assert len(source(text).resources) == 1


BAD = [
    # I3
    (target(encapsulation="{vxlan: {vni: 16777216}}"), "spec.encapsulation.vxlan.vni", "16777216", "0..16777215"),
    (target(encapsulation="{vxlan: {vni: -1}}"), "spec.encapsulation.vxlan.vni", "-1", "0..16777215"),
    (target(encapsulation="{gre: {key: 4294967296}}"), "spec.encapsulation.gre.key", "4294967296", "0..4294967295"),
    (target(encapsulation="{gre: {key: -1}}"), "spec.encapsulation.gre.key", "-1", "0..4294967295"),
    # I1, of the tunnel's port
    (target(encapsulation="{vxlan: {vni: 1, port: 0}}"), "spec.encapsulation.vxlan.port", "0", "1..65535"),
    (target(encapsulation="{vxlan: {vni: 1, port: 65536}}"), "spec.encapsulation.vxlan.port", "65536", "1..65535"),
    (target(encapsulation='{vxlan: {vni: 1, port: "80"}}'), "spec.encapsulation.vxlan.port", '"80"', "1..65535"),
    (target(encapsulation="{vxlan: {vni: 1.0}}"), "spec.encapsulation.vxlan.vni", "1.0", "0..16777215"),
    (target(encapsulation="{vxlan: {vni: true}}"), "spec.encapsulation.vxlan.vni", "true", "0..16777215"),
    (target(encapsulation="{vxlan: {port: 1}}"), "spec.encapsulation.vxlan.vni", "nothing", "0..16777215"),
    # I15
    (target(encapsulation="{vxlan: {vni: 1}, gre: {}}"), "spec.encapsulation", "both vxlan and gre", "exactly one of"),
    (target(encapsulation="{}"), "spec.encapsulation", "none of them", "exactly one of"),
    (target(encapsulation="{gre: }"), "spec.encapsulation", "none of them", "exactly one of"),
    (
        target(encapsulation="{gre: {}, geneve: {vni: 1}}"),
        "spec.encapsulation",
        "both gre and geneve",
        "exactly one of",
    ),
    (
        target(encapsulation="{vxlan: {vni: 1}, gre: {}, erspan: {version: 2, sessionId: 1}}"),
        "spec.encapsulation",
        "vxlan and gre and erspan",
        "exactly one of",
    ),
    (target(encapsulation="{gre: {sequence: 1}}"), "spec.encapsulation.gre.sequence", "1", "true, false"),
    (target(encapsulation="{geneve: {vni: 16777216}}"), "spec.encapsulation.geneve.vni", "16777216", "0..16777215"),
    (target(encapsulation="{geneve: {vni: 1, port: 0}}"), "spec.encapsulation.geneve.port", "0", "1..65535"),
    (target(encapsulation="{geneve: {port: 1}}"), "spec.encapsulation.geneve.vni", "nothing", "0..16777215"),
    (target(encapsulation="{erspan: {sessionId: 1}}"), "spec.encapsulation.erspan.version", "nothing", "2, 3"),
    (target(encapsulation="{erspan: {version: 1, sessionId: 1}}"), "spec.encapsulation.erspan.version", "1", "2, 3"),
    (
        target(encapsulation="{erspan: {version: 3, sessionId: 1024}}"),
        "spec.encapsulation.erspan.sessionId",
        "1024",
        "0..1023",
    ),
    (target(encapsulation="vxlan"), "spec.encapsulation", '"vxlan"', "a mapping with vxlan, gre"),
    # I16
    (target(encapsulation="{vxlan: {vni: 1, prot: 2}}"), "spec.encapsulation.vxlan", '"prot"', "vni, port"),
    (
        target(max_snap_length="5"),
        "spec",
        '"max_snap_length"',
        "encapsulation, endpoints, oversize, outer, allowedNamespaces, limits, rateLimit, susp",
    ),
    (target(limits="{max_snap_length: 50}"), "spec.limits", '"max_snap_length"', "maxSnapLength"),
    # I2
    (target(endpoints="[{address: 10.0.0.1/}]"), "spec.endpoints[0].address", '"10.0.0.1/"', "an IP address as in"),
    (target(endpoints="[{address: 10.0.0.0/33}]"), "spec.endpoints[0].address", '"10.0.0.0/33"', "an IP address"),
    (target(endpoints='[{address: "fd00::01"}]'), "spec.endpoints[0].address", '"fd00::01"', "in its canonical form"),
    (target(endpoints='[{address: "FD00::1"}]'), "spec.endpoints[0].address", '"FD00::1"', "in its canonical form"),
    (target(endpoints='[{address: "fd00::1%up0"}]'), "spec.endpoints[0].address", '"fd00::1%up0"', "canonical form"),
    (target(endpoints='[{address: "fd00::1/64"}]'), "spec.endpoints[0].address", '"fd00::1/64"', "an IP address as in"),
    (target(endpoints='[{address: "::ffff:10.0.0.1"}]'), "spec.endpoints[0].address", '"::ffff:', "canonical form"),
    (target(endpoints='[{address: "::ffff:a00:1"}]'), "spec.endpoints[0].address", '"::ffff:', "canonical form"),
    (target(endpoints='[{address: "::"}]'), "spec.endpoints[0].address", '"::"', "is unspecified)"),
    (target(endpoints='[{address: "::1"}]'), "spec.endpoints[0].address", '"::1"', "is loopback)"),
    (target(endpoints='[{address: "fe80::1"}]'), "spec.endpoints[0].address", '"fe80::1"', "is link-local)"),
    (target(endpoints='[{address: "ff02::5"}]'), "spec.endpoints[0].address", '"ff02::5"', "is multicast)"),
    (target(endpoints="[{address: 10.1}]"), "spec.endpoints[0].address", "10.1", "an IP address as in"),
    (target(endpoints="[{address: 010.0.0.1}]"), "spec.endpoints[0].address", '"010.0.0.1"', "an IP address as in"),
    (target(endpoints="[{address: zeek.lan}]"), "spec.endpoints[0].address", '"zeek.lan"', "an IP address as in"),
    (target(endpoints="[{address: 127.0.0.1}]"), "spec.endpoints[0].address", '"127.0.0.1"', "(this one is loopback)"),
    (target(endpoints="[{address: 169.254.1.1}]"), "spec.endpoints[0].address", '"169.254.1.1"', "is link-local)"),
    (target(endpoints="[{address: 224.0.0.5}]"), "spec.endpoints[0].address", '"224.0.0.5"', "is multicast)"),
    (target(endpoints="[{address: 0.0.0.0}]"), "spec.endpoints[0].address", '"0.0.0.0"', "is unspecified)"),
    (
        target(endpoints="[{address: 255.255.255.255}]"),
        "spec.endpoints[0].address",
        '"255.255.255.255"',
        "is broadcast)",
    ),
    (
        target(endpoints="[{address: 10.0.0.1}, {address: 10.0.0.1}]"),
        "spec.endpoints",
        '"10.0.0.1" twice',
        "each address",
    ),
    (target(endpoints="[]"), "spec.endpoints", "a list of 0", "a list of 1..8 endpoints"),
    (
        target(endpoints="[" + ", ".join(f"{{address: 10.0.0.{n}}}" for n in range(1, 10)) + "]"),
        "spec.endpoints",
        "a list of 9",
        "1..8",
    ),
    (target(endpoints="{address: 10.0.0.1}"), "spec.endpoints", "a mapping", "a list of 1..8 endpoints"),
    # I10
    (target(outer="{ttl: 0}"), "spec.outer.ttl", "0", "1..255"),
    (target(outer="{ttl: -1}"), "spec.outer.ttl", "-1", "1..255"),
    (target(outer="{ttl: 1000y}"), "spec.outer.ttl", '"1000y"', "1..255"),
    (target(outer="{dscp: 64}"), "spec.outer.dscp", "64", "0..63, Copy"),
    (target(outer="{dscp: -1}"), "spec.outer.dscp", "-1", "0..63, Copy"),
    (target(outer="{dscp: copy}"), "spec.outer.dscp", '"copy"', "0..63, Copy"),
    (target(outer="{dscp: true}"), "spec.outer.dscp", "true", "0..63, Copy"),
    (target(outer="{dontFragment: Copy}"), "spec.outer.dontFragment", '"Copy"', "true, false"),
    (target(outer="{udpChecksum: 1}"), "spec.outer.udpChecksum", "1", "true, false"),
    (
        target(encapsulation="{gre: {}}", outer="{udpChecksum: true}"),
        "spec",
        "outer.udpChecksum: true",
        "false, or vxlan or geneve",
    ),
    (target(oversize="segment"), "spec.oversize", '"segment"', "Segment, Drop, Truncate"),
    # I8
    (mirror(snapLength="13"), "spec.snapLength", "13", "0 (the whole frame) or 14..65535"),
    (mirror(snapLength="65536"), "spec.snapLength", "65536", "0 (the whole frame) or 14..65535"),
    (mirror(snapLength="-1"), "spec.snapLength", "-1", "0 (the whole frame) or 14..65535"),
    (target(limits="{maxSnapLength: 13}"), "spec.limits.maxSnapLength", "13", "14..65535"),
    # I19
    (mirror(sampling="{oneIn: 0}"), "spec.sampling.oneIn", "0", "1..2147483648"),
    (mirror(sampling="{oneIn: 4294967296}"), "spec.sampling.oneIn", "4294967296", "1..2147483648"),
    (mirror(sampling="{oneIn: -1}"), "spec.sampling.oneIn", "-1", "1..2147483648"),
    (mirror(sampling="{oneIn: 1.5}"), "spec.sampling.oneIn", "1.5", "1..2147483648"),
    (mirror(sampling="{per: Flow}"), "spec.sampling.oneIn", "nothing", "1..2147483648"),
    (mirror(sampling="{oneIn: 2, per: flow}"), "spec.sampling.per", '"flow"', "Flow, Packet"),
    (mirror(sampling="10"), "spec.sampling", "10", "a mapping with oneIn, per"),
    # I9
    (mirror(rateLimit="{packetsPerSecond: 0}"), "spec.rateLimit.packetsPerSecond", "0", "1..100000000"),
    (mirror(rateLimit="{packetsPerSecond: -1}"), "spec.rateLimit.packetsPerSecond", "-1", "1..100000000"),
    (
        mirror(rateLimit="{packetsPerSecond: 1000000000000}"),
        "spec.rateLimit.packetsPerSecond",
        "1000000000000",
        "1..100000000",
    ),
    (target(rateLimit="{kilobitsPerSecond: 0}"), "spec.rateLimit.kilobitsPerSecond", "0", "1..100000000"),
    (target(rateLimit="{kilobitsPerSecond: 1.5}"), "spec.rateLimit.kilobitsPerSecond", "1.5", "1..100000000"),
    (target(rateLimit="{kilobitsPerSecond: 5m}"), "spec.rateLimit.kilobitsPerSecond", '"5m"', "1..100000000"),
    (
        target(rateLimit="{packetsPerSecond: 1, burstPackets: 0}"),
        "spec.rateLimit.burstPackets",
        "0",
        "1..360000000000",
    ),
    (mirror(rateLimit="{}"), "spec.rateLimit", "neither packetsPerSecond nor kilobitsPerSecond", "or both"),
    (
        mirror(rateLimit="{kilobitsPerSecond: 1, burstPackets: 5}"),
        "spec.rateLimit",
        "burstPackets 5 without a rate",
        "burstPackets beside packetsPerSecond",
    ),
    (
        mirror(rateLimit="{packetsPerSecond: 10, burstPackets: 36001}"),
        "spec.rateLimit",
        "burstPackets 36001 at a rate of 10",
        "at most 3600 times it",
    ),
    (
        mirror(rateLimit="{kilobitsPerSecond: 10, burstKilobits: 36001}"),
        "spec.rateLimit",
        "burstKilobits 36001 at a rate of 10",
        "at most 3600 times it",
    ),
    # I11
    (mirror(direction="ingress"), "spec.direction", '"ingress"', "Ingress, Egress, Both"),
    # I4, I5, I6
    (mirror(rules="[]"), "spec.rules", "a list of 0", "a list of 1..64 rules"),
    (
        mirror(rules=f"[{', '.join(f'{{action: Skip, filter: port {n}}}' for n in range(257))}]"),
        "spec.rules",
        "a list of 257",
        "1..64",
    ),
    (
        mirror(rules="[{action: Skip, filter: a}, {action: Mirror, filter: a}]"),
        "spec.rules",
        "the same filter in rules 0 and 1",
        "once",
    ),
    (mirror(rules="[{action: skip}]"), "spec.rules[0].action", '"skip"', "Mirror, Skip"),
    (mirror(rules="[{filter: a}]"), "spec.rules[0].action", "nothing", "Mirror, Skip"),
    (mirror(filter="a", rules="[{action: Skip}]"), "spec", "both filter and rules", "one of"),
    (mirror(filter="''"), "spec.filter", '""', "without the field every frame"),
    (mirror(filter='"' + "x" * 4097 + '"'), "spec.filter", '"xxx', "at most 4096 characters"),
    # I13
    (mirror(targetRefs="[{name: a, namespace: b}]"), "spec.targetRefs[0]", '"namespace"', "name"),
    (mirror(targetRefs="[{name: a}, {name: a}]"), "spec.targetRefs", '"a" twice', "each target once"),
    (mirror(targetRefs="[]"), "spec.targetRefs", "a list of 0", "a list of 1..4"),
    (
        mirror(targetRefs="[{name: a}, {name: b}, {name: c}, {name: d}, {name: e}]"),
        "spec.targetRefs",
        "a list of 5",
        "1..4",
    ),
    # I18
    (mirror(interfaces="[on]"), "spec.interfaces[0]", "on (YAML reads it as true)", "an interface's name"),
    (mirror(interfaces="[0]"), "spec.interfaces[0]", "0", "an interface's name"),
    (mirror(suspend='"on"'), "spec.suspend", '"on"', "true, false"),
    (mirror(suspend="1"), "spec.suspend", "1", "true, false"),
    (mirror(snapLength="0o100"), "spec.snapLength", '"0o100"', "0 (the whole frame)"),
    (mirror(snapLength="0100"), "spec.snapLength", "0100 (YAML reads it as 64)", "plain decimal"),
    (mirror(snapLength="10:00"), "spec.snapLength", "10:00 (YAML reads it as 600)", "plain decimal"),
    (mirror(filter="80"), "spec.filter", "80", "a pcap-filter(7) expression"),
    # Interfaces
    (mirror(interfaces="[abcdefghijklmnop]"), "spec.interfaces[0]", '"abcdefghijklmnop"', "at most 15 bytes"),
    (mirror(interfaces="[a/b]"), "spec.interfaces[0]", '"a/b"', "without spaces, / and :"),
    (mirror(interfaces="['']"), "spec.interfaces[0]", '""', "an interface's name"),
    (mirror(interfaces="['..']"), "spec.interfaces[0]", '".."', "an interface's name"),
    (mirror(interfaces='["a\\0b"]'), "spec.interfaces[0]", '"a\\u0000b"', "an interface's name"),
    (mirror(interfaces="[]"), "spec.interfaces", "a list of 0", "a list of 1..64"),
    (mirror(interfaces="eth0"), "spec.interfaces", '"eth0"', "a list of 1..64"),
]


@pytest.mark.parametrize(("text", "field", "given", "allowed"), BAD)
def test_refused(text: str, field: str, given: str, allowed: str) -> None:
    """B5, I1 to I6, I8, I10, I11, I13, I15, I16, I18: one problem: the field, what was given, what is allowed."""
    problem = only_problem(text)
    assert problem.field == field
    assert problem.given.startswith(given)
    assert allowed in problem.allowed
    name = field.split(".")[1].split("[", maxsplit=1)[0] if "." in field else ""
    assert text.splitlines()[problem.line - 1].strip().startswith(name)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a", True),
        ("a.b-c.9", True),
        ("x" * 253, True),
        ("x" * 254, False),
        ("x" * 4096, False),
        ("", False),
        ("A", False),
        ("a_b", False),
        ("-a", False),
        ("a-", False),
        ("a..b", False),
        ("a\\n", False),
        ("a\\0", False),
        ("zéek", False),
        ("\\ud800", False),
    ],
)
def test_names(name: str, good: bool) -> None:
    """I14: names are RFC 1123; what does not print is escaped in the message."""
    found = source(TARGET.replace("name: zeek", f'name: "{name}"'))
    assert (len(found.resources), len(found.problems)) == ((1, 0) if good else (0, 1))
    for problem in found.problems:
        assert problem.field == "metadata.name"
        assert str(problem).isprintable()
        assert len(str(problem)) < 300


def test_metadata_of_a_cluster() -> None:
    """What the API server adds is taken, and a typo is not."""
    metadata = (
        "{name: zeek, uid: abc, generation: 3, creationTimestamp: 2026-01-31T12:00:00Z, resourceVersion: '12', "
        "managedFields: [{manager: kubectl}], finalizers: [x], labels: {app.kubernetes.io/name: zeek}, "
        "annotations: {a: b}}"
    )
    [resource] = source(TARGET.replace("{name: zeek}", metadata) + "status: {anything: 1}\n").resources
    loaded = resource.value.metadata
    assert (loaded.generation, loaded.uid, loaded.labels) == (3, "abc", {"app.kubernetes.io/name": "zeek"})
    assert loaded.creation_timestamp.isoformat() == "2026-01-31T12:00:00+00:00"
    quoted = source(TARGET.replace("{name: zeek}", "{name: zeek, creationTimestamp: '2026-01-31T12:00:00Z'}"))
    assert quoted.resources[0].value.metadata.creation_timestamp == loaded.creation_timestamp
    problem = only_problem(TARGET.replace("{name: zeek}", "{name: zeek, lables: {}}"))
    assert (problem.field, problem.given) == ("metadata", '"lables"')
    problem = only_problem(TARGET.replace("{name: zeek}", "{name: zeek, namespace: shop}"))
    assert (problem.field, problem.given) == ("metadata.namespace", '"shop"')
    assert "cluster-scoped" in problem.allowed


def test_identities_are_ordered() -> None:
    identities = [Identity("B", None, "a"), Identity("A", "x", "b"), Identity("A", None, "c"), Identity("A", "x", "a")]
    assert [str(identity) for identity in sorted(identities)] == ["A c", "A x/a", "A x/b", "B a"]
    assert MirrorTarget.model_validate(
        {"metadata": ClusterMetadata(name="z"), "spec": source(TARGET).resources[0].value.spec}
    ).identity == Identity("MirrorTarget", None, "z")


def test_patterns() -> None:
    assert [is_pattern(text) for text in ("eth0", "bond*", "eth?", "eth[01]")] == [False, True, True, True]


FIELDS = [
    ("target", name)
    for name in ("encapsulation", "endpoints", "oversize", "outer", "limits", "rateLimit", "suspend", "unknown")
] + [
    ("mirror", name)
    for name in (
        "interfaces",
        "direction",
        "filter",
        "rules",
        "snapLength",
        "sampling",
        "rateLimit",
        "targetRefs",
        "suspend",
    )
]
SCALARS = st.one_of(
    st.sampled_from(
        [
            "on",
            "off",
            "yes",
            "no",
            "~",
            "0o10",
            "010",
            "1:30",
            ".inf",
            ".nan",
            "1e400",
            "-0",
            "0x",
            "0b1",
            "2001-13-45",
            "!!int",
            "x",
            "<<",
        ]
    ),
    st.sampled_from(
        [
            "!foo",
            "[]",
            "{}",
            "!!binary",
            "=",
            "!!set",
            "{a}",
            "&a",
            "[*a]",
            "*b",
            "!!timestamp",
            "q",
            "!!float",
            "''",
            "!!bool",
            "maybe",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
    st.text(max_size=20).map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
)
NAMES = st.sampled_from(
    [
        "vxlan",
        "gre",
        "vni",
        "port",
        "key",
        "address",
        "name",
        "action",
        "filter",
        "ttl",
        "dscp",
        "maxSnapLength",
        "a",
        "on",
        "1",
        "~",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(NAMES, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)


@given(st.sampled_from(FIELDS), VALUES)
def test_no_value_crashes(place: tuple[str, str], value: str) -> None:
    """I14, I16, I18: whatever a field is given, there is a resource, or a problem on one printable line."""
    kind, name = place
    found = source((target if kind == "target" else mirror)(**{name: value}))
    assert found.resources or found.problems
    for problem in found.problems:
        assert str(problem).isprintable()
        assert problem.line >= 1
        str(problem).encode()
