"""What the kernel holds, as bpftool, tc and ip tell it; only TCX, which they may be too old for, is asked for directly.

Ids of BPF objects belong to the whole machine, on which others may be at work; pins, devices and qdiscs are of this run
alone. So objects are followed by the ids that our pins and devices lead to.
"""

import json
import re
from pathlib import Path
from typing import Any

from sniffer.abi.limits import Direction
from sniffer.kernel import tcx
from tests.topology import run, wait_until

ROOT = Path("/sys/fs/bpf/sniffer")
_TIMERS = re.compile(r"\w+_timer +[\d.]+")


def bpftool(*words: object) -> Any:
    """The answer of `bpftool -j`."""
    return json.loads(run("bpftool", "-j", *words) or "[]")


def pinned(root: Path = ROOT) -> dict[str, tuple[str, int, int]]:
    """What is pinned below `root`, by relative path: (prog, map or link; its id; when a program was loaded)."""
    found = {}
    for kind in ("prog", "map", "link"):
        for row in bpftool("-f", kind, "show"):
            for path in row.get("pinned", ()):
                if Path(path).is_relative_to(root):
                    found[str(Path(path).relative_to(root))] = (kind, row["id"], row.get("loaded_at", 0))
    return found


def programs(root: Path = ROOT) -> dict[str, tuple[str, int, int]]:
    """Only the programs of `pinned`."""
    return {path: row for path, row in pinned(root).items() if row[0] == "prog"}


def exist(held: dict[str, tuple[str, int, int]]) -> list[str]:
    """Which of these objects the kernel still has."""
    now = {(kind, row["id"]) for kind in ("prog", "map", "link") for row in bpftool(kind, "show")}
    return [path for path, (kind, number, _) in held.items() if (kind, number) in now]


def assert_gone(held: dict[str, tuple[str, int, int]], timeout: float = 5.0) -> None:
    """Nothing holds any of these objects any more; the kernel frees them a moment after the last has let go."""
    wait_until(lambda: not exist(held), timeout, every=0.1, what=f"objects that are left: {exist(held)}")


def attached() -> set[tuple[str, str, int]]:
    """(device, ingress, egress or xdp; program id) of every program on a device of the node."""
    found = set()
    for link in json.loads(run("ip", "-j", "link")):
        device = link["ifname"]
        if "xdp" in link:
            found.add((device, "xdp", link["xdp"]["prog"]["id"]))
        for direction in Direction:
            way = direction.name.lower()
            found |= {(device, way, number) for number in tcx.query_tcx(link["ifindex"], direction)}
            for row in json.loads(run("tc", "-j", "filter", "show", "dev", device, way) or "[]"):
                if "prog" in row.get("options", {}):
                    found.add((device, way, row["options"]["prog"]["id"]))
    return found


def devices() -> list[str]:
    """The names of the node's links."""
    return [row["ifname"] for row in json.loads(run("ip", "-j", "link"))]


def surfaces(qdiscs: bool = True) -> list[str]:
    """All that a person sees of the node by ip, tc, bpftool and on the bpffs, line by line, but for timers."""
    lines = [_TIMERS.sub("timer", line) for line in run("ip", "-d", "link").splitlines()]
    if qdiscs:
        lines += run("tc", "qdisc", "show").splitlines()
    for device in devices():
        for direction in ("ingress", "egress"):
            shown = run("tc", "filter", "show", "dev", device, direction).splitlines()
            lines += [f"{device} {direction}: {line}" for line in shown]
    lines += [" ".join(map(str, row)) for row in sorted(attached())]
    return lines + run("find", "/sys/fs/bpf").splitlines()


def ifindex(device: str) -> int:
    """The index of one of the node's links."""
    return int(Path(f"/sys/class/net/{device}/ifindex").read_text())
