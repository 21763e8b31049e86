"""`python -m bench.profile ROW [REFERENCE]`: where the time of a row goes, as nanoseconds per packet of each function.

Samples the sender's core with perf while it sends 64-byte frames, and sets a function's share of the samples against
what a packet costs without perf. With a reference row, what the row spends more (or less) there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.__main__ import agent
from bench.lanes import Bed, Row, bed, measure
from bench.rows import FOUNDATION, OURS
from bench.table import SIZES

SECONDS = 3


def main() -> int:
    """Prints the functions, the dearest first."""
    names = {row.name: row for row in FOUNDATION + OURS}
    parser = argparse.ArgumentParser(prog="bench.profile")
    parser.add_argument("row", choices=names)
    parser.add_argument("reference", choices=names, nargs="?")
    parser.add_argument("--least", type=float, default=3.0, metavar="NS", help="leave out what costs less (default 3)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the sender's")
    options = parser.parse_args()
    if not shutil.which("perf"):
        print(
            "bench.profile: needs perf: install the package linux-perf (Ubuntu: linux-tools-generic)", file=sys.stderr
        )
        return 3
    rows = [names[name] for name in dict.fromkeys((options.row, options.reference)) if name]
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {options.core} or {options.core})
    with bed(rows) as this, agent(this, rows):
        costs = {row.name: functions(this, row, options.core) for row in rows}
    difference = Counter(costs[options.row])
    difference.subtract(costs.get(options.reference, {}))
    for name, nanoseconds in sorted(difference.items(), key=lambda item: -item[1]):
        if abs(nanoseconds) >= options.least:
            print(f"{nanoseconds:8.1f}  {name}")
    print(f"{sum(difference.values()):8.1f}  together")
    return 0


def functions(this: Bed, row: Row, core: int) -> dict[str, float]:
    """Function -> nanoseconds per packet, of the kernel and the sender on this core."""
    cost = min(measure(this, row, SIZES[0], 0.2, core) for _ in range(5))
    with tempfile.TemporaryDirectory() as directory:
        samples = Path(directory, "perf.data")
        record = ["perf", "record", "--quiet", "-e", "cpu-clock", "-C", str(core), "-F", "5000", "-o", str(samples)]
        with subprocess.Popen([*record, "--", "sleep", str(SECONDS - 1)], stderr=subprocess.DEVNULL) as recording:
            measure(this, row, SIZES[0], SECONDS, core)
            assert recording.wait() == 0, "perf record failed"
        report = ["perf", "report", "-i", str(samples), "--stdio", "--quiet", "--sort", "symbol", "-F", "sample,symbol"]
        lines = subprocess.run(report, capture_output=True, text=True, check=True).stdout.splitlines()
    counts: Counter[str] = Counter()
    for line in lines:
        words = line.split()
        if len(words) >= 3 and words[0].isdigit():
            counts[words[2].split("_", 3)[3] if words[2].startswith("bpf_prog_") else words[2]] += int(words[0])
    total = sum(counts.values())
    return {name: count * cost / total for name, count in counts.items()}


if __name__ == "__main__":
    sys.exit(main())
