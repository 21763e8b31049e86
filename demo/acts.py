"""The three acts: everything over VXLAN; from VXLAN to GRE, and a filter, both edited while traffic flows."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from demo import stage
from demo.show import Teller
from demo.verify import Comparison, Copy, Sent, altered, compare, kind_of
from sniffer import pcap
from tests.agent import SNIFFER, Agent
from tests.receivers import Received, decode
from tests.topology import Node
from tests.wire import Frame

MANIFEST = """\
apiVersion: sniffer.dev/v1alpha1
kind: MirrorTarget
metadata: {name: tshark}
spec:
  encapsulation: {vxlan: {vni: 4242}}
  endpoints: [{address: 10.9.0.2}]
---
apiVersion: sniffer.dev/v1alpha1
kind: ClusterTrafficMirror
metadata: {name: demo}
spec:
  interfaces: [pod0]
  targetRefs: [{name: tshark}]
"""
VXLAN, GRE = "encapsulation: {vxlan: {vni: 4242}}", "encapsulation: {gre: {key: 7}}"
TUNNELS = {("vxlan", 4242): "VXLAN", ("gre", 7): "GRE"}
FILTER = "tcp port 80"
FLOW_S = 1.2
"""How long traffic flows before an edit, and after it."""
PATIENCE_S = 60.0
"""For what takes a second, on a machine that is busy with other things."""
MARGIN_S = 0.3
"""A witness may read a frame this much later than it passed."""
SHOWN = 4
"""Wrong frames named one by one, of each sort."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One line of the manifest becomes another while traffic flows; `filter`: what is mirrored from then on."""

    before: str
    after: str
    filter: str | None = None


@dataclass(slots=True)
class Act:
    """What was seen in one act. `problems`: one sentence each; none: the mirror is exact."""

    name: str
    comparison: Comparison
    received: Sequence[Received]
    client: dict[str, dict[str, int]]
    counters: dict[str, Any]
    edit_took_s: float | None
    lines: Mapping[int, stage.Line]
    """By number of the outer frame, what tshark says of it."""
    problems: list[str] = field(default_factory=list)


class Play:
    """The acts, one after the other, on one stage with one agent."""

    def __init__(self, teller: Teller, this: Node, agent: Agent) -> None:
        self.teller, self.this, self.agent = teller, this, agent
        self.manifest = MANIFEST

    def act(self, name: str, edit: Edit | None = None) -> Act:
        """Lets traffic flow, with an edit in its middle, and compares what was sent with what arrived."""
        before = self._counters()
        between = (float("inf"), float("inf"))
        with stage.witnesses(self.this) as seen:
            with stage.Client(self.this) as client, self.teller.watching(seen) as watch:
                watch.wait(FLOW_S)
                if edit:
                    between = self._edit(edit)
                watch.wait(FLOW_S)
            seen.settle()
        counters = {name: count - before.get(name, 0) for name, count in self._counters().items()}
        with ThreadPoolExecutor() as both:
            told = both.submit(stage.tell, seen.analyzer.octets(), self.this.analyzer)
            received = decode(seen.analyzer.octets())
            lines = told.result()
        copies = [
            Copy(item.frame, TUNNELS.get((item.kind, item.key or 0), f"{item.kind} {item.key}")) for item in received
        ]
        comparison = compare(_sent(seen.pod.frames, between, edit), copies)
        when = [seen.analyzer.frames[item.number].when for item in received]
        took = _took(copies, when, between[0], edit) if edit else None
        act = Act(name, comparison, received, client.result, counters, took, {line.number: line for line in lines})
        act.problems = [*self._wrong_frames(comparison), *_wrong_tunnels(comparison, edit), *_wrong_counts(act)]
        return act

    def _edit(self, edit: Edit) -> tuple[float, float]:
        """Returns when the edit was written, and when it was surely in force."""
        self.manifest = self.manifest.replace(edit.before, edit.after)
        began = time.monotonic()
        self.agent.write_text(self.manifest)
        stage.in_force(self.agent.manifests, SNIFFER)
        return began, time.monotonic() + MARGIN_S

    def _counters(self) -> Counter[str]:
        """The agent's own counters of the mirror so far: frames by outcome."""
        (row,) = stage.status(SNIFFER)["mirrors"]
        counts = Counter({name: row[name]["packets"] for name in ("matched", "sent", "wire")})
        for group in ("dropped", "lost"):
            counts[group] = sum(row[group].values())
        return counts

    def _wrong_frames(self, comparison: Comparison) -> list[str]:
        """A sentence for each frame that is wrong, as tshark names it; after SHOWN of a sort only how many more."""
        changed = altered(comparison)
        lost = [item for item in comparison.missing if item not in [sent for sent, _, _ in changed]]
        alien = [item for item in comparison.alien if item not in [copy for _, copy, _ in changed]]
        place = {id(item): number for number, (item, _) in enumerate(comparison.pairs)}
        return [
            *_named([(item.frame, f"altered at byte {at}: frame {place[id(item)]}") for item, _, at in changed]),
            *_named([(item.frame, f"missing at the analyzer: frame {place[id(item)]}") for item in lost]),
            *_named([(item.frame, f"against the filter: frame {place[id(item)]}") for item in comparison.unwanted]),
            *_named([(item.frame, "at the analyzer, but never at the pod:") for item in alien]),
        ]


