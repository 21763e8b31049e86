"""Measurements to a table of ratios, for people and for programs."""

import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.lanes import Row

SIZES = (64, 1400)
DATAGRAMS, DATAGRAM = 10, 1300
"""Of a super-packet: how many, and bytes of UDP's payload of each: they fit the underlay in every tunnel."""
Runs = Mapping[str, Mapping[int, Sequence[float]]]
"""Row -> frame length -> nanoseconds per packet, one per repetition."""

Supers = Mapping[str, Sequence[float]]
"""Row -> nanoseconds per super-packet, one per repetition."""

Goodput = Mapping[str, Sequence[float]]
"""bare, or how it was mirrored -> bits per second, one per repetition."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should reach. `most` or `least`, whichever is not None."""

    name: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def reached(self) -> bool:
        """Whether it does."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)


def best(runs: Runs, name: str, size: int) -> float:
    """The quickest repetition: noise only ever adds."""
    return min(runs[name][size])


def added(runs: Runs, name: str, size: int, over: str = "none") -> float:
    """Nanoseconds per packet more than another row."""
    return best(runs, name, size) - best(runs, over, size)


def noise(runs: Runs, size: int) -> float:
    """How far the repetitions of one row lie apart, in the middle: half of what `none` varies by, in nanoseconds."""
    return statistics.median(runs["none"][size]) - best(runs, "none", size)


def aims(runs: Runs, goodput: Goodput) -> list[Aim]:
    """The figures that the project promises, of the rows that were measured."""
    found = []
    for size in SIZES:
        rival = added(runs, "rival", size)
        ratios = {name: added(runs, name, size) / rival for name in ("vxlan", "gre") if name in runs}
        found += [Aim(f"{name} / rival, {size} B", ratio, most=0.9) for name, ratio in ratios.items()]
        limits = {name: most for name, most in {"ordinary": 60, "hosts": 60, "twenty": 200}.items() if name in runs}
        found += [
            Aim(f"{name} - empty, {size} B, ns", added(runs, name, size, "empty"), most)
            for name, most in limits.items()
        ]
    if "vxlan" in goodput:
        ratio = statistics.median(goodput["vxlan"]) / statistics.median(goodput["bare"])
        found.append(Aim("TCP goodput, mirrored / bare", ratio, least=0.97))
    return sorted(found, key=lambda aim: aim.name)


def as_json(
    rows: Sequence[Row], runs: Runs, goodput: Goodput, end: str, supers: Supers | None = None
) -> dict[str, object]:
    """Everything that was measured, with what follows from it."""
    return {
        "copies_end": end,
        "machine": {"kernel": platform.release(), "processor": processor()},
        "rows": [
            {
                "name": row.name,
                "label": row.label,
                "sizes": {
                    str(size): {
                        "best_ns": round(best(runs, row.name, size), 1),
                        "added_ns": round(added(runs, row.name, size), 1),
                        "of_rival": round(added(runs, row.name, size) / added(runs, "rival", size), 3),
                        "of_floor": round(added(runs, row.name, size) / added(runs, "floor", size), 3),
                        "runs_ns": [round(value, 1) for value in runs[row.name][size]],
                    }
                    for size in SIZES
                },
            }
            for row in rows
        ],
        "noise_ns": {str(size): round(noise(runs, size), 1) for size in SIZES},
        "udp_super_packets": {
            "datagrams": DATAGRAMS,
            "bytes": DATAGRAM,
            "best_ns": {name: round(min(values), 1) for name, values in (supers or {}).items()},
        },
        "goodput_bits_per_second": {name: [round(value) for value in values] for name, values in goodput.items()},
        "aims": [
            {
                "name": aim.name,
                "value": round(aim.value, 3),
                "most": aim.most,
                "least": aim.least,
                "reached": aim.reached,
            }
            for aim in aims(runs, goodput)
        ],
    }


def as_markdown(rows: Sequence[Row], runs: Runs, goodput: Goodput, end: str, supers: Supers | None = None) -> str:
    """The table to read."""
    repetitions = len(runs["none"][SIZES[0]])
    machine = f"Linux {platform.release()}, {processor()}"
    lines = [
        "UDP from a pod, one core, to the end of its softirq; frames of these lengths, nanoseconds per packet,",
        f"the best of {repetitions} interleaved runs; copies end at the {end}. {machine}.",
        "",
        "| row | " + " | ".join(f"{size} B | added | of rival" for size in SIZES) + " |",
        "|---|" + "--:|" * 3 * len(SIZES),
    ]
    for row in rows:
        cells = []
        for size in SIZES:
            more = added(runs, row.name, size)
            ratio = "" if row.name == "none" else f"{more / added(runs, 'rival', size):.2f}"
            cells += [f"{best(runs, row.name, size):.0f}", "" if row.name == "none" else f"{more:+.0f}", ratio]
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    lines += ["", "Noise (median over best of `no program`): "
              + ", ".join(f"{size} B {noise(runs, size):.0f} ns" for size in SIZES) + "."]  # fmt: skip
    if supers:
        lines += ["", *_supers({row.name: row.label for row in rows}, supers)]
    if goodput:
        bare = statistics.median(goodput["bare"])
        lines += ["", "| TCP goodput | Gb/s | of bare |", "|---|--:|--:|"]
        for name, values in goodput.items():
            middle = statistics.median(values)
            lines.append(f"| {name} | {middle / 1e9:.2f} | {middle / bare:.3f} |")
    if found := aims(runs, goodput):
        lines += ["", "| aim | reached | limit | |", "|---|--:|--:|---|"]
        for aim in found:
            limit = f"<= {aim.most:g}" if aim.most is not None else f">= {aim.least:g}"
            lines.append(f"| {aim.name} | {aim.value:.3g} | {limit} | {'yes' if aim.reached else 'NO'} |")
    return "\n".join(lines) + "\n"


def _supers(labels: Mapping[str, str], supers: Supers) -> Iterator[str]:
    """What a super-packet costs."""
    least = {name: min(values) for name, values in supers.items()}
    yield f"| UDP GSO, {DATAGRAMS} datagrams of {DATAGRAM} B | ns | added | added to each | of rival |"
    yield "|---|--:|--:|--:|--:|"
    for name, value in least.items():
        more = value - least["none"]
        cells = (
            "| | |"
            if name == "none"
            else f"{more:+.0f} | {more / DATAGRAMS:+.0f} | {more / (least['rival'] - least['none']):.2f} |"
        )
        yield f"| {labels[name]} | {value:.0f} | {cells}"


def processor() -> str:
    """The processor's name, and how many of it there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()
