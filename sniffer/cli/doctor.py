"""`sniffer doctor`: whether this machine can mirror, line by line with the fix."""

import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sniffer.kernel.preflight import Finding, Result
from sniffer.kernel.preflight import examine as findings

_STYLES = {Result.OK: "green", Result.WARN: "yellow", Result.FAIL: "bold red"}


def examine(pin_root: Path, *, as_json: bool) -> int:
    """Prints what was found: 0 all fine, 1 something to know, 3 this machine cannot mirror."""
    found = list(findings(pin_root))
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        Console().print(_table(found))
    results = {finding.result for finding in found}
    return 3 if Result.FAIL in results else 1 if Result.WARN in results else 0


def _table(found: list[Finding]) -> Table:
    table = Table("", "check")
    for column in ("found", "fix"):
        table.add_column(column, overflow="fold")
    for finding in found:
        result = Text(finding.result, style=_STYLES[finding.result])
        table.add_row(result, finding.check, Text(finding.text), Text(finding.fix))
    return table
