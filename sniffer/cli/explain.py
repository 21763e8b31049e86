"""`sniffer explain`: the program that a filter becomes, its cost, and what the tap decides of captured frames."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sniffer.abi.limits import LIST_LENGTH
from sniffer.abi.records import Program
from sniffer.cli.progress import progress
from sniffer.errors import FilterError, InputError, KernelError, MachineError
from sniffer.kernel.trial import FRAME_LENGTHS, Trial
from sniffer.model.manifest import FILE_LENGTH, read
from sniffer.model.mirror import MirrorSpec
from sniffer.model.problem import printable
from sniffer.model.resources import Mirror
from sniffer.pcap import frames, listing
from sniffer.plan.checks import excerpt, filter_problems
from sniffer.plan.cost import instruction_count, longest_path, parts
from sniffer.plan.rules import program
from sniffer.stats import limits

_MEASURED = 16
"""Frames of a capture whose time is taken."""

_ADDRESSES = "020000000002 020000000001"
_SAMPLES = (
    bytes.fromhex(_ADDRESSES + "0806 0001080006040001 020000000001 0a010002 000000000000 0a010003").ljust(60, b"\0"),
    bytes.fromhex(_ADDRESSES + "0800 4500003c0001000040110000 0a010002 0a010003 c0000035 00280000").ljust(74, b"\0"),
    bytes.fromhex(
        _ADDRESSES + "0800 450005dc0001000040060000 0a010002 0a010003 c00001bb 00000001 00000001 5010ffff"
    ).ljust(1514, b"\0"),
)  # ARP, a DNS question, a full segment of HTTPS: what stands for traffic where there is no capture


_TOLD_EVERY = 1000
_T = TypeVar("_T")


@dataclass(slots=True)
class _Explained:
    """One filter, or the rules of one mirror."""

    name: str | None
    texts: tuple[str, ...]
    """What to call each rule: its action and its filter."""
    program: Program
    nanoseconds: float | None = None
    matched: list[int] = field(default_factory=list)
    limits: str = ""
    """How much of what matches is copied, in words; empty: all of it."""


@dataclass(slots=True)
class _Capture:
    """What is worth knowing of a capture beside who takes which frame: numbers of frames, from 0."""

    count: int = 0
    cut: list[int] = field(default_factory=list)
    undecided: list[int] = field(default_factory=list)


def explain(filter_text: str | None, file: Path | None, pcap: Path | None, *, as_json: bool) -> int:
    """Prints it; always 0.

    InputError: not exactly one of the first two, a filter that does not compile, a file that cannot be read.
    MachineError: the kernel cannot be asked about the frames of `pcap`.
    """
    if (filter_text is None) == (file is None):
        given = "neither" if file is None else "both"
        raise InputError(f"given {given} of --filter and -f, allowed exactly one of them")
    subjects = [_of_text(filter_text)] if filter_text is not None else _of_file(file or Path())
    capture = _ask_kernel(subjects, pcap)
    if as_json:
        objects = [_as_object(subject, capture) for subject in subjects]
        print(json.dumps(objects if len(objects) > 1 else objects[0]))
        return 0
    for number, subject in enumerate(subjects):
        print("\n" * bool(number) + "\n".join(_lines(subject, capture)))
    if capture:
        _print_notes(capture)
    return 0


def _of_text(text: str) -> _Explained:
    try:
        return _Explained(None, (f"Mirror {text}",), program(text, None))
    except FilterError as error:
        raise InputError(f"--filter: given {excerpt(text, error)}, allowed a filter that compiles: {error}") from None


def _of_file(path: Path) -> list[_Explained]:
    shown = printable(str(path), 1000)
    try:
        with path.open("rb") as opened:
            source = read(opened.read(FILE_LENGTH + 1), shown)
    except OSError as error:
        raise InputError(f"{shown}: {error.strerror or error}") from None
    problems = [*source.problems, *(problem for resource in source.resources for problem in filter_problems(resource))]
    if problems:
        raise InputError("\n".join(map(str, problems)))
    mirrors = [item.value for item in source.resources if isinstance(item.value, Mirror)]
    if not mirrors:
        raise InputError(f"{shown}: given no mirror, allowed a TrafficMirror or ClusterTrafficMirror, or several")
    return [_of_mirror(mirror) for mirror in mirrors]


def _of_mirror(mirror: Mirror) -> _Explained:
    spec, who = mirror.spec, mirror.identity
    name = who.name if who.namespace is None else f"{who.namespace}/{who.name}"
    if spec.rules is None:
        texts: tuple[str, ...] = (f"Mirror {spec.filter or 'every frame'}",)
    else:
        texts = tuple(f"{rule.action} {rule.filter or 'every frame'}" for rule in spec.rules)
    return _Explained(name, texts, program(spec.filter, spec.rules), limits=limits.words(_limits(spec)))


def _limits(spec: MirrorSpec) -> dict[str, Any]:
    """As in a row of status."""
    return spec.model_dump(mode="json", include={"snap_length", "sampling", "rate_limit"})


def _ask_kernel(subjects: Sequence[_Explained], pcap: Path | None) -> _Capture | None:
    """Fills in what the kernel says; None without a capture. Time is taken only where that is allowed."""
    if pcap is None:
        with suppress(MachineError), Trial() as trial:
            _measure(trial, subjects, _SAMPLES)
        return None
    capture = _Capture()
    with Trial() as trial:
        for start in range(0, len(subjects), LIST_LENGTH):
            capture = _decide(trial, subjects[start : start + LIST_LENGTH], pcap)
        _measure(trial, subjects, [frame.octets for frame in islice(frames(pcap), _MEASURED)])
    return capture


def _decide(trial: Trial, subjects: Sequence[_Explained], pcap: Path) -> _Capture:
    trial.use([subject.program for subject in subjects])
    capture = _Capture()
    for number, frame in enumerate(_counted(frames(pcap))):
        capture.count += 1
        if len(frame.octets) < frame.wire_length:
            capture.cut.append(number)
        if len(frame.octets) not in FRAME_LENGTHS:
            capture.undecided.append(number)
            continue
        for subject, takes in zip(subjects, trial.decide(frame.octets), strict=True):
            if takes:
                subject.matched.append(number)
    return capture


def _counted(many: Iterable[_T]) -> Iterator[_T]:
    """The same; tells how far it has come."""
    with progress("asking the kernel about frames") as going_on:
        for number, one in enumerate(many, start=1):
            if number % _TOLD_EVERY == 0:
                going_on(f"asked the kernel about {number:,} frames")
            yield one


def _measure(trial: Trial, subjects: Iterable[_Explained], samples: Sequence[bytes]) -> None:
    for subject in subjects:
        trial.use([subject.program])
        times = list(_times(trial, samples))
        subject.nanoseconds = sum(times) / len(times) if times else None


def _times(trial: Trial, samples: Iterable[bytes]) -> Iterator[int]:
    for octets in samples:
        with suppress(KernelError):  # one that the kernel's test run refuses
            yield trial.nanoseconds(octets)


def _as_object(subject: _Explained, capture: _Capture | None) -> dict[str, Any]:
    rules = parts(subject.program)
    found: dict[str, Any] = {} if subject.name is None else {"name": subject.name}
    found |= {"limits": subject.limits} if subject.limits else {}
    found |= {
        "instructions": instruction_count(rules),
        "longest_path": longest_path(rules),
        "nanoseconds": None if subject.nanoseconds is None else round(subject.nanoseconds, 1),
        "rules": [
            {"rule": text, "program": listing(rule.program)} for text, rule in zip(subject.texts, rules, strict=False)
        ],
    }
    if capture:
        found |= {"matched": subject.matched, "frames": capture.count}
        found |= {"cut": capture.cut, "undecided": capture.undecided}
    return found


def _lines(subject: _Explained, capture: _Capture | None) -> Iterator[str]:
    rules = parts(subject.program)
    if subject.name is not None:
        yield f"mirror {subject.name}"
    for number, text in enumerate(subject.texts):
        yield f"rule {number}: {printable(text, 4200)}"
        yield from listing(rules[number].program) if rules else ()
    yield _cost(subject)
    if subject.limits:
        yield f"of each node's matches at most {subject.limits}"
    if capture:
        yield f"matched {len(subject.matched)} of {capture.count} frames: {_numbers(subject.matched)}"


def _cost(subject: _Explained) -> str:
    rules = parts(subject.program)
    count, longest = instruction_count(rules), longest_path(rules)
    if not rules:
        words = "0 instructions: no program is run"
    elif longest is None:
        words = f"{count} instructions, in a loop"
    elif count == 1:
        words = "1 instruction"
    else:
        words = f"{count} instructions, at most {longest} of them for one frame"
    if subject.nanoseconds is None:
        return f"{words}; time not measured, which takes root"
    return f"{words}; {subject.nanoseconds:.0f} ns a frame, its copy not counted"


def _numbers(numbers: Sequence[int]) -> str:
    """Frame numbers as ranges: `0-3 7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges) or "none"


def _print_notes(capture: _Capture) -> None:
    if capture.cut:
        words = "were cut by whoever captured them, the tap was asked about what is left"
        print(f"sniffer: {len(capture.cut)} frames {words}: {_numbers(capture.cut)}", file=sys.stderr)
    if capture.undecided:
        words = f"are no Ethernet frames ({FRAME_LENGTHS.start} to {FRAME_LENGTHS.stop - 1} bytes)"
        print(f"sniffer: {len(capture.undecided)} frames {words}: {_numbers(capture.undecided)}", file=sys.stderr)
