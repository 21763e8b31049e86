"""The classic BPF machine in the tap decides as libpcap's own bpf_filter() does: the real program, in the kernel."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TypeVar

import pytest

from sniffer import pcap
from sniffer.abi.limits import CODE_RULE, LIST_LENGTH, PROGRAM_LENGTH, Action, Direction
from sniffer.abi.records import Hook, Instruction, Program
from sniffer.errors import FilterError
from sniffer.kernel import tcx
from sniffer.kernel.trial import Trial
from sniffer.model.resources import Rule, RuleAction
from sniffer.plan import rules
from tests.filters import FILTERS
from tests.packets import CORPUS, generate, reaches_hooks
from tests.topology import run, wait_until
from tests.wire import send

DECISIONS = 500_000
FRAMES = 2_750
Oracle = Callable[[bytes], bool]
T = TypeVar("T")


def groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """In lists of `size`, the last one shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


def linked(program: Program, action: Action = Action.MIRROR) -> Program:
    """One rule, as plan.rules has it."""
    return (Instruction(CODE_RULE, action, 0, 0), *program)


def oracle(program: Program) -> Oracle:
    return lambda frame: pcap.matches(program, frame)


@dataclass(frozen=True, slots=True)
class Subject:
    """A linked program, what decides instead of it, and what to call it."""

    name: str
    program: Program
    expected: Oracle


def compare(subjects: Iterable[Subject], frames: Sequence[bytes]) -> int:
    """How many decisions were compared; AssertionError names those that differ."""
    differ, count = [], 0
    with Trial() as trial:
        for group in groups(subjects, LIST_LENGTH):
            trial.use([subject.program for subject in group])
            for frame in frames:
                for subject, taken in zip(group, trial.decide(frame), strict=True):
                    count += 1
                    if taken != subject.expected(frame):
                        differ.append(f"tap {taken}: {subject.name}: {frame.hex()}")
    assert not differ, f"{len(differ)} of {count}, among them:\n" + "\n".join(differ[:5])
    return count


def test_half_a_million_decisions_as_libpcap() -> None:
    frames = [case.frame for case in CORPUS]
    frames += generate(20_261_121, FRAMES - len(frames))
    # Beyond what the window holds, and beyond what a test run takes.
    frames += generate(7, 40, shortest=1400, longest=9000)
    programs = {text: pcap.compile(text) for text in FILTERS}
    subjects = [Subject(text, linked(program), oracle(program)) for text, program in programs.items()]
    assert compare(subjects, frames) >= DECISIONS
    # A filter that decides alike for all frames shows little; few do.
    sample = frames[::7]
    undecided = [t for t, p in programs.items() if len({pcap.matches(p, frame) for frame in sample}) == 1]
    assert len(undecided) < len(FILTERS) // 5, undecided


def _rule_lists(count: int) -> Iterator[Subject]:
    rng = Random(3)
    while count:
        chosen = [
            Rule(action=rng.choice(list(RuleAction)), filter=None if rng.random() < 0.1 else rng.choice(FILTERS))
            for _ in range(rng.randint(1, 8))
        ]
        try:
            program = rules.program(None, chosen)
        except FilterError:
            continue  # too long together
        count -= 1
        yield Subject(repr(chosen), program, _first_match(chosen))


def _first_match(chosen: Sequence[Rule]) -> Oracle:
    parts = [(rule.action == RuleAction.MIRROR, pcap.compile(rule.filter or "")) for rule in chosen]
    return lambda frame: next((action for action, part in parts if pcap.matches(part, frame)), False)


def test_linked_rules_decide_as_their_filters_one_after_the_other() -> None:
    frames = [case.frame for case in CORPUS] + list(generate(11, 450))
    assert compare(_rule_lists(96), frames) >= 55_000


# ---- programs that no compiler writes ----

LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
W, H, B = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = range(0x00, 0xB0, 0x10)
JA, JEQ, JGT, JGE, JSET = range(0x00, 0x50, 0x10)
K, X, A = 0x00, 0x08, 0x10
TAX, TXA = 0x00, 0x80
ALL = (1 << 32) - 1

LOADS = [LD | size | mode for size in (W, H, B) for mode in (ABS, IND)] + [LDX | B | MSH]
ARITHMETIC = [ALU | op | by for op in (ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, MOD, XOR) for by in (K, X)]
BRANCHES = [JMP | op | by for op in (JEQ, JGT, JGE, JSET) for by in (K, X)]
OTHERS = [LD | IMM, LDX | IMM, LD | MEM, LDX | MEM, ST, STX, LD | LEN, LDX | LEN, ALU | NEG, JMP | JA]
OTHERS += [MISC | TAX, MISC | TXA]
RETURNS = [RET | K, RET | A]
EVERY_CODE = {*LOADS, *ARITHMETIC, *BRANCHES, *OTHERS, *RETURNS}


def op(code: int, k: int = 0, jt: int = 0, jf: int = 0) -> Instruction:
    return Instruction(code, jt, jf, k & ALL)


NUMBERS = (0, 1, 2, 5, 14, 31, 32, 33, 63, 127, 128, 255, 1 << 16, 1 << 31, ALL - 1, ALL)


def _operand(rng: Random) -> int:
    return rng.choice(NUMBERS) if rng.random() < 0.5 else rng.getrandbits(32)


def _offset(rng: Random) -> int:
    """Mostly inside of a frame, around the end of the window, at times far outside of everything."""
    kind = rng.random()
    if kind < 0.6:
        return rng.randrange(64)
    return rng.randrange(120, 140) if kind < 0.85 else rng.choice(NUMBERS)


def _step(code: int, rng: Random, left: int) -> Instruction:
    """An instruction as bpf_filter() defines it: no constant shift by 32 or more, no division by a constant zero."""
    if code in LOADS:
        return op(code, _offset(rng))
    if code in BRANCHES:
        reach = min(left, 12)
        return op(code, _operand(rng), rng.randint(0, reach), rng.randint(0, reach))
    if code == JMP | JA:
        return op(code, rng.randint(0, min(left, 12)))
    if code in (LD | MEM, LDX | MEM, ST, STX):
        return op(code, rng.randrange(16))
    if code in (ALU | LSH | K, ALU | RSH | K):
        return op(code, rng.randrange(32))
    if code in (ALU | DIV | K, ALU | MOD | K):
        return op(code, _operand(rng) or 1)
    return op(code, _operand(rng))


def random_program(rng: Random) -> Program:
    """Straight on or forwards; every place of memory is written before it is read; what it computed decides."""
    program = [step for n in range(16) for step in (op(LD | IMM, _operand(rng)), op(ST, n))]
    # Offsets of indirect loads that are inside of a frame now and then.
    program += [op(LDX | IMM, rng.randrange(40)), op(LD | H | ABS, 12)]
    length = rng.choice((5, 20, 60, 120))
    codes = [*LOADS, *ARITHMETIC, *BRANCHES, *OTHERS]
    for left in range(length - 1, -1, -1):
        program.append(_step(rng.choice(codes), rng, left))
        if rng.random() < 0.08:
            program.append(op(LDX | IMM, rng.randrange(130)))
    # A branch may lead over the fourteen that were put in between, never over the end.
    program += [op(ALU | XOR | X), op(JMP | JSET | K, rng.choice((0x1, 0xFF, 0x10001, ALL)), 0, 1)]
    return (*program, op(RET | K, rng.choice((1, ALL))) if rng.random() < 0.5 else op(RET | A), op(RET | K, 0))


