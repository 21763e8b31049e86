"""A machine on the bridge of the cluster's network: a network namespace with an `eth0`."""

import subprocess
from pathlib import Path

from tests.topology import namespace, offloads, refuses, run, set_sysctl, start
from tests.wire import Capture

BRIDGE = "lab0"
GATEWAY = "10.200.0.1"
"""Of the bridge, in the run's own network namespace: the API server's address."""


def make_bridge() -> None:
    """The network of all hosts, in the network namespace where we are."""
    run("ip", "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", 0, "stp_state", 0, "forward_delay", 0)
    set_sysctl(f"net.ipv6.conf.{BRIDGE}.disable_ipv6", 1)
    for table in ("iptables", "ip6tables", "arptables"):
        # This bridge is a wire: netfilter has no business on it.
        if Path(f"/proc/sys/net/bridge/bridge-nf-call-{table}").exists():
            set_sysctl(f"net.bridge.bridge-nf-call-{table}", 0)
    run("ip", "address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    set_sysctl("net.ipv4.ip_forward", 1)


def remove_bridge() -> None:
    """Takes it away again, and the routes over it."""
    run("ip", "link", "delete", BRIDGE, check=False)


class Host:
    """A host of the cluster's network that is no node: an analyzer.

    `netns` is the name that `tests.topology.run`, `tests.wire.Capture` and `tests.receivers` take. The offloads of
    its `eth0` are off, so frames come and go as on a wire.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address, self.netns = name, address, name
        self.port = f"p-{name}"[:15]
        """Its end on the bridge: a link of the network namespace where we are."""

    def plug(self) -> None:
        """Makes the namespace, its link and address."""
        namespace(self.netns, ipv6=False)
        run("ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        set_sysctl(f"net.ipv6.conf.{self.port}.disable_ipv6", 1)
        run("ip", "link", "set", self.port, "master", BRIDGE, "up")
        offloads("eth0", on=False, netns=self.netns)
        run("ip", "address", "add", f"{self.address}/24", "dev", "eth0", netns=self.netns)
        run("ip", "link", "set", "eth0", "up", netns=self.netns)
        run("ip", "route", "add", "default", "via", GATEWAY, netns=self.netns)
        refuses(False, self.netns)

    def unplug(self) -> None:
        """Deletes link and namespace; what is not there is fine."""
        run("ip", "link", "delete", self.port, check=False)
        run("ip", "netns", "delete", self.netns, check=False)

    def disconnect(self) -> None:
        """Pulls the cable: the port on the bridge goes down, and `eth0` loses its carrier."""
        run("ip", "link", "set", self.port, "down")

    def connect(self) -> None:
        """Puts the cable back."""
        run("ip", "link", "set", self.port, "up")

    def run(self, *words: object, check: bool = True, stdin: str | None = None) -> str:
        """Runs a command on this host to its end and returns its standard output."""
        return run(*words, netns=self.netns, check=check, stdin=stdin)

    def popen(self, *words: object, **options: object) -> "subprocess.Popen[str]":
        """Starts a command on this host and leaves it running; its pid is the command's own."""
        return start(*words, netns=self.netns, **options)

    def capture(self, device: str = "eth0", outgoing: bool = False) -> Capture:
        """Every frame that a device of this host receives, for use with `with`; see `tests.wire.Capture`."""
        return Capture(device, self.netns, outgoing)
