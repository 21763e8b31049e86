"""`sniffer capture`: the frames of one pod, or of one interface, as pcapng on standard output."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import sniffer
from sniffer import pcapng
from sniffer.abi.capture import FRAME_MAX
from sniffer.abi.limits import Direction
from sniffer.cli.live import Bounds, Live, Summary, signals
from sniffer.cli.progress import progress
from sniffer.errors import FilterError, InputError, MachineError
from sniffer.kernel.capture import Capture
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.netns import Namespaces
from sniffer.model.problem import printable, quoted
from sniffer.plan.binding import bind
from sniffer.plan.checks import excerpt
from sniffer.plan.cluster import REASONS, Pod
from sniffer.plan.facts import Link, Mechanism
from sniffer.plan.rules import program

SNAP_MIN = 14
LOST = 1
_ETHERNET = 1  # ARPHRD_ETHER
_OF_INTERFACE = {Direction.INGRESS: pcapng.Direction.INGRESS, Direction.EGRESS: pcapng.Direction.EGRESS}
_OF_POD = {Direction.INGRESS: pcapng.Direction.EGRESS, Direction.EGRESS: pcapng.Direction.INGRESS}


@dataclass(frozen=True, slots=True)
class Whom:
    """Whose frames: a pod's, by its interfaces on this node, or an interface's."""

    what: str
    links: Sequence[Link]
    ways: Mapping[Direction, pcapng.Direction]


def capture(
    whom: Whom,
    filter_text: str | None,
    snap_length: int,
    bounds: Bounds,
    pin_root: Path,
    mechanism: Mechanism | None,
    *,
    as_json: bool,
) -> int:
    """Writes pcapng to standard output, and what became of it to standard error; 1 when frames were lost.

    InputError: an option is wrong. MachineError, KernelError: this machine cannot.
    """
    _check(snap_length, bounds)
    if sys.stdout.isatty():
        raise InputError("standard output: given a terminal, allowed a file or a pipe, as in `| wireshark -k -i -`")
    try:
        filter_program = program(filter_text, None)
    except FilterError as error:
        given = excerpt(filter_text or "", error)
        raise InputError(f"--filter: given {given}, allowed a filter that compiles: {error}") from None
    indexes = [link.index for link in whom.links]
    with (
        signals() as wake,
        Netlink() as netlink,
        Capture(indexes, filter_program, snap_length, pin_root, mechanism) as frames,
    ):
        numbers = {index: number for number, index in enumerate(indexes)}
        head = pcapng.section(f"sniffer {sniffer.__version__} on Linux {os.uname().release}")
        for link in whom.links:
            head += pcapng.interface(link.name, whom.what, filter_text or "", snap_length)
        names = ", ".join(link.name for link in whom.links)
        _say(f"capturing {whom.what}{'' if whom.what.endswith(names) else f' ({names})'}", as_json)
        live = Live(frames, numbers, whom.ways, sys.stdout.fileno())
        summary = live.run(head, bounds, lambda: any(map(netlink.link_message, indexes)), wake)
    _tell(summary, as_json)
    return LOST if summary.lost else 0


def _check(snap_length: int, bounds: Bounds) -> None:
    if not SNAP_MIN <= snap_length <= FRAME_MAX:
        raise InputError(f"--snap-length: given {snap_length}, allowed {SNAP_MIN} to {FRAME_MAX} bytes")
    if bounds.frames is not None and bounds.frames < 1:
        raise InputError(f"--count: given {bounds.frames}, allowed a number from 1")
    for option, value in (("--duration", bounds.duration_s), ("--keepalive", bounds.keepalive_s)):
        if value is not None and not 0 < value <= 366 * 86400:  # nan is neither
            raise InputError(f"{option}: given {value:g}, allowed seconds, more than 0")


def _say(words: str, as_json: bool) -> None:
    if not as_json:
        print(f"sniffer: {words}", file=sys.stderr, flush=True)


def _tell(summary: Summary, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(summary)), file=sys.stderr)
        return
    lost = f", {summary.lost} LOST: the reader was too slow (a filter or --snap-length helps)" if summary.lost else ""
    _say(f"{summary.frames} frames, {summary.octets} bytes{lost}; ended: {summary.ended}", as_json)


def of_interface(name: str) -> Whom:
    """An interface of this node by its name. InputError."""
    with Netlink() as netlink:
        found = netlink.link_message(name)
        if found is None or found[0].arphrd != _ETHERNET:
            names = ", ".join(sorted(link.name for link in netlink.links() if link.arphrd == _ETHERNET)) or "none here"
            allowed = f"an Ethernet interface of this node: {printable(names, 400)}"
            raise InputError(f"--interface: given {quoted(name)}, allowed {allowed}")
    return Whom(f"interface {name}", (found[0],), _OF_INTERFACE)


def of_pod(name: str, namespace: str, node: str, kubeconfig: Path | None, netns_dir: Path) -> Whom:
    """A pod of this node by name, as the API server and the kernel know it now.

    InputError: no such pod here. MachineError: it has no interface on this node, or cannot be told from others.
    """
    with progress("asking the API server"):
        pods = _pods(node, kubeconfig)  # before the links, and these before the namespaces: see plan.binding
    with Netlink() as netlink:
        links = netlink.links()
        namespaces = Namespaces(netns_dir)
        found = namespaces.look(netlink, fresh=True)
    pod = next((pod for pod in pods if (pod.namespace, pod.name) == (namespace, name)), None)
    if pod is None:
        raise InputError(f"pod: given {quoted(f'{namespace}/{name}')}, allowed a running pod of node {printable(node)}")
    if found is None:
        raise MachineError(f"the pods' network namespaces cannot be read ({namespaces.fault})", "see --netns-dir")
    binding = bind(pods, found, links).bindings[pod.uid]
    if not binding.interfaces:
        why = REASONS.get(binding.reason or "", binding.reason or "nothing is known of it")
        raise MachineError(f"pod {namespace}/{name} cannot be captured: it {why}", "see docs/plugin.md")
    mine = tuple(link for link in links if link.index in binding.interfaces)
    return Whom(f"pod {namespace}/{name} of node {node}", mine, _OF_POD)


def _pods(node: str, kubeconfig: Path | None) -> Sequence[Pod]:
    from sniffer.cluster import views
    from sniffer.cluster.client import Client
    from sniffer.cluster.listing import Pages

    client = Client.load(kubeconfig)
    pages = Pages(lambda parameters: client.get("/api/v1/pods", parameters), {"fieldSelector": f"spec.nodeName={node}"})
    return [pod for page in pages for item in page["items"] if (pod := views.pod(views.of_pod(item)))]
