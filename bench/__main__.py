"""`python -m bench`: measures, prints the table, writes build/bench.md and build/bench.json."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.goodput import goodput_rows
from bench.lanes import ANALYZER_SIX, HEADERS, Bed, Row, bed, measure
from bench.rows import FOUNDATION, OURS, SUPER, TARGETS
from bench.table import DATAGRAM, DATAGRAMS, SIZES, aims, as_json, as_markdown
from tests.agent import Agent, mirror, target

END_WORDS = {"queue": "uplink's queue", "analyzer": "analyzer's end of the uplink"}
BUILD = Path(__file__).parents[1] / "build"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="bench", description="what a copy costs, as ratios of one run")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.2, metavar="S", help="of one run (default 0.2)")
    parser.add_argument(
        "--core", type=int, default=max(os.sched_getaffinity(0)), help="the sender's; the rest shares the others"
    )
    parser.add_argument(
        "--end", choices=("queue", "analyzer"), default="queue", help="where copies end (default queue)"
    )
    parser.add_argument("--foundation", action="store_true", help="only the rows that need no agent")
    parser.add_argument("--no-goodput", dest="goodput", action="store_false", help="leave TCP out")
    parser.add_argument("--strict", action="store_true", help="end with 1 when an aim is missed")
    return parser.parse_args()


@contextmanager
def agent(this: Bed, rows: Sequence[Row]) -> Iterator[Agent | None]:
    """The agent, told about the lanes that have a manifest; None when there is none such."""
    told = [row for row in rows if row.manifest is not None]
    if not told:
        yield None
        return
    address = this.node.analyzer_address
    documents = [
        target(name, ANALYZER_SIX if six else address, encapsulation=tunnel, outer=outer)
        for name, (six, tunnel, outer) in TARGETS.items()
    ]
    documents += [mirror(row.name, [this.devices[row.name]], **(row.manifest or {})) for row in told]
    with tempfile.TemporaryDirectory() as directory:
        running = Agent(Path(directory))
        running.write(*documents)
        with running:
            running.programmed()
            yield running


def packets(
    rows: Sequence[Row], options: argparse.Namespace
) -> tuple[dict[str, dict[int, list[float]]], dict[str, list[float]]]:
    """Nanoseconds per packet of each repetition, all rows in turn: row -> frame length; and row, of super-packets."""
    runs: dict[str, dict[int, list[float]]] = {row.name: {size: [] for size in SIZES} for row in rows}
    supers: dict[str, list[float]] = {row.name: [] for row in rows if row.name in SUPER}
    whole = HEADERS + DATAGRAMS * DATAGRAM
    with bed(rows, options.end) as this, agent(this, rows):
        for row in rows:  # warm: caches, neighbours, the first page faults
            measure(this, row, SIZES[0], 0.05, options.core)
        for repetition in range(options.repetitions):
            shift = repetition % len(rows)
            for row in (*rows[shift:], *rows[:shift]):
                for size in SIZES:
                    runs[row.name][size].append(measure(this, row, size, options.seconds, options.core))
                if row.name in SUPER:
                    cost = measure(this, row, whole, options.seconds, options.core, DATAGRAM)
                    supers[row.name].append(cost)
            if sys.stderr.isatty():
                print(
                    f"\r{repetition + 1} of {options.repetitions}",
                    end="\n" * (repetition + 1 == options.repetitions),
                    file=sys.stderr,
                )
    return runs, supers


def main() -> int:
    """Measures and reports; 1 when `--strict` and an aim is missed."""
    options = arguments()
    everywhere = os.sched_getaffinity(0)
    with ExitStack() as home:
        if others := everywhere - {options.core}:
            os.sched_setaffinity(0, others)
            home.callback(os.sched_setaffinity, 0, everywhere)
        rows = FOUNDATION if options.foundation else FOUNDATION + OURS
        runs, supers = packets(rows, options)
    goodput = goodput_rows(options) if options.goodput else {}
    table = as_markdown(rows, runs, goodput, END_WORDS[options.end], supers)
    BUILD.mkdir(exist_ok=True)
    (BUILD / "bench.md").write_text(table)
    (BUILD / "bench.json").write_text(json.dumps(as_json(rows, runs, goodput, options.end, supers), indent=1) + "\n")
    print(table)
    return int(options.strict and not all(aim.reached for aim in aims(runs, goodput)))


if __name__ == "__main__":
    sys.exit(main())
