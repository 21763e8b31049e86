"""`make demo`: the main job on real traffic, and the proof that it was done. Exit status: 0 every frame arrived as it
was; 1 one did not, or something else was not as promised; 2 wrong usage; 3 this machine cannot."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from demo import acts, stage
from demo.acts import FILTER, GRE, VXLAN, Act, Edit, Play
from demo.show import PICTURE, Teller
from demo.verify import kind_of
from tests.agent import SNIFFER, Agent

Kind = Literal["HTTP", "DNS", "ICMP", "ARP"]
WIDTH = 120
"""Of tables where there is no terminal."""

WHAT = """\
What happened: a TC eBPF program on pod0 cloned each frame that the filter accepts, and another wrapped the clone in
its tunnel. The agent wrote maps and was not on the path. The comparison takes nothing from sniffer: frames at the
pod and at the analyzer come from packet sockets, the decoding from tshark.

What next, on interfaces of your own, as root: a MirrorTarget with the address of your analyzer and a
ClusterTrafficMirror go into a directory DIR (the manifest above is a pattern), and then, from .venv/bin,
   sniffer doctor                     what this machine lacks
   sniffer lint DIR                   every mistake in the manifests, with file and line
   sniffer plan --manifests DIR       what an agent would do, before it does
   sniffer agent --manifests DIR      mirrors; edit the files while it runs
   sniffer status --watch             what is mirrored now; works with the agent dead, too
   sniffer cleanup                    removes everything that is ours, nothing else