def test_random_programs_of_every_code_as_libpcap() -> None:
    rng = Random(41)
    programs = [random_program(rng) for _ in range(1_500)]
    assert {instruction.code for program in programs for instruction in program} == EVERY_CODE
    frames = [case.frame for case in CORPUS[::6]] + list(generate(5, 20)) + [bytes(range(256)) * 5, b"\xff" * 300]
    taken = [sum(pcap.matches(program, frame) for frame in frames) for program in programs]
    assert sum(0 < count < len(frames) for count in taken) > len(programs) // 8
    subjects = (Subject(repr(program), linked(program), oracle(program)) for program in programs)
    assert compare(subjects, frames) > 70_000


def both(*program: Instruction) -> list[Program]:
    """A program that ends in A, and its complement: one of the two must match whatever A is."""
    return [(*program, op(RET | A)), (*program, op(JMP | JEQ | K, 0, 0, 1), op(RET | K, 1), op(RET | K, 0))]


def _by_hand() -> Iterator[Program]:
    for size, width in ((W, 4), (H, 2), (B, 1)):
        for at in (
            0,
            12,
            13,
            123,
            124,
            125,
            126,
            127,
            128,
            131,
            255,
            299 - width,
            300 - width,
            301 - width,
            1 << 31,
            ALL,
        ):
            yield from both(op(LD | size | ABS, at))
            yield from both(op(LDX | IMM, at), op(LD | size | IND, 0))
            yield from both(op(LDX | IMM, at), op(LD | size | IND, ALL))
            yield from both(op(LDX | IMM, ALL), op(LD | size | IND, at))
            yield (op(LD | size | ABS, at), op(RET | K, 1))
    for at in (0, 14, 127, 128, 299, 300, ALL):
        yield from both(op(LDX | B | MSH, at), op(MISC | TXA))
        yield from both(op(LDX | B | MSH, at), op(LD | B | IND, 14))
    yield from both(op(LD | LEN), op(ALU | SUB | K, 300))
    yield from both(op(LDX | LEN), op(MISC | TXA), op(ALU | SUB | K, 300))
    for number in NUMBERS:
        for other in (0, 1, 31, 32, 33, 64, ALL):
            for code in ARITHMETIC[1::2]:
                yield from both(op(LD | IMM, number), op(LDX | IMM, other), op(code))
        yield from both(op(LD | IMM, number), op(ALU | NEG))
        for by in range(32):
            yield from both(op(LD | IMM, number), op(ALU | LSH | K, by))
            yield from both(op(LD | IMM, number), op(ALU | RSH | K, by))
        for code in BRANCHES:
            for other in NUMBERS:
                start = (op(LD | IMM, number), op(LDX | IMM, other))
                yield (*start, op(code, other, 0, 1), op(RET | K, 1), op(RET | K, 0))
                yield (*start, op(code, other, 1, 0), op(RET | K, 1), op(RET | K, 0))
    for n in range(16):
        yield from both(op(LD | IMM, 7 + n), op(ST, n), op(LD | IMM, 0), op(LD | MEM, n), op(ALU | SUB | K, 7 + n))
        yield from both(op(LDX | IMM, 7 + n), op(STX, n), op(LDX | IMM, 0), op(LDX | MEM, n), op(MISC | TXA))
    yield from both(op(LD | IMM, 5), op(MISC | TAX), op(LD | IMM, 0), op(MISC | TXA))
    # Backwards, as `protochain` jumps: thirty times round, then out.
    loop = (op(LD | IMM, 30), op(ALU | SUB | K, 1), op(JMP | JEQ | K, 0, 1, 0), op(JMP | JA, -3), op(LDX | LEN))
    yield from both(*loop, op(MISC | TXA), op(ALU | SUB | K, 300))
    # The longest there is, straight through.
    yield (*(op(ALU | ADD | K, 1),) * (PROGRAM_LENGTH - 2), op(RET | A))
    yield (op(JMP | JA, PROGRAM_LENGTH - 4), *(op(RET | K, 0),) * (PROGRAM_LENGTH - 4), op(RET | K, 1))
    yield (op(RET | K, 0),)
    yield (op(RET | K, ALL),)


