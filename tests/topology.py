"""A node, a pod, its peer and an analyzer, as network namespaces of one machine.

    pod (eth0) ── pod0 ┐
                       ├ the run's own namespace = the node ── up0 ── eth0 (ana)
    peer (eth0) ─ peer0┘

The tests run in namespaces of their own (`scripts/isolated`), so the names are fixed and what lives in the root
namespace of the run is the node: the agent is started there. Virtual links never fill in checksums and hand
super-packets on whole; `up0` has its offloads off and so behaves as a wire does.

The addresses and MACs of the corpus (tests/packets.py) belong to nobody here: no stack answers its frames.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

Shape = Literal["bridge", "routed"]
T = TypeVar("T")


PATIENCE_S = 0 if "SNIFFER_KERNEL" not in os.environ else 120
"""What any wait is given; in an emulated machine (tests/kernels) starting Python alone takes half a minute."""

ANNOUNCED_S = 0.5
"""Until every host has announced its multicast groups."""


@dataclass(frozen=True, slots=True)
class Node:
    """The names and addresses of one topology. A namespace of None is the node itself."""

    shape: Shape
    mtu: int
    pod: str = "pod"
    pod_device: str = "pod0"
    pod_address: str = "10.1.0.20"
    pod_mac: str = "02:00:00:00:01:14"
    peer: str = "peer"
    peer_device: str = "peer0"
    peer_address: str = "10.1.0.30"
    peer_mac: str = "02:00:00:00:01:1e"
    analyzer: str = "ana"
    uplink: str = "up0"
    uplink_address: str = "10.9.0.1"
    uplink_mac: str = "02:00:00:00:09:01"
    analyzer_address: str = "10.9.0.2"
    analyzer_mac: str = "02:00:00:00:09:02"
    inside: str = "eth0"
    """The device of the pod, of the peer and of the analyzer, each in its own namespace."""


def command(netns: str | None, *words: object) -> list[str]:
    """The command line that runs `words` inside a named network namespace; None: where we are."""
    enter = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    return [*enter, *map(str, words)]


def run(*words: object, netns: str | None = None, check: bool = True, stdin: str | None = None) -> str:
    """Runs a command to its end and returns its standard output; a failure carries what it said."""
    line = command(netns, *words)
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(line)}: exit {done.returncode}\n{done.stdout}{done.stderr}{stdin or ''}")
    return done.stdout


def start(*words: object, netns: str | None = None, **options: object) -> subprocess.Popen[str]:
    """Starts a command and leaves it running; its output is discarded unless `options` of Popen say otherwise."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(netns, *words), text=True, **(streams | options))  # type: ignore[call-overload,no-any-return]


def wait_until(condition: Callable[[], T], timeout: float = 5.0, every: float = 0.01, what: str = "") -> T:
    """Asks again, every `every` seconds, until the answer is true, and returns it."""
    timeout = max(timeout, PATIENCE_S)
    end = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or condition}; last answer {answer!r}")
        time.sleep(every)
    return answer


def offloads(device: str, on: bool, netns: str | None = None) -> None:
    """Switches every offload that this device lets one switch: checksums, segmentation of any kind, tags, GRO."""
    wanted = (
        "rx-checksumming",
        "tx-checksumming",
        "generic-",
        "tcp-segmentation",
        "tx-",
        "rx-vlan",
        "rx-gro",
        "scatter",
    )
    groups = {"tx-checksumming", "scatter-gather", "tcp-segmentation-offload"}  # their members follow below
    (features,) = json.loads(run("ethtool", "--json", "-k", device, netns=netns))
    words: list[str] = []
    for name, state in features.items():
        switchable = isinstance(state, dict) and not state["fixed"] and name not in groups
        if switchable and name.startswith(wanted) and name != "tx-nocache-copy" and state["active"] != on:
            words += [name, "on" if on else "off"]
    if words:
        run("ethtool", "-K", device, *words, netns=netns)


def set_sysctl(name: str, value: object, netns: str | None = None) -> None:
    """Writes a sysctl of a network namespace."""
    run("sysctl", "-q", "-w", f"{name}={value}", netns=netns)