See the demo notice a loss:  scripts/isolated .venv/bin/python -m demo --sabotage ICMP\
"""


def main(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the tables as JSON, progress to standard error.")
    ] = False,
    sabotage: Annotated[
        Kind | None, typer.Option(help="Lose every copy of one kind on the wire: exit status 1.")
    ] = None,
) -> None:
    """Mirrors real traffic of a pod to an analyzer, over VXLAN and GRE, and compares every frame."""
    if os.environ.get("SNIFFER_ISOLATED") != "1":
        print("sniffer: the demo makes links and namespaces: use `make demo`, or scripts/isolated.", file=sys.stderr)
        raise typer.Exit(3)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console.width = WIDTH
    teller = Teller(console)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the way out is through every `with`
    try:
        with tempfile.TemporaryDirectory(prefix="demo-") as directory:
            played, status = play(teller, Path(directory), sabotage, quiet=as_json)
    except AssertionError as error:  # what should happen on the stage did not
        teller.bad(str(error))
        raise typer.Exit(1) from None
    problems = [problem for act in played for problem in act.problems]
    if as_json:
        verdict = {"passed": not problems, "seconds": round(teller.seconds, 1)}
        print(json.dumps(verdict | {"acts": [_as_object(act) for act in played], "status": status}, indent=2))
    raise typer.Exit(1 if problems else 0)


def play(teller: Teller, directory: Path, sabotage: Kind | None, *, quiet: bool) -> tuple[list[Act], dict[str, object]]:
    """All of it, with its words; returns the acts and the last status."""
    teller.title("sniffer: every frame of a pod, copied whole to an analyzer, and the pod never notices")
    teller.text(PICTURE, "")
    teller.step("Building the network: namespaces pod, peer and ana, linked to this node by veth pairs")
    agent = Agent(directory)
    with stage.stage() as this:
        if sabotage:
            teller.step(f"SABOTAGE: every copy of {sabotage} will vanish on the uplink, behind sniffer's back")
            stage.sabotage(this, sabotage)
        agent.write_text(acts.MANIFEST)
        teller.step("Starting sniffer agent --manifests DIR; in DIR lies:")
        teller.text(acts.MANIFEST)
        try:
            agent.start(timeout=acts.PATIENCE_S)
            agent.programmed(timeout=acts.PATIENCE_S)
            teller.step(f"The agent has attached to {this.pod_device}, and the analyzer is reachable")
            played = [first(teller, play_ := Play(teller, this, agent)), second(teller, play_), third(teller, play_)]
            status = stage.status(SNIFFER)
            if not quiet:
                teller.title("sniffer status")
                show_status(teller.console)
        finally:
            agent.stop()
        agent.cleanup()
    verdict(teller, played)
    return played, status


def first(teller: Teller, stage_play: Play) -> Act:
    """Everything over VXLAN."""
    teller.title("1. Everything, over VXLAN")
    teller.step("The client asks the pod for pages (HTTP) and names (DNS), pings it, and resolves its MAC (ARP)")
    act = stage_play.act("vxlan")
    decoded(teller, act, "VXLAN")
    columns = (acts.sent, acts.mirrored, acts.dropped)
    teller.table(("sent", "mirrored", "dropped"), acts.rows(act.comparison, columns), bad=("dropped",))
    judged(teller, act)
    return act


def second(teller: Teller, stage_play: Play) -> Act:
    """From VXLAN to GRE while traffic flows."""
    teller.title("2. From VXLAN to GRE while traffic flows")
    teller.step("One line of the manifest is edited; no program is loaded anew, no frame may be lost or come twice")
    teller.edit(VXLAN, GRE)
    act = stage_play.act("gre", Edit(VXLAN, GRE))
    decoded(teller, act, "GRE")
    columns = (acts.sent, acts.over("VXLAN"), acts.over("GRE"), acts.dropped)
    teller.table(("sent", "over VXLAN", "over GRE", "dropped"), acts.rows(act.comparison, columns), bad=("dropped",))
    judged(teller, act)
    return act


def third(teller: Teller, stage_play: Play) -> Act:
    """A filter while traffic flows."""
    teller.title("3. A filter, while traffic flows")
    teller.step("From everything to what tcpdump would call `tcp port 80`:")
    before, after = "  interfaces: [pod0]\n", f'  interfaces: [pod0]\n  filter: "{FILTER}"\n'
    teller.text(f'+ filter: "{FILTER}"', "green")
    act = stage_play.act("filter", Edit(before, after, FILTER))
    parts = [(part, column) for part in ("before", "during", "after") for column in (acts.sent, acts.mirrored)]
    columns = [*(acts.during(part, column) for part, column in parts), acts.dropped]
    names = [f"{part}\n{column.__name__}" for part, column in parts]
    teller.table((*names, "dropped"), acts.rows(act.comparison, columns), bad=("dropped",))
    teller.text(
        f"before: until the file was written; after: {acts.MARGIN_S} s after `sniffer plan` found nothing left to do; "
        "during: between",
        "",
    )
    judged(teller, act)
    return act


def decoded(teller: Teller, act: Act, tunnel: str) -> None:
    """A few frames of one tunnel, as tshark tells them."""
    teller.step(f"What tshark makes of it at the analyzer, inside of {tunnel}:")
    inside = (item for item in act.received if item.kind == tunnel.lower())
    teller.decoded((kind_of(item.frame), act.lines[item.number]) for item in inside)


def judged(teller: Teller, act: Act) -> None:
    """What was verified, or what was wrong."""
    for problem in act.problems:
        teller.bad(problem)
    counts = act.counters
    if not act.problems:
        copied = sum(copy is not None for _, copy in act.comparison.pairs)
        octets = sum(len(item.frame) for item, copy in act.comparison.pairs if copy)
        teller.good(f"{copied} frames, {octets} bytes: each copy is its frame, byte for byte, and none came twice")
        teller.good(f"all {sum(act.client['asked'].values())} requests of the client were answered")
    if act.edit_took_s is not None:
        teller.good(f"the edit was in force after {act.edit_took_s:.2f} s")
    teller.text(
        f"sniffer's counters: matched {counts['matched']} = sent {counts['sent']} + dropped {counts['dropped']}; "
        f"{counts['wire']} packets on the wire: a copy of a full frame takes two",
        "",
    )


def show_status(console: Console) -> None:
    """`sniffer status`, as people would see it."""
    size = {} if console.is_terminal else {"COLUMNS": str(WIDTH)}
    sys.stdout.flush()
    subprocess.run([str(SNIFFER), "status"], env=os.environ | size, check=False)


def verdict(teller: Teller, played: list[Act]) -> None:
    """The last words."""
    problems = [problem for act in played for problem in act.problems]
    if problems:
        teller.title(f"FAILED after {teller.seconds:.0f} s: {len(problems)} problems, each said above")
        return
    copies = sum(copy is not None for act in played for _, copy in act.comparison.pairs)
    teller.title(f"Passed in {teller.seconds:.0f} s: {copies} frames arrived at the analyzer, all of them as they were")
    teller.text(WHAT, "")


def _as_object(act: Act) -> dict[str, object]:
    columns = {"sent": acts.sent, "mirrored": acts.mirrored, "dropped": acts.dropped, "filtered": acts.skipped}
    columns |= {"vxlan": acts.over("VXLAN"), "gre": acts.over("GRE")}
    for part in ("before", "during", "after"):
        columns |= {f"{part}_{name}": acts.during(part, columns[name]) for name in ("sent", "mirrored")}
    rows = {
        kind: dict(zip(columns, row, strict=True)) for kind, row in acts.rows(act.comparison, list(columns.values()))
    }
    numbers = {"counters": dict(act.counters), "client": act.client, "edit_took_s": act.edit_took_s}
    return {"name": act.name, "kinds": rows, "alien": len(act.comparison.alien)} | numbers | {"problems": act.problems}


if __name__ == "__main__":
    typer.run(main)
