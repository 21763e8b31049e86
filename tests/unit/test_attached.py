"""Attachments between two readings, and what is taken off when."""

from dataclasses import replace

import pytest

from sniffer.abi.limits import Direction
from sniffer.abi.records import Hook
from sniffer.kernel.attached import BUSY_S, QUIET_S, Attached
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
RELAY = Relay(90, 91)
ENDS = {Hook(90, Direction.EGRESS): tcx(12), Hook(91, Direction.INGRESS): tcx(12)}


@pytest.fixture
def attached() -> Attached:
    """Two hooks, read at 0."""
    made = Attached(PROGRAMS)
    made.read({hook(7): tcx(11), hook(8): tcx(11)}, LINKS, 0)
    return made


def test_they_are_read_first_and_again_after_a_while(attached: Attached) -> None:
    assert Attached(PROGRAMS).known(LINKS, 0) is None
    assert attached.known(LINKS, int(QUIET_S * SECOND)) == {hook(7): tcx(11), hook(8): tcx(11)}
    assert attached.known(LINKS, int(QUIET_S * SECOND) + 1) is None


def test_while_pods_come_and_go_they_are_read_less(attached: Attached) -> None:
    for number in range(3):
        links = *LINKS, link(9 + number)
        assert attached.known(links, int((QUIET_S + number * 0.1) * SECOND) + 1)
    assert attached.known((*LINKS, link(20)), int(BUSY_S * SECOND) + 1) is None


def test_an_interface_that_is_gone_leaves_a_pin(attached: Attached) -> None:
    assert attached.known(LINKS[1:], 1) == {hook(7): tcx(0), hook(8): tcx(11)}
    assert attached.known(LINKS[1:], 2) == {hook(7): tcx(0), hook(8): tcx(11)}


def test_an_index_that_another_has_is_read(attached: Attached) -> None:
    assert attached.known((replace(LINKS[0], address=b"\3"), LINKS[1]), 1) is None


def test_what_was_done_is_known(attached: Attached) -> None:
    links = *LINKS, link(9)
    plan = ops.Attach(hook(9), Mechanism.TCX, "tap_egress"), ops.Detach(hook(7), Mechanism.TCX)
    attached.applied(plan, ())
    assert attached.known(links, 1) == {hook(8): tcx(11), hook(9): tcx(12)}


@pytest.mark.parametrize("plan", [(ops.CreateRelay(),), (ops.Attach(hook(9), Mechanism.TCX, "tap_egress"),)])
def test_what_did_not_come_to_be_is_read(attached: Attached, plan: ops.Plan) -> None:
    attached.applied(plan, [hook(9)])
    assert attached.known(LINKS, 1) is None


def test_who_comes_is_attached_before_who_goes_is_detached() -> None:
    """And what goes is not copied while its program is still there."""
    going = {hook(number): tcx(11) for number in range(1, 30)} | {hook(99): tcx(0)}
    observed = State(hooks=dict.fromkeys(going, 1), attachments=going, relay=RELAY)
    desired = State(hooks={hook(50): 1}, attachments={hook(60): tcx(11), hook(50): tcx(11), **ENDS}, relay=RELAY)
    removal = diff.removal(observed)
    assert [type(op) for op in removal[:30]] == [ops.RemoveHook] * 30
    plan = diff.diff(observed, desired, {11: "tap_ingress", 12: "encap"})
    taps = [op for op in plan if isinstance(op, ops.Attach) and op.program == "tap_ingress"]
    assert taps == [
        ops.Attach(hook(50), Mechanism.TCX, "tap_ingress"),
        ops.Attach(hook(60), Mechanism.TCX, "tap_ingress", ahead=True),
    ]
    assert plan.index(taps[1]) < plan.index(ops.Detach(hook(1), Mechanism.TCX))
    assert ops.Detach(hook(99), Mechanism.TCX, gone=True) in plan
    now = diff.at_once(plan)
    assert sum(isinstance(op, ops.Detach) for op in now) == diff.SLOW_AT_ONCE - 1
    assert diff.at_once(plan, 0) == plan[: plan.index(taps[1])]
    assert plan[: len(now)] == now
    assert diff.at_once(now) == now