def namespace(name: str | None, ipv6: bool) -> None:
    if name:
        run("ip", "netns", "add", name)
        run("ip", "link", "set", "lo", "up", netns=name)
    for group in ("all", "default"):
        # Nobody speaks unless a test makes it: no router solicitations, no duplicate address detection.
        set_sysctl(f"net.ipv6.conf.{group}.disable_ipv6", int(not ipv6), name)
        for key in ("accept_ra", "accept_dad", "router_solicitations", "autoconf"):
            set_sysctl(f"net.ipv6.conf.{group}.{key}", 0, name)
        # What a host announces of its groups (MLD), it announces at once.
        for version in (1, 2):
            set_sysctl(f"net.ipv6.conf.{group}.mldv{version}_unsolicited_report_interval", 10, name)
        set_sysctl(f"net.ipv4.conf.{group}.rp_filter", 0, name)


def veth(outside: str, outside_mac: str, netns: str, inside_mac: str, mtu: int) -> None:
    """A pair: `outside` here, `eth0` in `netns`, both up, without any address."""
    run(
        *f"ip link add {outside} address {outside_mac} mtu {mtu} type veth".split(),
        *f"peer name eth0 netns {netns} address {inside_mac} mtu {mtu}".split(),
    )
    for device, where in ((outside, None), ("eth0", netns)):
        up(device, where)


def up(device: str, netns: str | None = None) -> None:
    """Brings a link up without an IPv6 address of its own making (in one request, up would come first)."""
    run("ip", "link", "set", device, "addrgenmode", "none", netns=netns)
    run("ip", "link", "set", device, "up", netns=netns)


def _bridge(node: Node) -> None:
    """Joins pod and peer on layer 2: any frame crosses, the node has no address of its own there."""
    run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", 0, "stp_state", 0, "forward_delay", 0)
    up("br0")
    for table in ("iptables", "ip6tables", "arptables"):
        # Where it is built in it drops malformed packets and trims padding: not what a wire does.
        if Path(f"/proc/sys/net/bridge/bridge-nf-call-{table}").exists():
            set_sysctl(f"net.bridge.bridge-nf-call-{table}", 0)
    for device in (node.pod_device, node.peer_device):
        run("ip", "link", "set", device, "master", "br0")
        # Frames to 01:80:c2:00:00:0X too (LLDP, STP); 1, pause frames, is all that a bridge never forwards.
        # No learning: a frame with the receiver's own address as its source would turn all later ones back.
        run("ip", "link", "set", device, "type", "bridge_slave", "group_fwd_mask", 0xFFFD, "learning", "off")


def _route(node: Node) -> None:
    """Makes the node a router between pod and peer, each on a link of its own."""
    set_sysctl("net.ipv4.ip_forward", 1)
    for device, address, mac, six in (
        (node.pod_device, node.pod_address, node.pod_mac, "fd00:1::14"),
        (node.peer_device, node.peer_address, node.peer_mac, "fd00:1::1e"),
    ):
        run("ip", "address", "add", "169.254.1.1/32", "dev", device)
        run("ip", "route", "add", f"{address}/32", "dev", device)
        run("ip", "neighbour", "add", address, "lladdr", mac, "dev", device)
        if _has_ipv6():
            set_sysctl("net.ipv6.conf.all.forwarding", 1)
            run("ip", "-6", "route", "add", f"{six}/128", "dev", device)
            run("ip", "-6", "neighbour", "add", six, "lladdr", mac, "dev", device)


def _has_ipv6() -> bool:
    return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"


