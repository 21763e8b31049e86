"""The rows of the table."""

from typing import Any

from bench.lanes import PORT, Row, rival

ORDINARY = "udp port 53"
HOSTS = "net 10.0.0.0/8 and udp port 443 and not host 10.0.0.5"
TWENTY = "udp and (" + " or ".join(f"port {port}" for port in range(1009, 9600, 441)) + ")"
"""Every one of the twenty is compared with both ports of a packet: libpcap has no way to skip any."""

assert str(PORT) not in TWENTY

FOUNDATION = (
    Row("none", "no program"),
    Row("empty", "empty program", attach=lambda bed, device: bed.tcx(device, "empty")),
    Row("floor", "bare clone to the uplink (floor)", 0, lambda bed, device: bed.tcx(device, "bare_clone")),
    Row("rival", "tc mirred + kernel vxlan (rival)", 50, rival),
)


def ours(name: str, label: str, text: str | None = None, target: str = "vxlan", overhead: int | None = None) -> Row:
    """A row that the agent makes."""
    manifest = {"targetRefs": [{"name": target}]} | ({"filter": text} if text else {})
    return Row(name, label, overhead, manifest=manifest)


def limited(name: str, label: str, spec: dict[str, Any], overhead: int | None = None, **expected: Any) -> Row:
    """A row that the agent makes, of a mirror that is limited."""
    return Row(name, label, overhead, manifest={"targetRefs": [{"name": "vxlan"}]} | spec, **expected)


ERSPAN = {"version": 3, "sessionId": 7}
SUM = {"udpChecksum": True}
TARGETS: dict[str, tuple[bool, dict[str, Any], dict[str, Any]]] = {
    "vxlan": (False, {"vxlan": {"vni": 4242}}, {}),
    "gre": (False, {"gre": {}}, {}),
    "sequence": (False, {"gre": {"key": 7, "sequence": True}}, {}),
    "geneve": (False, {"geneve": {"vni": 7}}, {}),
    "erspan2": (False, {"erspan": ERSPAN | {"version": 2}}, {}),
    "erspan3": (False, {"erspan": ERSPAN}, {}),
    "vxlan6": (True, {"vxlan": {"vni": 4242}}, {}),
    "geneve6": (True, {"geneve": {"vni": 7}}, {}),
    "checksum": (False, {"vxlan": {"vni": 4243}}, SUM),
}
"""Of each: whether over IPv6, its tunnel, its outer header."""

OURS = (
    ours("vxlan", "ours, VXLAN", overhead=50),
    ours("gre", "ours, GRE", target="gre", overhead=38),
    ours("sequence", "ours, GRE with key and number", target="sequence", overhead=46),
    ours("geneve", "ours, GENEVE", target="geneve", overhead=90),
    ours("erspan2", "ours, ERSPAN II", target="erspan2", overhead=50),
    ours("erspan3", "ours, ERSPAN III", target="erspan3", overhead=54),
    ours("vxlan6", "ours, VXLAN over IPv6", target="vxlan6", overhead=70),
    ours("geneve6", "ours, GENEVE over IPv6", target="geneve6", overhead=110),
    ours("checksum", "ours, VXLAN with a checksum", target="checksum", overhead=50),
    limited("snap", "ours, VXLAN, 64 bytes of each", {"snapLength": 64}, 50, snap=64),
    limited("sampled", "ours, not in a sample of flows", {"sampling": {"oneIn": 1 << 31}}),
    limited("chance", "ours, not in a sample of packets", {"sampling": {"oneIn": 1 << 31, "per": "Packet"}}, few=True),
    limited("within", "ours, VXLAN, within a rate", {"rateLimit": {"packetsPerSecond": 100_000_000}}, 50),
    limited("above", "ours, above a rate", {"rateLimit": {"packetsPerSecond": 1}}, few=True),
    ours("filtered", f"ours, VXLAN, matching `udp port {PORT}`", f"udp port {PORT}", overhead=50),
    ours("ordinary", f"ours, not matching `{ORDINARY}`", ORDINARY),
    ours("hosts", f"ours, not matching `{HOSTS}`", HOSTS),
    ours("twenty", "ours, not matching twenty UDP ports", TWENTY),
)

SUPER = ("none", "rival", "vxlan", "geneve", "gre")
"""Rows that are measured with super-packets of UDP, too. GRE's are cut into datagrams by the relay."""
