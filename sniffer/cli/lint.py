"""`sniffer lint FILE...`: every error of the resources, one line each."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sniffer.cli.progress import progress
from sniffer.manifests import SUFFIXES
from sniffer.model.manifest import FILE_LENGTH, Problem, Source, duplicates, read
from sniffer.model.problem import printable, quoted
from sniffer.model.resources import MirrorTarget
from sniffer.plan.checks import filter_problems

_STANDARD_INPUT = Path("-")


def lint(files: Sequence[Path], as_json: bool) -> int:
    """Prints the problems of files, of the *.yaml and *.yml in directories, of standard input (`-`); returns the exit
    status.

    0: nothing found; 1: something found; 2: a file cannot be read, or there is none. What can be read is checked even
    then. With `as_json` a list of objects {file, line, field, given, allowed, message}.
    """
    sources: list[Source] = []
    unreadable = [] if files else ["no file given"]
    seen: set[Path] = set()
    for path in files:
        try:
            for file in _files(path):
                if file.resolve() not in seen:
                    sources.append(_read(file))
                    seen.add(file.resolve())
        except OSError as error:
            unreadable.append(f"{printable(str(error.filename or path), 1000)}: {error.strerror or error}")
    with progress("compiling filters"):
        problems = check(sources)
    if as_json:
        print(json.dumps([_as_object(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            print(problem)
        if not problems and not unreadable:
            count = sum(len(source.resources) for source in sources)
            print(f"{count} resource{'' if count == 1 else 's'}, no problem")
    for line in unreadable:
        print(f"sniffer: {line}", file=sys.stderr)
    return 2 if unreadable else 1 if problems else 0


def check(sources: Sequence[Source]) -> list[Problem]:
    """Every problem of some files together, file by file, from top to bottom."""
    problems = [problem for source in sources for problem in source.problems]
    problems += duplicates(sources)
    for source in sources:
        for resource in source.resources:
            problems += filter_problems(resource)
    problems += _unknown_targets(sources)
    order = {source.file: number for number, source in reversed(list(enumerate(sources)))}
    return sorted(problems, key=lambda problem: (order[problem.file], problem.line))


def _files(path: Path) -> list[Path]:
    if path == _STANDARD_INPUT or not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith("."))
    if not found:
        raise FileNotFoundError(None, "no *.yaml or *.yml in this directory", str(path))
    return found


def _read(path: Path) -> Source:
    if path == _STANDARD_INPUT:
        return read(sys.stdin.buffer.read(FILE_LENGTH + 1), "<stdin>")
    with path.open("rb") as file:
        return read(file.read(FILE_LENGTH + 1), printable(str(path), 1000))


def _unknown_targets(sources: Sequence[Source]) -> Iterator[Problem]:
    """For targetRefs that name no target: only where targets are among the files, as a mirror may be linted alone.

    A document too broken to say who it is could be the target that is missed: then nothing is said.
    """
    identities = [resource.identity for source in sources for resource in source.resources]
    for identity in (identity for source in sources for identity in source.broken):
        if identity is None:
            return
        identities.append(identity)
    targets = {identity.name for identity in identities if identity.kind == MirrorTarget.__name__}
    if not targets:
        return
    for resource in (resource for source in sources for resource in source.resources):
        if not isinstance(resource.value, MirrorTarget):
            for number, ref in enumerate(resource.value.spec.target_refs):
                if ref.name not in targets:
                    allowed = f"a MirrorTarget of these files: {printable(', '.join(sorted(targets)), 200)}"
                    yield resource.problem(f"spec.targetRefs[{number}].name", quoted(ref.name), allowed)


def _as_object(problem: Problem) -> dict[str, str | int]:
    return {
        "file": problem.file,
        "line": problem.line,
        "field": problem.field,
        "given": problem.given,
        "allowed": problem.allowed,
        "message": str(problem),
    }
