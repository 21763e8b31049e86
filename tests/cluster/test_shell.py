"""`make cluster`: the shell, and everything that it tells people to try."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.shell import WORDS

ROOT = Path(__file__).parents[2]


def test_what_the_shell_tells_one_to_try() -> None:
    """In namespaces of its own, as `make cluster` starts it; what a person ends or edits is ended and left as it is."""
    told = [line.strip().split("  ")[0] for line in WORDS.splitlines() if line.startswith("  ")]
    assert len(told) == 9
    lines = ["export EDITOR=true", "export -f on analyzer"]
    until_ended = {"analyzer": "timeout 20 bash -c analyzer | grep -q -m 1 TCP"}
    lines += [f"{until_ended.get(words, words)} || echo FAILED {words!r}" for words in told]
    done = subprocess.run(
        ["scripts/isolated", sys.executable, "-m", "tests.cluster.shell"],
        input="\n".join([*lines, "exit 0", ""]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert not failed, done.stdout + done.stderr
    assert "trafficmirror.sniffer.dev/web condition met" in done.stdout
    assert "uninstalled" in done.stdout