def test_programs_by_hand_as_libpcap() -> None:
    frames = [bytes(range(256)) + bytes(range(44)), bytes(300), b"\xff" * 300, CORPUS[0].frame]
    assert compare((Subject(repr(one[-6:]), linked(one), oracle(one)) for one in _by_hand()), frames) > 20_000


FRAME = CORPUS[0].frame
MATCH, NO_MATCH = op(RET | K, 1), op(RET | K, 0)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ((op(LD | IMM, 1), op(ALU | DIV | K, 0), MATCH), False),
        ((op(LD | IMM, 1), op(ALU | MOD | K, 0), MATCH), False),
        ((op(LD | IMM, 1), op(ALU | LSH | K, 32), op(JMP | JEQ | K, 0, 0, 1), MATCH, NO_MATCH), True),
        ((op(LD | IMM, ALL), op(ALU | RSH | K, 40), op(JMP | JEQ | K, 0, 0, 1), MATCH, NO_MATCH), True),
        ((op(0xFFFF), MATCH), False),
        ((op(JMP | 0x50 | K), MATCH), False),
        ((op(LD | H | LEN), MATCH), False),
        ((op(JMP | JA, -1),), False),
        ((op(JMP | JA, 0x7FFFFFF0), MATCH), False),
        ((op(LD | IMM, 1),), False),
    ],
    ids=["div 0", "mod 0", "lsh 32", "rsh 40", "code", "jump", "size", "for ever", "far away", "no end"],
)
def test_what_bpf_filter_leaves_undefined(program: Program, expected: bool) -> None:
    """libpcap's interpreter aborts, crashes or hangs on these; the tap must do neither, and never mirror by mistake."""
    with Trial([linked(program), linked((MATCH,))]) as trial:
        assert trial.decide(FRAME) == (expected, True)


PAST_THE_END = op(LD | W | ABS, 1 << 20)
NOTHING_DIVIDED = (op(LD | IMM, 8), op(LDX | IMM, 0), op(ALU | DIV | X))


@pytest.mark.parametrize(
    "first",
    [(NO_MATCH,), (PAST_THE_END, MATCH), (*NOTHING_DIVIDED, MATCH), (op(0x7777), MATCH), (op(RET | A),)],
    ids=["ret 0", "past the end", "division by 0", "unknown code", "ret a"],
)
@pytest.mark.parametrize("action", Action)
def test_a_rule_that_ends_without_a_match_goes_to_the_next(first: Program, action: Action) -> None:
    second = (Instruction(CODE_RULE, action, 0, 0), MATCH)
    for former in Action:
        program = (Instruction(CODE_RULE, former, 0, 1 + len(first)), *first, *second)
        with Trial([program]) as trial:
            assert trial.decide(FRAME) == (action == Action.MIRROR,)


def test_a_rule_starts_with_registers_of_zero() -> None:
    dirty = (op(LD | IMM, 9), op(MISC | TAX), NO_MATCH)
    for second in ((op(RET | A),), (op(MISC | TXA), op(RET | A))):
        program = (Instruction(CODE_RULE, 1, 0, 1 + len(dirty)), *dirty, *linked(second))
        with Trial([program]) as trial:
            assert trial.decide(FRAME) == (False,)


# ---- tags that the skb holds ----


def _tagged() -> list[bytes]:
    """Frames whose first tag a receiving kernel takes out of the payload."""
    frames = [case.frame for case in CORPUS] + list(generate(23, 900))
    frames = [frame for frame in frames if frame[12:14] in {b"\x81\x00", b"\x88\xa8"} and reaches_hooks(frame)]
    return [frame for frame in frames if 20 <= len(frame) <= 1518]


@pytest.fixture
def pair() -> Iterator[None]:
    run(*["ip", "link", "add", "tap0", "mtu", "1600", "type", "veth", "peer", "name", "tap1", "mtu", "1600"])
    for name in ("tap0", "tap1"):
        run("sysctl", "-q", "-w", f"net.ipv6.conf.{name}.disable_ipv6=1")
        run(*f"ip link set {name} arp off multicast off up".split())
    yield
    run("ip", "link", "delete", "tap0")


