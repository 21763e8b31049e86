"""`sniffer doctor`: whether this machine, or this cluster, can mirror, line by line with the fix."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sniffer.cli.progress import progress
from sniffer.kernel.preflight import examine as of_node
from sniffer.stats.finding import Finding, Result

_STYLES = {Result.OK: "green", Result.WARN: "yellow", Result.FAIL: "bold red"}


def examine(pin_root: Path, *, as_json: bool) -> int:
    """Prints what was found here: 0 all fine, 1 something to know, 3 this machine cannot mirror."""
    return _tell(of_node(pin_root), "examining this machine", as_json=as_json)


def examine_cluster(kubeconfig: Path | None, namespace: str, *, as_json: bool) -> int:
    """Prints what was found in the cluster: 0 all fine, 1 something to know, 3 it cannot work so. InputError,
    MachineError.
    """
    from sniffer.cluster.client import Client
    from sniffer.cluster.doctor import examine as of_cluster

    return _tell(of_cluster(Client.load(kubeconfig), namespace), "asking the API server", as_json=as_json)


def _tell(findings: Iterable[Finding], words: str, *, as_json: bool) -> int:
    found: list[Finding] = []
    with progress(words) as going_on:
        for finding in findings:
            found.append(finding)
            going_on(f"{words}: {finding.check} done")
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
        table.add_row(result, Text(finding.check), Text(finding.text), Text(finding.fix))
    return table
