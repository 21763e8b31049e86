"""A directory of manifests as a source: what its files say now, and, of what cannot be read, what it said last."""

import errno
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sniffer.errors import InputError
from sniffer.model.identity import Identity
from sniffer.model.manifest import FILE_LENGTH, Resource, Source, duplicates, read
from sniffer.model.problem import Problem
from sniffer.model.resources import MirrorTarget
from sniffer.plan.checks import filter_problems
from sniffer.plan.compile import Sources

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".yaml", ".yml"})
Signature = tuple[int, int, int]
UNREADABLE: Signature = (0, 0, 0)


@dataclass(slots=True)
class _File:
    """One manifest: its last reading and the good resources that still hold."""

    signature: Signature | None
    source: Source
    held: dict[Identity, Resource] = field(default_factory=dict)
    stale: dict[Identity, str] = field(default_factory=dict)
    refused: dict[Identity, str] = field(default_factory=dict)
    complete: bool = True


class Manifests:
    """The files *.yaml and *.yml of one directory. `poll`, then `sources`."""

    poll_s = 0.1
    """How often the directory is looked at."""

    contact_s: float | None = None
    """It is no cluster."""

    def __init__(self, directory: Path) -> None:
        """InputError: no such directory."""
        if not directory.is_dir():
            raise InputError(f"--manifests: given {directory}, allowed a directory of *.yaml and *.yml files")
        self._directory = directory
        self._files: dict[Path, _File] = {}
        self._said: frozenset[Problem] = frozenset()
        self._known: set[Identity] = set()
        self._last: dict[Path, Signature] | None = None
        self._reachable = True

    def poll(self) -> bool:
        """Reads what has changed and then stood still from one call to the next; whether anything has.

        A file that is being written is empty first, and some editors move it away to write another: neither is an
        order to stop. The first call reads everything.
        """
        found = self._signatures()
        if found is None:
            changed, self._reachable = self._reachable, False
            return changed
        changed, self._reachable = not self._reachable, True
        last, self._last = found if self._last is None else self._last, found
        for path in self._files.keys() - found.keys() - last.keys():
            del self._files[path]
            changed = True
        for path, signature in found.items():
            known = self._files.get(path)
            if last.get(path) == signature and (known is None or known.signature != signature):
                self._files[path] = _reread(path, signature, known)
                self._known |= self._files[path].held.keys()
                changed = True
        if changed:
            self._say()
        return changed

    def sources(self) -> Sources:
        """What is in force. Of resources that stand twice, the first one by file name."""
        first: dict[Identity, Resource] = {}
        stale: dict[Identity, str] = {}
        refused: dict[Identity, str] = {}
        for _, one in sorted(self._files.items()):
            for identity, resource in one.held.items():
                first.setdefault(identity, resource)
            stale |= one.stale
            refused |= one.refused
        if not self._reachable:
            message = f"{self._directory} cannot be read"
            stale |= dict.fromkeys(first, message)
        values = [resource.value for resource in first.values()]
        return Sources(
            targets=tuple(value for value in values if isinstance(value, MirrorTarget)),
            mirrors=tuple(value for value in values if not isinstance(value, MirrorTarget)),
            stale=stale,
            refused={identity: message for identity, message in refused.items() if identity not in first},
            complete=all(one.complete for one in self._files.values()),
            known=frozenset(self._known),
        )

    def fresh(self) -> bool:
        """A directory that cannot be read keeps its word."""
        return True

    def faults(self) -> Mapping[str, str]:
        """Verdicts tell of them."""
        return {}

    def report(self, status: Mapping[str, Any]) -> None:
        """Nobody to report to: `sniffer status` reads the pins."""

    def order(self) -> str | None:
        """A directory orders no cleaning: `sniffer cleanup` is there for people."""
        return None

    def leaves(self) -> bool:
        """An agent that is stopped may be started again."""
        return False

    def flush(self) -> None:
        """Nobody to report to."""

    def close(self) -> None:
        """Nothing was opened."""

    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong with the files now."""
        sources = [one.source for _, one in sorted(self._files.items())]
        return tuple(problem for source in sources for problem in source.problems) + duplicates(sources)

    def _signatures(self) -> dict[Path, Signature] | None:
        """None: the directory cannot be read."""
        try:
            paths = [p for p in self._directory.iterdir() if p.suffix in SUFFIXES and not p.name.startswith(".")]
        except OSError:
            return None
        found = {path: _signature(path) for path in paths}
        return {path: signature for path, signature in found.items() if signature}

    def _say(self) -> None:
        problems = frozenset(self.problems())
        for problem in sorted(problems - self._said):
            log.error("%s", problem)
        self._said = problems


def _signature(path: Path) -> Signature | None:
    """None: no such file, or a link that leads nowhere."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return UNREADABLE
    return status.st_mtime_ns, status.st_size, status.st_ino


def _reread(path: Path, signature: Signature, known: _File | None) -> _File:
    try:
        source = read(_octets(path), str(path))
    except OSError as error:
        source = Source(
            str(path), (), (Problem(str(path), 1, "document", str(error.strerror), "a readable file"),), (None,)
        )
    good, bad = _checked(source)
    source = replace(source, problems=(*source.problems, *(problem for found in bad.values() for problem in found)))
    result = _File(signature, source, good)
    former = known.held if known else {}
    faults = {identity: str(found[0]) for identity, found in bad.items()}
    faults |= {identity: str(source.problems[0]) for identity in source.broken if identity}
    if source.broken:
        # A name may be cut off like everything else: whatever the file said before and does not say now holds.
        faults |= {identity: str(source.problems[0]) for identity in former if identity not in good}
    if faults or source.broken:
        result.complete = known is not None and known.complete
    for identity, message in faults.items():
        if identity in former:
            good.setdefault(identity, former[identity])
            result.stale[identity] = message
        else:
            result.refused[identity] = message
    return result


def _octets(path: Path) -> bytes:
    """What a file holds, one byte more than it may hold at most. OSError: it cannot be read, or is something else.

    Whoever opens a pipe waits for its other end, and some devices do things when they are opened.
    """
    _demand_file(path.stat())
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        _demand_file(os.fstat(file.fileno()))
        return file.read(FILE_LENGTH + 1)


def _demand_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device")


def _checked(source: Source) -> tuple[dict[Identity, Resource], dict[Identity, list[Problem]]]:
    """The resources that can be compiled, and the problems of those that cannot."""
    good: dict[Identity, Resource] = {}
    bad: dict[Identity, list[Problem]] = {}
    for resource in source.resources:
        found = list(filter_problems(resource))
        if found:
            bad[resource.identity] = found
        else:
            good.setdefault(resource.identity, resource)
    return good, bad
