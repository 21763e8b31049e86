"""Linked rules decide as their filters one after the other would."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer import pcap
from sniffer.abi.limits import CODE_RULE, PROGRAM_LENGTH, Action
from sniffer.abi.records import Instruction, Program, pack_program, unpack_program
from sniffer.errors import FilterError
from sniffer.model.resources import Rule, RuleAction
from sniffer.plan.rules import errors, program
from tests.filters import FILTERS
from tests.unit.test_pcap import ARP, DNS, SYN

SKIP_SSH = Rule(action=RuleAction.SKIP, filter="port 22")
MIRROR_REST = Rule(action=RuleAction.MIRROR)


def parts(linked: Program) -> list[tuple[int, Program]]:
    """The (action, filter's program) of each rule, found by the chain of CODE_RULE."""
    found = []
    at = 0
    while True:
        rule = linked[at]
        assert (rule.code, rule.jf) == (CODE_RULE, 0)
        found.append((rule.jt, linked[at + 1 : rule.k or len(linked)]))
        if rule.k == 0:
            return found
        assert rule.k > at
        at = rule.k


def decide(linked: Program, frame: bytes) -> int:
    """What the machine in the tap makes of it: the first rule that matches decides."""
    return next((action for action, part in parts(linked) if pcap.matches(part, frame)), Action.SKIP)


def test_nothing_said_is_no_program() -> None:
    assert program(None, None) == ()


def test_a_filter_is_one_rule() -> None:
    linked = program("ip", None)
    assert linked[0] == Instruction(CODE_RULE, Action.MIRROR, 0, 0)
    assert linked[1:] == pcap.compile("ip")


def test_rules_are_linked() -> None:
    linked = program(None, [SKIP_SSH, Rule(action=RuleAction.MIRROR, filter="tcp"), MIRROR_REST])
    ssh, tcp = pcap.compile("port 22"), pcap.compile("tcp")
    everything = Instruction(0x06, 0, 0, 262144)
    assert linked == (
        Instruction(CODE_RULE, Action.SKIP, 0, 1 + len(ssh)),
        *ssh,
        Instruction(CODE_RULE, Action.MIRROR, 0, 2 + len(ssh) + len(tcp)),
        *tcp,
        Instruction(CODE_RULE, Action.MIRROR, 0, 0),
        everything,
    )
    assert unpack_program(pack_program(linked)) == linked


def test_tags_of_one_rule_do_not_shift_the_next() -> None:
    """As text, `not (vlan 5) and (tcp port 443)` matches no untagged frame."""
    rules = [Rule(action=RuleAction.SKIP, filter="vlan 5"), Rule(action=RuleAction.MIRROR, filter="tcp port 443")]
    assert decide(program(None, rules), SYN) == Action.MIRROR
    assert not pcap.matches(pcap.compile("not (vlan 5) and (tcp port 443)"), SYN)
    tagged = SYN[:12] + b"\x81\x00\x00\x05" + SYN[12:]
    assert decide(program(None, rules), tagged) == Action.SKIP


RULES = st.lists(
    st.builds(Rule, action=st.sampled_from(RuleAction), filter=st.sampled_from([None, *FILTERS])),
    min_size=1,
    max_size=8,
)


@given(RULES)
def test_the_first_rule_that_matches_decides(rules: Sequence[Rule]) -> None:
    if sum(1 + len(pcap.compile(rule.filter or "")) for rule in rules) > PROGRAM_LENGTH:
        with pytest.raises(FilterError, match="too long"):
            program(None, rules)
        return
    linked = program(None, rules)
    assert len(linked) <= PROGRAM_LENGTH
    for frame in (SYN, DNS, ARP):
        matching = [rule for rule in rules if rule.filter is None or pcap.matches(pcap.compile(rule.filter), frame)]
        mirrored = bool(matching) and matching[0].action is RuleAction.MIRROR
        assert (decide(linked, frame) == Action.MIRROR) == mirrored


def test_errors_name_the_field() -> None:
    """I7: the rule's number, from 0, as a path."""
    rules = [
        SKIP_SSH,
        Rule(action=RuleAction.SKIP, filter="tcp prot 5"),
        Rule(action=RuleAction.SKIP, filter="port x y"),
    ]
    with pytest.raises(FilterError) as raised:
        program(None, rules)
    assert (raised.value.field, raised.value.offset) == ("spec.rules[1].filter", 4)
    assert [(error.field, error.offset) for error in errors(None, rules)] == [
        ("spec.rules[1].filter", 4),
        ("spec.rules[2].filter", 7),
    ]
    with pytest.raises(FilterError) as raised:
        program("host zeek", None)
    assert raised.value.field == "spec.filter"
    assert list(errors("ip", None)) == list(errors(None, None)) == list(errors(None, [SKIP_SSH])) == []


def test_too_long_together() -> None:
    """Each rule fits, all of them do not: the one that is too much is named, with length and limit."""
    each = " or ".join(f"port {number}" for number in range(1, 81))
    length = 1 + len(pcap.compile(each))
    assert length <= PROGRAM_LENGTH < 2 * length
    rules = [Rule(action=RuleAction.SKIP, filter=each), Rule(action=RuleAction.SKIP, filter=each + " "), MIRROR_REST]
    with pytest.raises(FilterError, match=f"rules 0 to 1 have {2 * length} instructions, at most 512") as raised:
        program(None, rules)
    assert raised.value.field == "spec.rules[1].filter"
    assert [error.field for error in errors(None, rules)] == ["spec.rules[1].filter"]
    assert len(program(None, [rules[0], MIRROR_REST])) == length + 2
