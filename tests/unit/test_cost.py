"""Instructions and longest path of linked programs, against a walk over every way through small ones."""

import pytest

from sniffer.abi.limits import CODE_RULE, Action
from sniffer.abi.records import Instruction
from sniffer.model.resources import Rule, RuleAction
from sniffer.pcap import compile, listing
from sniffer.plan.cost import instruction_count, longest_path, parts
from sniffer.plan.rules import program
from tests.filters import FILTERS


def walk(instructions: tuple[Instruction, ...], at: int = 0) -> int:
    """The longest way by trying all."""
    now = instructions[at]
    if now.code & 7 == 6:
        return 1
    jump = now.code & 7 == 5
    offsets = {0} if not jump else {now.k} if now.code & 0xF0 == 0 else {now.jt, now.jf}
    return 1 + max(walk(instructions, at + 1 + offset) for offset in offsets)


def rule(action: RuleAction, filter: str | None) -> Rule:
    return Rule(action=action, filter=filter)


@pytest.mark.parametrize(
    "text", ["tcp", "tcp port 80", "host 10.9.9.9", "vlan 5 and arp", "len > 100", "ip[0] / ip[1] = 2"]
)
def test_the_longest_way_through_one_filter(text: str) -> None:
    rules = parts(program(text, None))
    assert [(part.action, part.program) for part in rules] == [(Action.MIRROR, compile(text))]
    assert instruction_count(rules) == len(compile(text))
    assert longest_path(rules) == walk(compile(text))


def test_known_numbers() -> None:
    assert longest_path(parts(program("arp", None))) == 3  # load, compare, return
    assert instruction_count(parts(())) == longest_path(parts(())) == 0


def test_rules_add_up_only_where_the_former_can_fail() -> None:
    arp, tcp = rule(RuleAction.SKIP, "arp"), rule(RuleAction.MIRROR, "tcp port 80")
    rules = parts(program(None, [arp, tcp]))
    assert [part.action for part in rules] == [Action.SKIP, Action.MIRROR]
    assert instruction_count(rules) == 4 + 20
    assert longest_path(rules) == 3 + walk(compile("tcp port 80"))
    assert longest_path(parts(program(None, [rule(RuleAction.MIRROR, None), tcp]))) == 1


def test_a_load_past_the_end_goes_to_the_next_rule() -> None:
    always, load = Instruction(6, 0, 0, 1), Instruction(0x28, 0, 0, 12)
    first, last = Instruction(CODE_RULE, 1, 0, 3), Instruction(CODE_RULE, 1, 0, 0)
    tail = (last, load, load, load, always)
    assert longest_path(parts((first, load, always, *tail))) == 1 + 4
    assert longest_path(parts((first, Instruction(0, 0, 0, 12), always, *tail))) == 2  # ld #12 cannot fail


def test_a_loop_has_no_longest_path() -> None:
    assert longest_path(parts(program("ip6 protochain 6", None))) is None


@pytest.mark.parametrize("text", FILTERS)
def test_every_filter_has_a_bound(text: str) -> None:
    rules = parts(program(text, None))
    longest = longest_path(rules)
    assert ("protochain" in text) if longest is None else (0 < longest <= instruction_count(rules))


def test_the_listing_is_that_of_tcpdump() -> None:
    assert listing(compile("arp")) == (
        "(000) ldh      [12]",
        "(001) jeq      #0x806           jt 2\tjf 3",
        "(002) ret      #262144",
        "(003) ret      #0",
    )