def _host(node: Node, netns: str, address: str, other: str, gateway_mac: str) -> None:
    """Addresses and permanent neighbours of pod or peer. `gateway_mac`: who answers for the rest of the world."""
    on_link = node.shape == "bridge"
    run("ip", "address", "add", f"{address}/{24 if on_link else 32}", "dev", "eth0", netns=netns)
    six, six_other = (f"fd00:1::{int(item.rsplit('.', 1)[1]):x}" for item in (address, other))
    if _has_ipv6():
        run("ip", "address", "add", f"{six}/{64 if on_link else 128}", "dev", "eth0", "nodad", netns=netns)
    if on_link:
        run("ip", "neighbour", "add", other, "lladdr", gateway_mac, "dev", "eth0", netns=netns)
        if _has_ipv6():
            run("ip", "-6", "neighbour", "add", six_other, "lladdr", gateway_mac, "dev", "eth0", netns=netns)
        return
    run("ip", "route", "add", "169.254.1.1", "dev", "eth0", netns=netns)
    run("ip", "neighbour", "add", "169.254.1.1", "lladdr", gateway_mac, "dev", "eth0", netns=netns)
    run("ip", "route", "add", "default", "via", "169.254.1.1", netns=netns)
    if _has_ipv6():
        run("ip", "-6", "neighbour", "add", "fe80::1", "lladdr", gateway_mac, "dev", "eth0", netns=netns)
        run("ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0", netns=netns)


def add_analyzer(netns: str, device: str, network: int, mtu: int = 1500) -> None:
    """One more analyzer: namespace `netns` at 10.9.`network`.2 behind the node's `device`, 10.9.`network`.1."""
    namespace(netns, ipv6=False)
    veth(device, f"02:00:00:00:09:{network * 2 + 1:02x}", netns, f"02:00:00:00:09:{network * 2 + 2:02x}", mtu)
    run("ip", "address", "add", f"10.9.{network}.1/24", "dev", device)
    run("ip", "address", "add", f"10.9.{network}.2/24", "dev", "eth0", netns=netns)
    offloads(device, on=False)
    offloads("eth0", on=False, netns=netns)
    refuses(False, netns)


def refuses(answers: bool, netns: str) -> None:
    """Whether a host says by ICMP, to every packet, that nobody listens. Packet sockets hear of it all the same."""
    # Milliseconds for each error; nobody has saved up more than a minute of them.
    limit = 0 if answers else 1_000_000
    for name in ("ipv4.icmp_ratelimit", "ipv6.icmp.ratelimit"):
        if Path(f"/proc/sys/net/{name.replace('.', '/')}").exists():
            set_sysctl(f"net.{name}", limit, netns)


@contextmanager
def node(shape: Shape = "bridge", mtu: int = 1500, uplink_mtu: int = 1500, ipv6: bool = False) -> Iterator[Node]:
    """Builds the topology, and takes it away again. `mtu` is that of the production links.

    Pod and peer have permanent neighbour entries for each other, and IPv6 (which announces its groups by itself)
    only where asked for: a link carries what a test sends and nothing else. The analyzer is resolved by ARP, as in
    life.
    """
    this = Node(shape, mtu)
    try:
        namespace(None, ipv6)
        for name in (this.pod, this.peer):
            namespace(name, ipv6)
        veth(this.pod_device, "02:00:00:00:01:01", this.pod, this.pod_mac, mtu)
        veth(this.peer_device, "02:00:00:00:01:02", this.peer, this.peer_mac, mtu)
        if shape == "bridge":
            _bridge(this)
            pod_gateway, peer_gateway = this.peer_mac, this.pod_mac
        else:
            _route(this)
            pod_gateway, peer_gateway = "02:00:00:00:01:01", "02:00:00:00:01:02"
        _host(this, this.pod, this.pod_address, this.peer_address, pod_gateway)
        _host(this, this.peer, this.peer_address, this.pod_address, peer_gateway)
        add_analyzer(this.analyzer, this.uplink, 0, uplink_mtu)
        if ipv6:
            time.sleep(ANNOUNCED_S)
        yield this
    finally:
        remove(["br0", this.pod_device, this.peer_device, this.uplink], [this.pod, this.peer, this.analyzer])


def remove(devices: Sequence[str], namespaces: Sequence[str]) -> None:
    """Deletes links of the node and named namespaces; what is not there is fine."""
    for device in devices:
        run("ip", "link", "delete", device, check=False)
    for name in namespaces:
        run("ip", "netns", "delete", name, check=False)
