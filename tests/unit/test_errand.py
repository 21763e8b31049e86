"""kernel/errand.py, and the loop that goes on while one is under way: node and source are made up, threads are real."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sniffer import agent as loop
from sniffer.errors import KernelError
from sniffer.kernel.errand import Errand
from sniffer.plan.cluster import Cluster
from sniffer.plan.compile import Sources
from tests.topology import wait_until


def test_it_calls_when_it_has_ended_and_brings_what_came_of_it() -> None:
    called = threading.Event()
    errand = Errand[int](called.set)
    gate = threading.Event()
    for number in (1, 2):
        called.clear()
        gate.clear()
        errand.start(lambda number=number: gate.wait() and number)  # type: ignore[misc]
        assert (errand.under_way, errand.ended) == (True, False)
        gate.set()
        assert called.wait(5)
        assert (errand.under_way, errand.ended) == (True, True)
        assert errand.take() == number
        assert (errand.under_way, errand.ended) == (False, False)


def test_what_fails_is_raised_by_whoever_takes_it_and_the_next_is_done() -> None:
    errand = Errand[int](lambda: None)
    errand.start(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        errand.take()
    errand.start(lambda: 3)
    assert errand.take() == 3


def test_there_is_one_at_a_time() -> None:
    errand = Errand[int](lambda: None)
    with pytest.raises(RuntimeError):
        errand.take()
    errand.start(lambda: 3)
    with pytest.raises(RuntimeError):
        errand.start(lambda: 4)
    errand.drop()
    errand.drop()
    assert not errand.under_way
    errand.start(lambda: 5)
    assert errand.take() == 5


def test_a_process_that_ends_does_not_wait_for_it() -> None:
    words = "import time; from sniffer.kernel.errand import Errand; Errand(print).start(lambda: time.sleep(60))"
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", words], check=True, timeout=30)
    assert time.monotonic() - began_s < 20


@dataclass
class FakeNode:
    """Writes down who did what; a look takes until `gate` is set."""

    did: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    fails: Exception | None = None
    wait_s: float | None = None

    def errand(self, _: Sources) -> Callable[[], Any]:
        self.did.append("begin")

        def run() -> Any:
            self.gate.wait()
            if self.fails:
                raise self.fails
            return loop.Brought({}, self)  # type: ignore[arg-type]

        return run

    def welcome(self, brought: Any) -> list[str]:
        self.did.append("welcome" if brought else "nothing")
        return []

    def answer(self, *_: Any) -> tuple[()]:
        assert threading.current_thread() is threading.main_thread()
        self.did.append("answer")
        return ()

    def plan(self, _: Sources, __: str, ___: bool, reading: Any) -> tuple[()]:
        assert threading.current_thread() is threading.main_thread()
        self.did.append("plan" if reading is None else "plan by reading")
        return ()

    def apply(self, _: Any) -> list[str]:
        return []

    def verdicts(self) -> tuple[()]:
        return ()


class FakeHold:
    node: FakeNode | None

    def __init__(self, *_: Any) -> None:
        self.node = FakeNode()
        self.given_back = 0

    def is_whole(self) -> bool:
        return True

    def give_back(self) -> list[str]:
        assert self.node
        self.given_back += 1
        self.node = None
        return []


class FakeSource:
    poll_s, contact_s = 0.05, 0.0

    def __init__(self, _: Callable[[], None]) -> None:
        self.news = False
        self.ordered: str | None = None
        self.reports = 0
        self.is_left = False

    def poll(self) -> bool:
        news, self.news = self.news, False
        return news

    def sources(self) -> Sources:
        return Sources((), (), cluster=Cluster("n1", {}, {}, ()))

    def order(self) -> str | None:
        return self.ordered

    def report(self, _: Any) -> None:
        self.reports += 1

    def fresh(self) -> bool:
        return True

    def faults(self) -> dict[str, str]:
        return {}

    def leaves(self) -> bool:
        return self.is_left

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[loop.Agent]:
    monkeypatch.setattr(loop, "Hold", FakeHold)
    monkeypatch.setattr(loop, "PROBE_S", 0.1)
    monkeypatch.setattr(loop, "RESYNC_S", 0.1)
    monkeypatch.setattr(loop.programs, "drop_others", lambda _: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    thresholds = gc.get_threshold()
    made = loop.Agent(loop.Options(FakeSource, "n1", tmp_path, 60))
    yield made
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def parts(agent: loop.Agent) -> tuple[FakeNode, FakeSource, FakeHold]:
    hold: Any = agent._hold
    source: Any = agent._source
    return hold.node, source, hold


def run(agent: loop.Agent, script: Callable[[], None]) -> float:
    """Runs it while the script does, and then ends it; seconds that this took."""
    failed: list[BaseException] = []
    ended_s = 0.0

    def act() -> None:
        nonlocal ended_s
        try:
            script()
        except BaseException as error:  # noqa: BLE001 (raised below)
            failed.append(error)
        ended_s = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)

    actor = threading.Thread(target=act)
    actor.start()
    agent.run()
    took_s = time.monotonic() - ended_s
    actor.join()
    if failed:
        raise failed[0]
    return took_s


def begun(node: FakeNode, count: int = 1) -> None:
    """A look is under way."""
    wait_until(lambda: node.did.count("begin") >= count, 5, 0.01, "a look")


def test_news_are_answered_while_a_look_waits(agent: loop.Agent) -> None:
    """As often as they come; the look that follows tells the rest."""
    node, source, _ = parts(agent)

    def script() -> None:
        begun(node)
        for count in range(3):
            source.news = True
            wait_until(lambda count=count: node.did.count("answer") > count, 5, 0.01, "an answer")  # type: ignore[misc]
        assert node.did == ["plan", "begin", "answer", "answer", "answer"]
        node.gate.set()
        begun(node, 2)

    assert run(agent, script) < 1
    assert node.did[5:8] == ["welcome", "plan by reading", "begin"]


def test_what_came_while_it_was_under_way_is_looked_at_soon(agent: loop.Agent) -> None:
    node, source, _ = parts(agent)
    agent._resync_s = 1
    waited_s = {}

    def script() -> None:
        for came in (True, False):
            count = node.did.count("begin") + 1
            node.gate.clear()
            begun(node, count)
            source.news = came
            time.sleep(0.3)
            began_s = time.monotonic()
            node.gate.set()
            begun(node, count + 1)
            waited_s[came] = time.monotonic() - began_s

    run(agent, script)
    assert waited_s[True] < 0.2 < waited_s[False]


def test_a_look_that_fails_is_begun_again(agent: loop.Agent) -> None:
    """And what was left to it is not taken for done."""
    node, source, _ = parts(agent)
    node.fails = KernelError("RTM_GETLINK", 5)
    node.gate.set()

    def script() -> None:
        begun(node, 3)
        node.fails = None
        wait_until(lambda: "plan by reading" in node.did, 5, 0.01, "a plan")

    run(agent, script)
    assert node.did[:5] == ["plan", "begin", "nothing", "begin", "nothing"]
    assert source.reports


def test_who_is_told_to_end_does_not_wait_for_a_look(agent: loop.Agent) -> None:
    node, _, hold = parts(agent)
    assert run(agent, lambda: begun(node)) < 1
    assert (node.did, hold.given_back) == (["plan", "begin"], 0)
    node.gate.set()


@pytest.mark.parametrize("how", ["order", "leaves"])
def test_who_is_told_to_clean_waits_for_a_look_and_throws_it_away(agent: loop.Agent, how: str) -> None:
    """It has sockets and programs of the node's."""
    node, source, hold = parts(agent)

    def script() -> None:
        begun(node)
        if how == "order":
            source.ordered, source.news = "clean", True
            threading.Timer(0.5, node.gate.set).start()
            wait_until(lambda: hold.given_back, 5, 0.01, "a clean node")
        else:
            source.is_left = True
            threading.Timer(0.5, node.gate.set).start()

    took_s = run(agent, script)
    assert hold.given_back == 1
    assert node.gate.is_set()
    assert node.did == ["plan", "begin"]
    assert took_s > 0.3 or how == "order"


def test_an_agent_whose_look_does_not_end_stands_still(agent: loop.Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it answers meanwhile."""
    node, source, _ = parts(agent)
    monkeypatch.setattr(loop, "STILL_S", 0.3)
    probes = []

    def script() -> None:
        begun(node)
        probes.append(agent._not_live())
        source.news = True
        time.sleep(0.5)
        probes.append(agent._not_live())
        node.gate.set()
        begun(node, 2)
        probes.append(agent._not_live())

    run(agent, script)
    assert (probes[0], probes[2]) == (None, None)
    assert probes[1] is not None
