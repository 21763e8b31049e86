"""The test bed: every row of the table has a pod of its own, and all of them the same uplink.

    pod (eth0) ── lane ── hook: what the row is about ── drop      every copy ── up0 egress: counted, dropped

The rows stand beside each other all the time, so a repetition is a run of each, one after another, with nothing to set
up in between. What a packet costs is the time of the sender, on one core, to the end of its softirq: the hook, the copy
and its way to the uplink's queue are in it. The production packet ends at the same drop filter in every row, behind
whatever the row has put before it; a copy ends where the device's driver would begin, or, with `--end analyzer`, at the
other end of the link.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

from sniffer.abi.limits import Direction
from sniffer.kernel import tcx
from sniffer.kernel.bpf import Object, pin
from tests.topology import Node, namespace, node, remove, run, set_sysctl, up, veth
from tests.traffic import blast

OBJECT = Path(__file__).parents[1] / "build" / "bench" / "bench.bpf.o"
HEADERS = 14 + 20 + 8  # of the production packet: Ethernet, IPv4, UDP
PORT = 9999  # where it goes
RIVAL = "vxlan-rival"
PINS = Path("/sys/fs/bpf")
NODE_SIX, ANALYZER_SIX = "fd00:9::1", "fd00:9::2"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to treat a packet. `overhead`: bytes that a copy has on top, None where nothing is copied.

    `manifest` is what the agent is told about the device, if anything: the spec of a mirror without its interfaces.
    """

    name: str
    label: str
    overhead: int | None = None
    attach: Callable[["Bed", str], object] | None = None
    manifest: dict[str, Any] | None = None
    snap: int | None = None
    """Bytes of a frame that are copied at most."""
    few: bool = False
    """Only now and then something is copied."""


