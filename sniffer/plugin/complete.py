"""kubectl_complete-sniffer: what may come next on the command line, as kubectl asks its plugins."""

import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise

from sniffer.errors import SnifferError
from sniffer.plugin.kubectl import Kubectl
from sniffer.plugin.status import KINDS

_NO_FILES, _FILES = 4, 0  # cobra's ShellCompDirective
_TIMEOUT = "--request-timeout=3s"
_MIRROR_COMMANDS = ("explain", "logs")


def complete(words: Sequence[str], options: dict[str, Sequence[str]]) -> int:
    """Prints the candidates for the last of `words`, and cobra's directive. `options`: of each command."""
    *before, current = words or ("",)
    directive = _FILES if before and before[-1] in ("-w", "--write", "--kubeconfig") else _NO_FILES
    found = _candidates(before, current, options)
    print("".join(f"{one}\n" for one in found if one.startswith(current)) + f":{directive}")
    return 0


def main(options: dict[str, Sequence[str]]) -> int:
    """The script's."""
    return complete(sys.argv[1:], options)


def _candidates(before: Sequence[str], current: str, options: dict[str, Sequence[str]]) -> Iterable[str]:
    command = next((word for word in before if word in options), None)
    if command is None:
        return sorted(options)
    if current.startswith("-"):
        return sorted(options[command])
    try:
        return _names(command, before)
    except SnifferError:
        return ()


def _names(command: str, before: Sequence[str]) -> Iterable[str]:
    where: Sequence[str] = ()
    for first, second in pairwise(before):
        if first in ("-n", "--namespace"):
            where = ("-n", second)
    kubectl = Kubectl()
    if before and before[-1] in ("-n", "--namespace"):
        return _plain(kubectl, "namespaces")
    if command == "capture":
        return _plain(kubectl, "pods", *where)
    if command in _MIRROR_COMMANDS:
        mine = _plain(kubectl, KINDS["TrafficMirror"], *where)
        return [*mine, *(f"clustertrafficmirror/{name}" for name in _plain(kubectl, KINDS["ClusterTrafficMirror"]))]
    return ()


def _plain(kubectl: Kubectl, *words: str) -> list[str]:
    told = kubectl.run("get", *words, _TIMEOUT, "-o", "name")
    return [line.rpartition("/")[2] for line in told.splitlines()]