class Live:
    """The tap on a device, with the programs of a trial and, last, one that takes every frame: the witness."""

    def __init__(self, trial: Trial, device: str, direction: Direction) -> None:
        ifindex = int(run("cat", f"/sys/class/net/{device}/ifindex"))
        name = ("tap_ingress", "tap_egress")[direction]
        self.trial, self.link = trial, tcx.attach_tcx(ifindex, direction, trial._fds[name])
        trial._arm(Hook(ifindex, direction))

    def decide(self, programs: Sequence[Program], frame: bytes, device: str) -> tuple[bool, ...]:
        before = self.trial._matched()
        send([frame], device, None)
        after = wait_until(lambda: (now := self.trial._matched())[-1] != before[-1] and now, every=0.0002)
        return tuple(new != old for new, old in zip(after, before, strict=True))[: len(programs)]


def test_tags_that_the_skb_holds_are_seen_where_they_were(pair: None) -> None:
    """C4, C6: received by a veth, the outermost tag lies beside the skb; decisions are those of the wire."""
    frames = _tagged()
    assert len(frames) > 60
    assert {frame[12:14] for frame in frames} == {b"\x81\x00", b"\x88\xa8"}
    assert _compare_live(frames, "tap1", "tap0", Direction.INGRESS) > 8_000


def test_tags_that_a_bridge_forwards_are_seen_on_their_way_out(pair: None) -> None:
    """C4, C6: what was taken out on the way in still lies beside the skb on the way out."""
    run(*["ip", "link", "add", "tap2", "mtu", "1600", "type", "veth", "peer", "name", "tap3", "mtu", "1600"])
    run(*["ip", "link", "add", "br0", "mtu", "1600", "type", "bridge", "stp_state", "0", "mcast_snooping", "0"])
    for name in ("tap1", "tap2"):
        run("ip", "link", "set", name, "master", "br0")
        run(*f"bridge link set dev {name} learning off".split())
    for name in ("tap2", "tap3", "br0"):
        run("sysctl", "-q", "-w", f"net.ipv6.conf.{name}.disable_ipv6=1")
        run(*f"ip link set {name} arp off multicast off up".split())
    try:
        # A bridge forwards neither what is meant for itself nor what has no proper sender.
        frames = [f for f in _tagged() if f[:5] != bytes.fromhex("0180c20000") and not f[6] & 1 and any(f[6:12])]
        assert len(frames) > 60
        assert _compare_live(frames, "tap0", "tap2", Direction.EGRESS) > 8_000
    finally:
        for name in ("br0", "tap2"):
            run("ip", "link", "delete", name)


def _compare_live(frames: Sequence[bytes], sender: str, tapped: str, direction: Direction) -> int:
    texts = [text for text in FILTERS if "vlan" in text] + [t for n, t in enumerate(FILTERS) if n % 2]
    # Around the end of the window and beyond it, where the skb is read: there the tag is not.
    texts += [f"ether[{at}:{size}] & 0x11 = 0" for at in (125, 128, 129, 131, 132, 133, 150) for size in (1, 2, 4)]
    differ, count = [], 0
    with Trial() as trial:
        live = Live(trial, tapped, direction)
        for group in groups(texts, LIST_LENGTH - 1):
            programs = [pcap.compile(text) for text in group]
            trial.use([*map(linked, programs), ()])
            for frame in frames:
                for text, program, taken in zip(group, programs, live.decide(programs, frame, sender), strict=True):
                    count += 1
                    if taken != pcap.matches(program, frame):
                        differ.append(f"tap {taken}: {text}: {frame.hex()}")
    assert not differ, f"{len(differ)} of {count}, among them:\n" + "\n".join(differ[:5])
    return count
