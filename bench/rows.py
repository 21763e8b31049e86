"""The rows of the table."""

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


OURS = (
    ours("vxlan", "ours, VXLAN", overhead=50),
    ours("gre", "ours, GRE", target="gre", overhead=38),
    ours("filtered", f"ours, VXLAN, matching `udp port {PORT}`", f"udp port {PORT}", overhead=50),
    ours("ordinary", f"ours, not matching `{ORDINARY}`", ORDINARY),
    ours("hosts", f"ours, not matching `{HOSTS}`", HOSTS),
    ours("twenty", "ours, not matching twenty UDP ports", TWENTY),
)
