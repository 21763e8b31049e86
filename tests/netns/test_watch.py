"""`sniffer status --watch` on a terminal, as a person has it: a pseudo-terminal that is resized and sent Ctrl-C."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest

from tests.agent import SNIFFER, Agent, mirror, target
from tests.packets import CORPUS
from tests.topology import node
from tests.wire import send

ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """A program on a terminal of its own; `text` is what it wrote so far, escapes and all."""

    def __init__(self, width: int, height: int) -> None:
        self.master, slave = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self.master)
        environment = {
            name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}
        }
        self.process = subprocess.Popen(
            ["setsid", "--ctty", SNIFFER, "status", "--watch"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(slave)
        self.text = ""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("=HHHH", height, width, 0, 0))

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Reads until the pattern comes; what came in this call."""
        came, ends = "", time.monotonic() + seconds
        while time.monotonic() < ends:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    came += os.read(self.master, 1 << 16).decode(errors="replace")
                except OSError:  # nobody has the other end any more
                    break
                if pattern and re.search(pattern, came):
                    break
        self.text += came
        assert not pattern or re.search(pattern, came), came
        return came


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with node(), Agent(tmp_path_factory.mktemp("agent")) as running:
        running.write(target(), mirror(direction="Ingress"))
        running.programmed()
        yield running
        running.stop()
        running.cleanup()


@pytest.mark.parametrize(("by", "expected"), [(signal.SIGINT, 0), (signal.SIGTERM, 0)])
def test_a_terminal_is_left_as_it_was(agent: Agent, by: signal.Signals, expected: int) -> None:
    terminal = Terminal(120, 30)
    terminal.until("matched .*/s")
    assert terminal.text.index(ENTER) < terminal.text.index("in force")
    assert "\x1b[32m" in terminal.text  # green
    if by == signal.SIGINT:
        os.write(terminal.master, b"\x03")
    else:
        terminal.process.send_signal(by)
    terminal.until("")
    assert terminal.process.wait(5) == expected
    assert terminal.text.endswith((LEAVE, SHOW_CURSOR))
    assert terminal.text.count(ENTER) == terminal.text.count(LEAVE) == 1
    assert terminal.text.rindex(SHOW_CURSOR) > terminal.text.rindex("in force")
    assert "Traceback" not in terminal.text
    assert termios.tcgetattr(terminal.master) == terminal.before
    os.close(terminal.master)


WIDE, NARROW = (120, 30), (48, 10)
DRAWN = {WIDE: "1 of 1 mirrors", NARROW: "1 of…"}


def redrawn_s(terminal: Terminal, before: tuple[int, int], after: tuple[int, int]) -> float:
    """Seconds from a new size, right behind a look, until it is drawn."""
    terminal.until(DRAWN[before])
    terminal.resize(*after)
    began = time.monotonic()
    terminal.until(DRAWN[after])
    return time.monotonic() - began


def test_rates_and_another_size(agent: Agent) -> None:
    terminal = Terminal(120, 30)
    try:
        terminal.until("matched 0/s")
        send([case.frame for case in CORPUS[:20]])
        terminal.until(r"matched [1-9][0-9.]*/s")
        # At once, not with the next look, which is a second after the one before; and nothing is wider than the window.
        assert any(redrawn_s(terminal, *sizes) < 0.4 for sizes in [(WIDE, NARROW), (NARROW, WIDE)] * 5)
        terminal.resize(*NARROW)
        narrow = terminal.until(DRAWN[NARROW])
        assert "reasons" not in narrow.rpartition("in force")[2]
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_where_it_is_no_terminal(agent: Agent) -> None:
    with subprocess.Popen([SNIFFER, "status", "--watch"], stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        read = [next(line for line in watching.stdout if "in force" in line) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        rest = watching.stdout.read()
    assert watching.returncode == 0
    assert "\x1b" not in "".join([*read, rest])
    assert all("1 of 1 mirrors" in line for line in read)


def test_nothing_left_to_watch(agent: Agent) -> None:
    """Cleaned up meanwhile: said in words, on the terminal that was there before."""
    terminal = Terminal(120, 30)
    terminal.until("in force")
    agent.stop()
    agent.cleanup()
    terminal.until("no agent has run here")
    terminal.until("")
    assert terminal.process.wait(5) == 2
    assert terminal.text.index(LEAVE) < terminal.text.index("no agent has run here")
    os.close(terminal.master)
