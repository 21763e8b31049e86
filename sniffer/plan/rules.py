"""Ordered rules -> one program: the filters' own programs, linked, never composed as text.

`vlan`, `mpls` and `pppoes` shift the offsets of all that follows them in one expression, so that a composed text would
mean something else. Linked, each rule is the program that libpcap made of its filter alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from sniffer import pcap
from sniffer.abi.limits import CODE_RULE, PROGRAM_LENGTH, Action
from sniffer.abi.records import Instruction, Program
from sniffer.errors import FilterError
from sniffer.model.resources import Rule, RuleAction

_RETURN = 0x06  # BPF_RET | BPF_K
_EVERYTHING: Program = (Instruction(_RETURN, 0, 0, pcap.SNAP_LENGTH),)
_ACTIONS = {RuleAction.MIRROR: Action.MIRROR, RuleAction.SKIP: Action.SKIP}


def program(filter: str | None, rules: Sequence[Rule] | None) -> Program:
    """Links what a mirror says; () for a mirror that says nothing and so takes every frame.

    Each rule is an instruction CODE_RULE (jt: its Action, k: the index of the next rule's CODE_RULE, 0 for the last),
    then the program of its filter. All jumps of classic BPF are relative, so a program works wherever it lies.

    Raises FilterError with the path of the field (`spec.rules[2].filter`), at most one: the first. What was linked
    lately takes no time, whatever became of its texts meanwhile.
    """
    key = _key(filter, rules)
    found = _programs.pop(key, None)
    if found is None:
        try:
            found = _new_program(filter, rules)
        except FilterError as error:
            found = error
    _programs[key] = found
    while len(_programs) > pcap.REMEMBERED:
        _programs.pop(next(iter(_programs)), None)
    if isinstance(found, FilterError):
        raise FilterError(found.message, found.offset, found.field)  # one that is raised again grows its traceback
    return found


_Key = tuple[str | None, tuple[tuple[str | None, RuleAction], ...] | None]
_programs: dict[_Key, Program | FilterError] = {}
"""Of the mirrors seen last. Texts alone are forgotten too soon: a few mirrors may have more than can be remembered, and
would be compiled anew at every change, with everybody who comes behind them waiting."""


def _key(filter: str | None, rules: Sequence[Rule] | None) -> _Key:
    return filter, None if rules is None else tuple((rule.filter, rule.action) for rule in rules)


def _new_program(filter: str | None, rules: Sequence[Rule] | None) -> Program:
    if rules is None:
        if filter is None:
            return ()
        return _linked([(Action.MIRROR, _compiled(filter, "spec.filter"))])
    parts: list[tuple[Action, Program]] = []
    length = 0
    for number, rule in enumerate(rules):
        field = f"spec.rules[{number}]"
        part = _EVERYTHING if rule.filter is None else _compiled(rule.filter, f"{field}.filter")
        parts.append((_ACTIONS[rule.action], part))
        length += 1 + len(part)
        if length > PROGRAM_LENGTH:
            words = f"too long: rules 0 to {number} have {length} instructions, at most {PROGRAM_LENGTH}"
            raise FilterError(words, field=field if rule.filter is None else f"{field}.filter")
    return _linked(parts)


def uncompiled(filter: str | None, rules: Sequence[Rule] | None) -> Iterator[str]:
    """The texts that libpcap has not seen lately: `program` may take a second for each. None where it takes no time."""
    if _key(filter, rules) in _programs:
        return iter(())
    texts = [filter, *(rule.filter for rule in rules or ())]
    return (text for text in texts if text is not None and not pcap.is_compiled(text))


def prepare(text: str) -> None:
    """Has libpcap compile a text now; whether it can, `program` says."""
    with suppress(FilterError):
        pcap.compile(text)


def errors(filter: str | None, rules: Sequence[Rule] | None) -> Iterator[FilterError]:
    """Every error of what `program` links: of each filter, or else of all of them together."""
    texts = (
        {"spec.filter": filter}
        if rules is None
        else {f"spec.rules[{number}].filter": rule.filter for number, rule in enumerate(rules)}
    )
    found = False
    for field, text in texts.items():
        try:
            if text is not None:
                _compiled(text, field)
        except FilterError as error:
            found = True
            yield error
    if not found:
        try:
            program(filter, rules)
        except FilterError as error:
            yield error


def _compiled(text: str, field: str) -> Program:
    try:
        return pcap.compile(text)
    except FilterError as error:
        raise FilterError(error.message, error.offset, field) from None


def _linked(parts: Sequence[tuple[Action, Program]]) -> Program:
    linked: list[Instruction] = []
    for number, (action, part) in enumerate(parts, start=1):
        following = len(linked) + 1 + len(part)
        linked.append(Instruction(CODE_RULE, int(action), 0, following if number < len(parts) else 0))
        linked += part
    return tuple(linked)
