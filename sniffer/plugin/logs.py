"""`kubectl sniffer logs`: what the agents say of one mirror, from all nodes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread

from sniffer.errors import InputError, SnifferError
from sniffer.model.problem import printable
from sniffer.plugin.kubectl import CONTAINER, Kubectl, Object, place
from sniffer.plugin.status import find
from sniffer.plugin.terminal import ASKING, ask_all, progress, say

_LINE = 4000


def logs(kubectl: Kubectl, name: str | None, namespace: str | None, since: str, *, follow: bool, as_json: bool) -> int:
    """Prints lines with their node before them, oldest first; without `name` all of them. `since`: as kubectl's.

    follow: until Ctrl-C, each as it comes.
    """
    with suppress(KeyboardInterrupt):
        with progress(ASKING) as tell:
            wanted = pattern_of(find(kubectl, name, namespace)) if name else re.compile("")
            agents = kubectl.agents()
            if not agents:
                raise InputError("there is no agent of sniffer in this cluster; see `kubectl sniffer doctor`")
            found = _followed(kubectl, agents, since, tell) if follow else _past(kubectl, agents, since, tell)
            lines = (line for line in found if wanted.search(line[2]))
            first = list(islice(lines, 1))
        for line in chain(first, lines):
            _print(*line, as_json)
    return 0


def pattern_of(mirror: Object) -> "re.Pattern[str]":
    """What a line that concerns this mirror has in it: kind and name as agents write them, no part of a longer name."""
    return re.compile(rf"(?<![\w./-]){mirror['kind']} {re.escape(place(mirror))}(?![\w/-]|\.\w)")


def _print(node: str, stamp: str, text: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"node": node, "time": stamp, "line": text}), flush=True)
    else:
        print(f"{printable(node)} {printable(stamp)} {printable(text, _LINE)}", flush=True)


def _words(agent: Object, since: str) -> Sequence[str]:
    where = ("-n", agent["metadata"]["namespace"], agent["metadata"]["name"], "-c", CONTAINER)
    return (*where, "--timestamps", f"--since={since}")


def _split(node: str, line: str) -> tuple[str, str, str]:
    stamp, _, text = line.rstrip("\n").partition(" ")
    return node, stamp, text


def _past(
    kubectl: Kubectl, agents: Sequence[Object], since: str, tell: Callable[[str], None]
) -> Iterator[tuple[str, str, str]]:
    """By time, of all nodes together."""
    answers = ask_all("asking nodes", range(len(agents)), partial(_of_agent, kubectl, agents, since), tell)
    yield from sorted((line for lines in answers.values() for line in lines), key=lambda line: line[1])


def _of_agent(kubectl: Kubectl, agents: Sequence[Object], since: str, number: int) -> list[tuple[str, str, str]]:
    agent = agents[number]
    node = agent["spec"].get("nodeName", "?")
    try:
        told = kubectl.run("logs", *_words(agent, since))
    except SnifferError as error:
        say(f"{node}: {error}")
        return []
    return [_split(node, line) for line in told.splitlines()]


def _followed(
    kubectl: Kubectl, agents: Sequence[Object], since: str, tell: Callable[[str], None]
) -> Iterator[tuple[str, str, str]]:
    """As they come, until all have ended."""
    tell(f"waiting for a line of {len(agents)} agents")
    lines: SimpleQueue[tuple[str, str, str] | None] = SimpleQueue()
    running = []
    for agent in agents:
        line = kubectl.line("logs", *_words(agent, since), "--follow")
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, errors="replace")
        running.append(process)
        node = agent["spec"].get("nodeName", "?")
        Thread(target=partial(_read, process, node, lines), daemon=True).start()
    try:
        left = len(running)
        while left:
            found = lines.get()
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for process in running:
            process.kill()


def _read(process: "subprocess.Popen[str]", node: str, lines: "SimpleQueue[tuple[str, str, str] | None]") -> None:
    for line in process.stdout or ():
        lines.put(_split(node, line))
    lines.put(None)