@dataclass(frozen=True, slots=True)
class Bed:
    """The node, the loaded programs, and the device of each row."""

    node: Node
    programs: Object
    devices: dict[str, str]
    links: ExitStack

    def tcx(self, device: str, program: str, direction: Direction = Direction.INGRESS) -> None:
        """Attaches a program of the bench, as long as the bed stands."""
        link = tcx.attach_tcx(_index(device), direction, self.programs.program(program).fd)
        self.links.callback(tcx.link_detach, link)

    def end(self, program: str, device: str, hook: str, netns: str | None = None) -> None:
        """Counts and drops what comes past other filters of this hook."""
        path = PINS / f"bench-{program}"
        if not path.exists():
            pin(self.programs.program(program).fd, path)
            self.links.callback(path.unlink)
        run("tc", "qdisc", "add", "dev", device, "clsact", netns=netns)
        filters = f"filter add dev {device} {hook} protocol all prio 2 bpf direct-action pinned {path}"
        run("tc", *filters.split(), netns=netns)

    def tallies(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(packets, bytes) so far of production packets at their end, and of copies at theirs."""
        with closing(self.programs.map("tallies")) as table:
            return _total(table.lookup(struct.pack("=I", 0))), _total(table.lookup(struct.pack("=I", 1)))


def _index(device: str) -> int:
    return int(run("ip", "-o", "link", "show", device).split(":", 1)[0])


def _total(value: bytes | None) -> tuple[int, int]:
    words = struct.unpack(f"={len(value or b'') // 8}Q", value or b"")
    return sum(words[0::2]), sum(words[1::2])


@contextmanager
def bed(rows: Sequence[Row], end: str = "queue") -> Iterator[Bed]:
    """Builds a lane per row. Copies end at the uplink's `queue`, or where the `analyzer` receives them."""
    devices = {row.name: f"lane{index}" for index, row in enumerate(rows)}
    with node() as made, Object.open(OBJECT) as programs, ExitStack() as links:
        set_sysctl(f"net.ipv6.conf.{made.uplink}.disable_ipv6", 0)
        run("ip", "address", "add", f"{NODE_SIX}/64", "dev", made.uplink, "nodad")
        for address in (made.analyzer_address, ANALYZER_SIX):
            run("ip", "neighbour", "replace", address, "lladdr", made.analyzer_mac, "dev", made.uplink)
        with closing(programs.map("uplink")) as table:
            table.update(struct.pack("=I", 0), struct.pack("=I", _index(made.uplink)))
        this = Bed(made, programs, devices, links)
        if end == "queue":
            this.end("black_hole", made.uplink, "egress")
        else:
            this.end("black_hole", "eth0", "ingress", made.analyzer)
        try:
            for index, row in enumerate(rows):
                _lane(devices[row.name], index)
                this.end("production_ends", devices[row.name], "ingress")
                if row.attach:
                    row.attach(this, devices[row.name])
            yield this
        finally:
            remove([*devices.values(), RIVAL], list(devices.values()))


def _lane(device: str, index: int) -> None:
    """A pod with one neighbour, who exists on paper only: the packet to it ends on the node."""
    namespace(device, ipv6=False)
    veth(device, f"02:00:00:01:{index:02x}:01", device, f"02:00:00:01:{index:02x}:02", 1500)
    run("ip", "address", "add", f"10.{50 + index}.0.2/24", "dev", "eth0", netns=device)
    neighbour = ("lladdr", f"02:00:00:01:{index:02x}:03", "dev", "eth0")
    run("ip", "neighbour", "add", f"10.{50 + index}.0.3", *neighbour, netns=device)


def rival(this: Bed, device: str) -> None:
    """`tc mirred` into a vxlan device of the kernel."""
    rival_device(this)
    run("tc", *mirred(device, "ingress"))


def rival_device(this: Bed) -> None:
    """The kernel's vxlan device, with what makes it quick: a fixed remote, no learning, no checksum."""
    if RIVAL in run("ip", "-o", "link"):
        return
    made = this.node
    outer = f"id 4242 dstport 4789 local {made.uplink_address} remote {made.analyzer_address} dev {made.uplink}"
    options = ("nolearning", "noudpcsum", "ttl", 64)
    run("ip", "link", "add", RIVAL, "mtu", 9000, "type", "vxlan", *outer.split(), *options)
    up(RIVAL)


def mirred(device: str, hook: str) -> list[str]:
    """The words for `tc`. `continue`: by default the packet would skip the drop filter behind it and end elsewhere."""
    match = f"filter add dev {device} {hook} protocol all prio 1 u32 match u32 0 0"
    return f"{match} action mirred egress mirror dev {RIVAL} continue".split()


def measure(this: Bed, row: Row, frame: int, seconds: float, core: int, gso: int = 0) -> float:
    """Nanoseconds per packet of `frame` bytes. AssertionError unless every packet and every copy came to its end.

    gso: the packet is a super-packet of datagrams with so many bytes.
    """
    device = this.devices[row.name]
    address = f"10.{50 + int(device.removeprefix('lane'))}.0.3"
    production, copies = this.tallies()
    load: dict[str, Any] = {"dst": address, "port": PORT, "sport": 40000, "size": frame - HEADERS, "seconds": seconds}
    sent = blast(netns=device, core=core, **load | ({"gso": gso} if gso else {}))
    for _ in range(50):
        now_production, now_copies = this.tallies()
        if now_production[0] - production[0] >= sent.packets:
            break
        sleep(0.002)
    ended = now_production[0] - production[0], now_production[1] - production[1]
    assert ended == (sent.packets, sent.packets * frame), f"{row.name}: {sent.packets} sent, {ended} ended"
    copied = now_copies[0] - copies[0], now_copies[1] - copies[1]
    size = min(frame, row.snap or frame) + (row.overhead or 0)
    wanted = (0, 0) if row.overhead is None else (sent.packets, sent.packets * size)
    right = copied[0] <= sent.packets / 100 if row.few else copied == wanted
    if gso and row.overhead is not None:  # whole, or as datagrams
        datagrams = (frame - HEADERS) // gso * sent.packets
        right = right or copied == (datagrams, datagrams * (HEADERS + gso + row.overhead))
    assert right, f"{row.name}: copies (packets, bytes) {copied}, wanted {wanted}"
    return sent.wall_ns
