"""Attachments between two readings, and what is taken off when."""

from dataclasses import replace

import pytest

from sniffer.abi.limits import Direction, NameKind
from sniffer.abi.records import Hook, NameKey
from sniffer.kernel.attached import BUSY_S, QUIET_S, Attached, Pace
from sniffer.plan import diff, ops
from sniffer.plan.facts import Link, Mechanism, Relay
from sniffer.plan.state import Attachment, State

PROGRAMS = {"tap_ingress": 11, "tap_egress": 12}
SECOND = 1_000_000_000


def link(index: int, address: bytes = b"\2") -> Link:
    return Link(index, f"veth{index}", None, "veth", 1500, True, 1, None, None, address)


def hook(index: int) -> Hook:
    return Hook(index, Direction.INGRESS)


def tcx(program: int) -> Attachment:
    return Attachment(Mechanism.TCX, program)


LINKS = link(7), link(8)
OURS = {7, 8}
PLAN = ops.Attach(hook(9), Mechanism.TCX, "tap_egress"), ops.Detach(hook(7), Mechanism.TCX)
RELAY = Relay(90, 91)
ENDS = {Hook(90, Direction.EGRESS): tcx(12), Hook(91, Direction.INGRESS): tcx(12)}


@pytest.fixture
def pace() -> Pace:
    """They were read at 0."""
    made = Pace()
    made.read(LINKS, 0)
    return made


@pytest.fixture
def attached() -> Attached:
    """Two hooks."""
    made = Attached(PROGRAMS)
    made.read({hook(7): tcx(11), hook(8): tcx(11)})
    return made


def test_they_are_read_first_and_again_after_a_while(pace: Pace) -> None:
    assert Pace().due(LINKS, OURS, 0)
    assert not pace.due(LINKS, OURS, int(QUIET_S * SECOND))
    assert pace.due(LINKS, OURS, int(QUIET_S * SECOND) + 1)


def test_while_pods_come_and_go_they_are_read_less(pace: Pace) -> None:
    for number in range(3):
        links = *LINKS, link(9 + number)
        assert not pace.due(links, OURS, int((QUIET_S + number * 0.1) * SECOND) + 1)
    assert pace.due((*LINKS, link(20)), OURS, int(BUSY_S * SECOND) + 1)


def test_an_index_that_another_has_is_read(pace: Pace) -> None:
    other = replace(LINKS[0], address=b"\3"), LINKS[1]
    assert not pace.due(other, {8}, 1)
    pace.read(LINKS, 0)
    assert pace.due(other, OURS, 1)


def test_an_interface_that_is_gone_leaves_a_pin(attached: Attached) -> None:
    for _ in range(2):
        attached.seen(LINKS[1:])
        assert attached.last() == {hook(7): tcx(0), hook(8): tcx(11)}


def test_what_was_done_is_known(attached: Attached) -> None:
    attached.applied(PLAN, ())
    assert attached.last() == {hook(8): tcx(11), hook(9): tcx(12)}


def test_what_was_done_while_they_were_read_is_known(attached: Attached) -> None:
    """And what was done before is known from reading: a link may have been taken away since."""
    attached.applied((ops.Attach(hook(8), Mechanism.TCX, "tap_egress"),), ())
    attached.begin()
    attached.applied(PLAN, ())
    attached.read({hook(7): tcx(11), hook(8): tcx(11)})
    assert attached.last() == {hook(8): tcx(11), hook(9): tcx(12)}


@pytest.mark.parametrize("plan", [(ops.CreateRelay(),), (ops.Attach(hook(9), Mechanism.TCX, "tap_egress"),)])
def test_what_did_not_come_to_be_is_read(attached: Attached, plan: ops.Plan) -> None:
    attached.applied(plan, [hook(9)])
    assert attached.last() is None