def _sent(frames: Sequence[Frame], between: tuple[float, float], edit: Edit | None) -> list[Sent]:
    """The frames at the pod, with what must become of each."""
    program = pcap.compile(edit.filter) if edit and edit.filter else ()
    items = []
    for frame in frames:
        part = "before" if frame.when < between[0] else "after" if frame.when > between[1] else "during"
        expected = (
            True if not program or pcap.matches(program, frame.octets) else {"before": True, "after": False}.get(part)
        )
        items.append(Sent(frame.octets, part, expected))
    return items


def _took(copies: Sequence[Copy], when: Sequence[float], began: float, edit: Edit) -> float | None:
    """Seconds from an edit to the last copy that was still made as before it."""
    old = (lambda copy: kind_of(copy.frame) != "HTTP") if edit.filter else (lambda copy: copy.tunnel == "VXLAN")
    last = max((at for copy, at in zip(copies, when, strict=True) if old(copy)), default=began)
    return max(0.0, last - began)


def _wrong_tunnels(comparison: Comparison, edit: Edit | None) -> list[str]:
    """Copies in a tunnel that the manifest did not name when their frame was sent."""
    allowed = {"before": {"VXLAN"}, "during": {"VXLAN"}, "after": {"VXLAN"}}
    if edit and edit.after == GRE:
        allowed = {"before": {"VXLAN"}, "during": {"VXLAN", "GRE"}, "after": {"GRE"}}
    elif edit:
        allowed = {part: {"GRE"} for part in allowed}
    wrong = Counter(
        f"{item.part} the edit over {copy.tunnel}"
        for item, copy in comparison.pairs
        if copy and copy.tunnel not in allowed[item.part]
    )
    return [f"{count} frames sent {how}" for how, count in wrong.items()]


def _wrong_counts(act: Act) -> list[str]:
    """The counters against what the witnesses saw, and production against what it asked for."""
    problems = []
    counts = act.counters
    least = sum(item.expected is True for item, _ in act.comparison.pairs)
    most = sum(item.expected is not False for item, _ in act.comparison.pairs)
    if not least <= counts["matched"] <= most:
        problems.append(f"sniffer counted {counts['matched']} frames as matched, the pod saw {least} to {most}")
    if counts["matched"] != counts["sent"] + counts["dropped"]:
        problems.append(f"matched {counts['matched']} is not sent {counts['sent']} + dropped {counts['dropped']}")
    if not act.client["asked"]:
        problems.append("the client asked for nothing: this proves nothing")
    for kind, asked in act.client["asked"].items():
        if (answered := act.client["answered"].get(kind, 0)) != asked:
            problems.append(f"production: {asked - answered} of {asked} {kind} requests without an answer")
    return problems


def _named(frames: Sequence[tuple[bytes, str]]) -> list[str]:
    """`what` of each frame and what tshark says of it; the first SHOWN, then how many more by kind."""
    shown, rest = frames[:SHOWN], frames[SHOWN:]
    lines = stage.tell([frame for frame, _ in shown]) if shown else []
    told = [
        f"{what} {line.protocol} {line.source} → {line.destination} {line.words} ({len(frame)} bytes)"
        for (frame, what), line in zip(shown, lines, strict=True)
    ]
    if rest:
        kinds = Counter(kind_of(frame) for frame, _ in rest)
        more = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        told.append(f"{rest[0][1].split(':')[0]}: {more} more")
    return told


Column = Callable[[Sent, Copy | None], bool]


def sent(_item: Sent, _copy: Copy | None) -> bool:
    """At the pod's interface."""
    return True


def mirrored(_item: Sent, copy: Copy | None) -> bool:
    """At the analyzer, the very same bytes."""
    return copy is not None


def over(tunnel: str) -> Column:
    """At the analyzer by this tunnel."""
    return lambda _item, copy: copy is not None and copy.tunnel == tunnel


def dropped(item: Sent, copy: Copy | None) -> bool:
    """Should be at the analyzer and is not."""
    return item.expected is True and copy is None


def skipped(item: Sent, copy: Copy | None) -> bool:
    """Not copied, and rightly so."""
    return item.expected is not True and copy is None


def during(part: str, column: Column) -> Column:
    """A column of one part only: before, during, after the edit."""
    return lambda item, copy: item.part == part and column(item, copy)


def rows(comparison: Comparison, columns: Sequence[Column]) -> list[tuple[str, list[int]]]:
    """Per kind of frame, how many are in each column."""
    kinds = sorted({kind_of(item.frame) for item, _ in comparison.pairs})
    return [
        (
            kind,
            [
                sum(column(item, copy) for item, copy in comparison.pairs if kind_of(item.frame) == kind)
                for column in columns
            ],
        )
        for kind in kinds
    ]
