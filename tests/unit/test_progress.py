"""What people see who wait: nothing for two seconds, then what goes on; only on a terminal."""

import io
import sys
import time

import pytest

from sniffer.cli import progress
from sniffer.cli.progress import progress as waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "seconds", "shown"), [(Terminal(), 0.3, True), (Terminal(), 0.0, False), (io.StringIO(), 0.2, False)]
)
def test_who_waits_is_told(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, seconds: float, shown: bool) -> None:
    monkeypatch.setattr(progress, "PATIENCE_S", 0.1)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with waiting("looking") as going_on:
        time.sleep(seconds)
        going_on("looking harder")
        time.sleep(seconds)
    text = stream.getvalue()
    assert ("looking" in text) == ("harder" in text) == shown
    if shown:
        assert text.endswith("\x1b[2K")  # its line is empty again
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_it_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    monkeypatch.setattr(sys, "stderr", stream)

    def fail() -> None:
        with waiting("looking"):
            time.sleep(0.2)
            raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        fail()
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1