def coming_and_going() -> ops.Plan:
    """Hook 50 comes, 60 may, 1 to 29 go, 99 is gone."""
    going = {hook(number): tcx(11) for number in range(1, 30)} | {hook(99): tcx(0)}
    observed = State(hooks=dict.fromkeys(going, 1), lists={1: (1,)}, attachments=going, relay=RELAY)
    verdict = {NameKey(NameKind.VERDICT, 1): "all is well"}
    attachments = {hook(60): tcx(11), hook(50): tcx(11), **ENDS}
    desired = State(hooks={hook(50): 2}, lists={2: (2,)}, names=verdict, attachments=attachments, relay=RELAY)
    assert [type(op) for op in diff.removal(observed)[:30]] == [ops.RemoveHook] * 30
    return diff.diff(observed, desired, {11: "tap_ingress", 12: "encap"})


COMES = ops.Attach(hook(50), Mechanism.TCX, "tap_ingress")
MAY = ops.Attach(hook(60), Mechanism.TCX, "tap_ingress", ahead=True)
GONE = ops.Detach(hook(99), Mechanism.TCX, gone=True)


def test_who_comes_is_attached_before_who_goes_is_detached() -> None:
    """And what goes is not copied while its program is still there."""
    plan = coming_and_going()
    assert [op for op in plan if isinstance(op, ops.Attach) and op.program == "tap_ingress"] == [COMES, MAY]
    assert plan.index(MAY) < plan.index(ops.Detach(hook(1), Mechanism.TCX))
    assert GONE in plan


def test_what_can_wait_does_a_few_at_a_time() -> None:
    now, idle = diff.parted(plan := coming_and_going())
    assert COMES in now
    assert not any(isinstance(op, ops.Detach) for op in now)
    assert idle[0] == MAY
    assert sum(op != GONE for op in idle) == diff.IDLE_AT_ONCE
    rest = tuple(op for op in plan if op not in now and op not in idle)
    assert diff.parted(rest)[0] == ()
    assert diff.parted((*rest[:1], GONE)) == ((), (*rest[:1], GONE))


def test_before_a_look_nothing_is_done_that_can_wait() -> None:
    """Nothing is said of what is not looked at yet, nothing is cleared away."""
    plan = coming_and_going()
    assert diff.quick(plan) == plan[: plan.index(COMES) + 1]
    assert any(isinstance(op, ops.Clear) for op in plan)
    assert diff.quick((ops.AttachRing(91), *plan)) == ()


@pytest.mark.parametrize(
    ("in_hand", "left"),
    [
        (ops.Attach(hook(50), Mechanism.TCX, "tap_ingress", ahead=True), {ops.Attach}),
        (ops.Detach(hook(50), Mechanism.TCX), {ops.Attach, ops.SetHook}),
    ],
)
def test_what_somebody_is_at_is_left_alone(in_hand: ops.Op, left: set[type]) -> None:
    plan = diff.quick(coming_and_going())
    assert {op for op in plan if type(op) in left and op.hook == hook(50)}
    now = diff.quick(coming_and_going(), (in_hand,))
    assert now == tuple(op for op in plan if not (type(op) in left and op.hook == hook(50)))
    assert ops.RemoveHook(hook(1)) in diff.quick(coming_and_going(), (ops.Detach(hook(1), Mechanism.TCX),))


def test_a_program_that_another_takes_the_place_of_does_not_wait() -> None:
    was = State(hooks={hook(7): 1}, lists={1: (1,)}, attachments={hook(7): Attachment(Mechanism.TCX, 11)}, relay=RELAY)
    wish = replace(was, attachments={hook(7): Attachment(Mechanism.CLSACT, 11), **ENDS})
    now, idle = diff.parted(diff.diff(was, wish, {11: "tap_ingress", 12: "encap"}))
    detach = ops.Detach(hook(7), Mechanism.TCX, replaced=True)
    assert now.index(detach) + 1 == now.index(ops.Attach(hook(7), Mechanism.CLSACT, "tap_ingress"))
    assert idle == ()
