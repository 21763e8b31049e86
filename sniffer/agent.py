"""The node's loop: wake on edges, decide on levels.

    snapshot -> compile -> desired; observe -> observed; diff -> plan; apply

Whatever happens (an edit, a netlink event, time) only makes the loop look again at everything. Signals end it and leave
everything attached: an upgrade is a hand-over.
"""

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sniffer
from sniffer import metrics
from sniffer.abi.limits import PathWord
from sniffer.errors import MachineError, SnifferError
from sniffer.kernel import bpf, programs, tcx
from sniffer.kernel.apply import Kernel
from sniffer.kernel.clean import drop_orphans
from sniffer.kernel.monitor import drain, monitor
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.observe import observe, relay_of
from sniffer.kernel.pins import Lock, Maps, Pins
from sniffer.manifests import Manifests
from sniffer.model.identity import Identity
from sniffer.plan import names, ops
from sniffer.plan.compile import Sources, compile_sources, endpoint_addresses, hold
from sniffer.plan.diff import diff
from sniffer.plan.facts import Facts, Mechanism, PathState
from sniffer.plan.ids import Assignment, contents
from sniffer.plan.state import State, Verdict, Wanted

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How often the manifests are looked at."""
RESYNC_S = 1.0
"""The kernel says nothing when a TCX link is detached: how long it may stay off a hook."""
SETTLE_S = 0.02
"""Events come in bursts: the loop looks again this long after the first one."""
PACE_S = 0.1
"""In a storm of events it looks this often."""
PROBE_S = 1.0
"""How often the kernel is asked again for a neighbour that does not answer."""
ROUNDS = 8
"""A plan may need a second look (the relay's ifindex); more than a few mean that something fights us."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    manifests: Path
    node: str
    pin_root: Path
    lease_s: float
    metrics: str | None = None
    """HOST:PORT to serve Prometheus metrics at; None: nowhere."""
    mechanism: Mechanism | None = None
    """None: TCX where the kernel has it."""


def default_node() -> str:
    """The host's name."""
    return socket.gethostname()


class Node:
    """The effects of the loop: facts, observation and application on this machine."""

    def __init__(self, pins: Pins, mechanism: Mechanism | None, lease_s: float, loaded: Mapping[str, int]) -> None:
        """loaded: fds of our programs by name; {}: only look, as `sniffer plan` does, with or without pins."""
        self._pins = pins
        self.netlink = Netlink()
        self._mechanism = mechanism or (Mechanism.TCX if tcx.has_tcx() else Mechanism.CLSACT)
        self._maps = Maps(pins, writable=bool(loaded)) if pins.exists() else None
        self._lease_ns = int(lease_s * 1e9)
        self._programs = {name: bpf.program_of(fd).id for name, fd in loaded.items()} or programs.pinned_ids(pins)
        self._kernel = Kernel(self._maps, pins, self.netlink, loaded) if self._maps and loaded else None
        self._probed: dict[str, int] = {}
        self.waiting = False
        """Some endpoint could not be reached at the last look."""

    def close(self) -> None:
        if self._maps:
            self._maps.close()
        self.netlink.close()

    def facts(self, sources: Sources) -> Facts:
        """A look at the node; asks the kernel to resolve the nexthops that are not."""
        paths = {address: self.netlink.path_to(address) for address in endpoint_addresses(sources.targets)}
        now_ns = bpf.monotonic_ns()
        self.waiting = any(path.state != PathState.REACHABLE for path in paths.values())
        for path in paths.values():
            due = now_ns - self._probed.get(path.address, 0) > PROBE_S * 0.9e9
            if self._kernel and path.state == PathState.UNREACHABLE and path.nexthop and due:
                self._probed[path.address] = now_ns
                self.netlink.probe_neighbour(path.ifindex, path.nexthop)
        pair = relay_of(self.netlink, self._pins)
        return Facts(now_ns, self._lease_ns, self.netlink.links(), paths, pair, self._mechanism, self._programs)

    def plan(self, sources: Sources, node_name: str) -> ops.Plan:
        """The next plan; () when the kernel is as it should be."""
        facts = self.facts(sources)
        observed = observe(self._maps, self._pins, self.netlink, facts.relay) if self._maps else State()
        wanted = compile_sources(sources, facts)
        if not sources.complete:
            wanted = _held(wanted, observed, sources.known)
        desired = self._desired(wanted, observed, facts, node_name)
        return diff(observed, desired, {number: name for name, number in self._programs.items()})

    def apply(self, plan: ops.Plan) -> list[str]:
        """What could not be attached, in words; a preview applies nothing. Raises SnifferError."""
        return self._kernel.apply(plan) if self._kernel else []

    def _desired(self, wanted: Wanted, observed: State, facts: Facts, node_name: str) -> State:
        assignment = Assignment(observed, facts)
        desired = assignment.state(wanted, node_name)
        if assignment.full:
            desired = Assignment(observed, facts).state(_with_full(wanted, assignment.full), node_name)
        return desired


def _held(wanted: Wanted, observed: State, known: frozenset[Identity]) -> Wanted:
    """What is not attached is not held: its interface may be gone, and another have its index."""
    paths = {record: PathWord(observed.paths.get(number, 0)) for number, record in observed.egress.items()}
    live = {hook for hook, attachment in observed.attachments.items() if attachment.program}
    try:
        mirrored = {hook: mirrors for hook, mirrors in contents(observed).items() if hook in live}
        return hold(wanted, mirrored, paths, known)
    except KeyError:
        return wanted  # what is there is not whole: nothing to hold on to


def _with_full(wanted: Wanted, full: Mapping[Identity, str]) -> Wanted:
    verdicts = tuple(
        Verdict(v.identity, "Degraded", "TableFull", f"the map {full[v.identity]} is full", v.interfaces, v.targets)
        if v.identity in full
        else v
        for v in wanted.verdicts
    )
    return Wanted(wanted.hooks, wanted.paths, verdicts)


class Agent:
    """`run` until a signal."""

    def __init__(self, options: Options) -> None:
        """Takes the lock and loads, or takes over, programs and maps. InputError, MachineError."""
        if options.metrics:
            metrics.parse(options.metrics)  # what is wrong with the words is said before anything is made
        self._source = Manifests(options.manifests)
        self._pins = Pins(options.pin_root)
        with Netlink() as netlink:
            relay_of(netlink, self._pins)  # another sniffer's relay: nothing is made of what would be of no use
        self._pins.create()
        self._lock = Lock(self._pins)
        try:
            if not self._pins.exists():
                drop_orphans(self._pins)
            self._node = Node(self._pins, options.mechanism, options.lease_s, programs.load(self._pins))
        except SnifferError:
            self._pins.forget()
            raise
        self._name = names.node_text(options.node, os.getpid(), sniffer.__version__)
        if options.metrics:
            metrics.serve(options.metrics, options.pin_root)
        self._resync_s = min(RESYNC_S, options.lease_s / 6)
        self._settled = False
        self._said: list[str] = []

    def run(self) -> None:
        """Returns after SIGTERM or SIGINT."""
        stop, wake = socket.socketpair()
        stop.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        events = monitor()
        with selectors.DefaultSelector() as selector:
            selector.register(stop, selectors.EVENT_READ)
            selector.register(events, selectors.EVENT_READ)
            due_s = 0.0
            while True:
                if self._source.poll() or time.monotonic() >= due_s:
                    looked_s = time.monotonic()
                    due_s = looked_s + (self._resync_s if self._reconcile() else PROBE_S)
                for key, _ in selector.select(max(min(POLL_S, due_s - time.monotonic()), 0)):
                    if key.fileobj is stop:
                        return
                    if drain(events):
                        due_s = min(due_s, max(time.monotonic() + SETTLE_S, looked_s + PACE_S))

    def _reconcile(self) -> bool:
        """Whether everything is as it should be, and every nexthop answers."""
        sources = self._source.sources()
        failures: list[str] = []
        try:
            for _ in range(ROUNDS):
                plan = self._node.plan(sources, self._name)
                if not plan or failures:
                    break
                log.debug("plan: %s", plan)
                failures = self._node.apply(plan)
        except SnifferError as error:
            if isinstance(error, MachineError) and not self._settled:
                raise  # at the start somebody is there to read it; later on it may pass
            failures = [str(error)]
        self._say(failures)
        if not self._settled and not failures:
            self._settled = True
            programs.drop_others(self._pins)
            log.info("ready")
        return not failures and not self._node.waiting

    def _say(self, failures: list[str]) -> None:
        for failure in failures:
            if failure not in self._said:
                log.error("%s; trying again", failure)
        self._said = failures


def run(options: Options) -> None:
    """`sniffer agent`."""
    try:
        Agent(options).run()
    except OSError as error:
        raise SnifferError(str(error)) from error
