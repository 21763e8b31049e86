"""The node's loop: wake on edges, decide on levels.

    snapshot -> compile -> desired; observe -> observed; diff -> plan; apply

Whatever happens (an edit, an event of a watch or of netlink, time) only makes the loop look again at everything.
Signals end it and leave everything attached: an upgrade is a hand-over.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import sniffer
from sniffer.errors import MachineError, SnifferError
from sniffer.hold import Hold
from sniffer.kernel import uname
from sniffer.kernel.monitor import drain, monitor
from sniffer.kernel.pins import Pins
from sniffer.metrics import node as metrics
from sniffer.metrics.server import Place, serve
from sniffer.node import PROBE_S, Node
from sniffer.plan import names, ops
from sniffer.plan.compile import Sources
from sniffer.plan.diff import at_once
from sniffer.plan.facts import Mechanism
from sniffer.plan.report import clean_report, refused_report, report
from sniffer.plan.state import Verdict
from sniffer.stats.series import Named

log = logging.getLogger(__name__)

RESYNC_S = 1.0
"""The kernel says nothing when a TCX link is detached: how long it may stay off a hook."""
SETTLE_S = 0.02
"""Events come in bursts: the loop looks again this long after the first one."""
PACE_S = 0.1
"""In a storm of events it looks this often."""
COLLECT = 20_000, 20, 50
"""Thresholds of the garbage collector: what a look makes is freed without it, and a whole collection takes 60 ms."""
ROUNDS = 8
"""A plan may need a second look (the relay's ifindex); more than a few mean that something fights us."""
STILL_S = 30.0
"""A loop that has not turned for so long stands still: filters to compile take it a second or two at most."""


class Source(Protocol):
    """Where the resources come from."""

    poll_s: float
    """How often it wants to be polled though it has called nobody."""

    @property
    def contact_s(self) -> float | None:
        """Monotonic time until which all of it was known; -inf: never; None: it is no cluster."""

    def poll(self) -> bool:
        """Whether anything is new since the last call."""

    def sources(self) -> Sources:
        """What is in force."""

    def fresh(self) -> bool:
        """Whether the source was heard recently enough for leases to be renewed."""

    def faults(self) -> Mapping[str, str]:
        """What is wrong with the source now, in words, by what it concerns."""

    def report(self, status: Mapping[str, Any]) -> None:
        """Takes the status of this node's SnifferNode."""

    def order(self) -> str | None:
        """Which order to clean this node holds now; None: none does."""

    def leaves(self) -> bool:
        """Whether this node is left for good, now that the agent is told to end. False where it cannot be known."""

    def flush(self) -> None:
        """Gives what was reported last a moment to arrive."""

    def close(self) -> None:
        """Ends what it started."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    source: Callable[[Callable[[], None]], Source]
    """Makes the source; its argument may be called from any thread when something is new."""
    node: str
    pin_root: Path
    lease_s: float
    metrics: Place | None = None
    """Where to serve Prometheus metrics; None: nowhere."""
    named: Named = Named.ALL
    """What has a name in their labels."""
    mechanism: Mechanism | None = None
    """None: TCX where the kernel has it."""
    netns: Path = Path("/run/netns")
    """Where the container runtime keeps the pods' network namespaces."""
    health: Place | None = None
    """Where to serve /healthz and /readyz; None: nowhere."""
    any_kernel: bool = False
    """Run on one that is known to hurt production traffic, too."""


def default_node() -> str:
    """The host's name."""
    return socket.gethostname()


class Agent:
    """`run` until a signal."""

    def __init__(self, options: Options) -> None:
        """Takes the lock and loads, or takes over, programs and maps. InputError, MachineError."""
        self._options = options
        self._turned_s = time.monotonic()
        self._listed = False
        """Every resource was read once."""
        self._hold: Hold | None = None
        """None: nothing of ours is on this node."""
        self._settled = False
        probed = {"/healthz": self._not_live, "/readyz": self._not_ready}
        if options.health:
            serve("--health", options.health, None, probed)
        self._news = os.eventfd(0, os.EFD_NONBLOCK)
        self._source = options.source(lambda: os.eventfd_write(self._news, 1))
        self._remark = self._judge()
        self._pins = Pins(options.pin_root)
        self._name = names.node_text(options.node, os.getpid(), sniffer.__version__)
        self._resync_s = min(RESYNC_S, options.lease_s / 6)
        self._again = True
        """The last plan had something to do."""
        self._rounds = 0
        """Plans in a row that had something to do, and did it."""
        self._reported_s = 0.0
        self._said: list[str] = []
        self._hold = self._take()
        self._loop = metrics.Loop()
        if options.metrics:
            serve("--metrics", options.metrics, metrics.registry(options.pin_root, self._loop, options.named), probed)

    def _judge(self) -> str | None:
        """What is to be known of this kernel; None: nothing. MachineError, told to the cluster too: it is refused."""
        kernel = uname.judgement()
        if kernel.result == "fail" and not self._options.any_kernel:
            fix = "boot a later one, or allow it: --allow-kernel, agent.allowKernel of the chart"
            refusal = MachineError(f"no agent runs on this kernel: {kernel.text}", fix)
            self._source.report(refused_report(sniffer.__version__, str(refusal)))
            self._source.flush()
            raise refusal
        if kernel.result == "ok":
            return None
        log.warning("kernel %s", kernel.text)
        return f"kernel {kernel.text}"

    def _take(self) -> Hold:
        options = self._options
        self._taken_s = time.monotonic()
        return Hold(self._pins, options.mechanism, options.lease_s, options.netns)

    def _not_live(self) -> str | None:
        still_s = time.monotonic() - self._turned_s
        return f"the loop has stood still for {still_s:.0f} s" if still_s > STILL_S else None

    def _not_ready(self) -> str | None:
        hold = self._hold
        if not self._listed:
            return "the resources have not all been read yet"
        if hold is None:  # told to be clean
            return None
        if not self._settled:
            return "the kernel is not as it should be yet"
        return None if hold.is_whole() else f"the pins at {self._options.pin_root} are gone"

    def run(self) -> None:
        """Returns after SIGTERM or SIGINT."""
        gc.set_threshold(*COLLECT)
        stop, wake = socket.socketpair()
        stop.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        events = monitor()
        with selectors.DefaultSelector() as selector:
            for source in (stop, events, self._news):
                selector.register(source, selectors.EVENT_READ)
            due_s, looked_s, news = 0.0, 0.0, False
            while True:
                self._turned_s = time.monotonic()
                if self._source.poll():
                    news, due_s = True, min(due_s, max(time.monotonic(), looked_s + PACE_S))
                if time.monotonic() >= due_s:
                    self._loop.late_s = time.monotonic() - due_s if looked_s else 0.0
                    looked_s = time.monotonic()
                    if news:
                        self._answer()
                    news, due_s = False, looked_s + self._reconcile()
                    self._looked(looked_s)
                for key, _ in selector.select(max(min(self._source.poll_s, due_s - time.monotonic()), 0)):
                    if key.fileobj is stop:
                        return self._leave()
                    if self._heard(key.fileobj, events):
                        due_s = min(due_s, max(time.monotonic() + SETTLE_S, looked_s + PACE_S))

    def _leave(self) -> None:
        """Everything stays attached for the next agent; where there will be none, nothing does."""
        if self._hold and self._source.leaves():
            log.info("no agent is wanted on this node any more")
            if self._clean():
                self._source.report(clean_report(sniffer.__version__))
                self._source.flush()

    def _clean(self) -> bool:
        """Whether nothing of ours is left."""
        if self._hold:
            try:
                removed = self._hold.give_back()
            except (SnifferError, OSError) as error:
                self._say([f"this node cannot be cleaned: {error}"])
                return False
            self._hold = None
            log.info("this node is clean; removed: %s", ", ".join(removed))
        return True

    def _heard(self, what: Any, events: socket.socket) -> bool:
        """Whether something that concerns us has happened."""
        if what is events:
            return drain(events)
        with suppress(BlockingIOError):
            os.eventfd_read(self._news)
        return False  # the next poll tells

    def _looked(self, began_s: float) -> None:
        """Tells the metrics."""
        loop = self._loop
        loop.took_s.observe(time.monotonic() - began_s)
        loop.errors += bool(self._said)
        loop.fresh, loop.faults = self._source.fresh(), len(self._source.faults())
        loop.contact_s, loop.ended = self._source.contact_s, time.time()

    def close(self) -> None:
        """Ends the source's threads; everything stays attached."""
        self._source.close()

    def _answer(self) -> None:
        """Does what the cluster has told before all else: a look may wait for seconds where pods come and go."""
        sources, node = self._source.sources(), self._hold.node if self._hold else None
        if node and self._settled and sources.cluster and sources.complete and self._source.order() is None:
            try:
                node.apply(at_once(node.plan(sources, self._name, self._source.fresh(), quick=True), 0))
            except SnifferError as error:
                log.debug("%s", error)  # the look that follows tells

    def _reconcile(self) -> float:
        """In how many seconds to look again at the latest."""
        sources = self._source.sources()
        self._listed = self._listed or sources.complete
        order = self._source.order()
        if order is not None:
            return self._rest(order)
        if self._hold and self._hold.node:
            return self._mirror(self._hold.node, sources)
        log.info("no longer told to be clean")
        if self._hold:
            self._hold.release()
        self._hold, self._settled = self._take(), False
        return 0.0

    def _rest(self, order: str) -> float:
        """Told to clean: nothing of ours is here, until told otherwise."""
        if not self._clean():
            return PROBE_S
        self._source.report(clean_report(sniffer.__version__, order))
        return self._resync_s

    def _mirror(self, node: Node, sources: Sources) -> float:
        """Brings the kernel to what the resources say."""
        if sources.cluster is not None and not sources.complete:
            sources = Sources((), (), complete=False)  # what is there holds until everything has been listed once
        if not self._settled and self._is_early(node, sources):
            return PACE_S
        failures: list[str] = []
        fresh, broken = self._source.fresh(), False
        try:
            failures = self._round(node, sources, fresh)
        except SnifferError as error:
            if isinstance(error, MachineError) and not self._settled:
                raise  # at the start somebody is there to read it; later on it may pass
            failures, broken = [str(error)], True
        self._say(failures)
        self._rounds = 0 if failures or not self._again else self._rounds + 1
        if not broken and sources.cluster is not None and (failures or self._is_report_due()):
            verdicts = node.verdicts() if fresh else _unheard(node.verdicts(), self._source.faults())
            self._source.report(report(verdicts, sources.mirrors, sniffer.__version__, self._remark))
        if not self._settled and not broken:
            self._settled = True
            gc.freeze()  # what thousands of resources became is there to stay: no collection need walk it
            self._succeed()
            log.info("ready")
        if failures:
            return PROBE_S
        if 0 < self._rounds < ROUNDS:  # whom the first look asked after may have answered already
            return PACE_S if node.wait_s is None else SETTLE_S
        wait_s = node.wait_s
        return self._resync_s if wait_s is None else min(self._resync_s, wait_s)

    def _is_early(self, node: Node, sources: Sources) -> bool:
        """Whether what an agent of another ABI left mirrors more than we could yet: until its leases end, at most."""
        if not (self._hold and self._hold.succeeds()) or time.monotonic() - self._taken_s > self._options.lease_s:
            return False
        if not sources.complete:
            return True
        with suppress(SnifferError):  # the look that follows tells
            node.plan(sources, self._name, self._source.fresh())
        return node.waits()

    def _succeed(self) -> None:
        """Ends what is left of former agents."""
        removed = self._hold.settle() if self._hold else []
        if removed:
            log.info("took over from another ABI; removed: %s", ", ".join(removed))

    def _round(self, node: Node, sources: Sources, fresh: bool) -> list[str]:
        """What could not be applied. Whether it came to be as planned is seen in the next round, with what is new by
        then; at once only before anything is in force, or while the plan is not whole.
        """
        failures: list[str] = []
        for _ in range(ROUNDS):
            plan = node.plan(sources, self._name, fresh)
            self._again = bool(plan)
            if not plan or failures:
                break
            log.debug("plan: %s", plan)
            now = at_once(plan) if self._settled else plan
            if len(now) < len(plan):
                self._rounds = 0  # nothing fights us
            failures = node.apply(now)
            if self._settled and not any(isinstance(op, ops.CreateRelay) for op in plan):
                break
        return failures

    def _is_report_due(self) -> bool:
        """While one change follows the other the cluster is told once in a while."""
        now_s = time.monotonic()
        due = not self._again or now_s - self._reported_s >= RESYNC_S
        if due:
            self._reported_s = now_s
        return due

    def _say(self, failures: list[str]) -> None:
        for failure in failures:
            if failure not in self._said:
                log.error("%s; trying again", failure)
        self._said = failures


def _unheard(verdicts: Sequence[Verdict], faults: Mapping[str, str]) -> tuple[Verdict, ...]:
    """While leases are not renewed nothing goes on for long."""
    words = "; ".join(f"{what}: {fault}" for what, fault in sorted(faults.items()))
    message = f"the API server has been silent for too long ({words or 'no answer'})"
    return tuple(
        replace(verdict, state="Suspended", reason="LeaseEnded", message=message)
        if verdict.state == "Programmed"
        else verdict
        for verdict in verdicts
    )


def run(options: Options) -> None:
    """`sniffer agent`."""
    try:
        agent = Agent(options)
        try:
            agent.run()
        finally:
            agent.close()
    except OSError as error:
        raise SnifferError(str(error)) from error
