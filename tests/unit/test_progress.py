"""What people see who wait: nothing for two seconds, then what goes on; only on a terminal."""

import io
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from sniffer.cli import progress
from sniffer.cli.progress import progress as waiting
from sniffer.plugin import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_plugins_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain Python; what is said meanwhile stands on a line of its own."""
    monkeypatch.setattr(terminal, "PATIENCE_S", 0.1)
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.progress("looking") as tell:
            tell("looking harder")
            time.sleep(0.3)
            terminal.say("this")
        words = "\r\x1b[Klooking harder, 0 s\r\x1b[Ksniffer: this\n\r\x1b[K"
        assert stream.getvalue() == (words if shown else "sniffer: this\n")
        with terminal.progress("quick"):
            pass
        assert "quick" not in stream.getvalue()


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


def on_terminals(expected: Mapping[tuple[str, ...], str], seconds: float, environment: Mapping[str, str]) -> set[str]:
    """Which of the expected words came, each from its command line, all at the same time, on a standard error that is
    a terminal.
    """
    wanted, running = {}, []
    for line, words in expected.items():
        master, slave = pty.openpty()
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave, env=environment
        )
        os.close(slave)
        running.append((process, master))
        wanted[master] = words
    texts, found, ends_s = dict.fromkeys(wanted, ""), set(), time.monotonic() + seconds
    while texts and time.monotonic() < ends_s:
        for master in select.select(texts, [], [], 0.1)[0]:
            try:
                texts[master] += os.read(master, 1 << 16).decode()
            except OSError:  # it has ended
                del texts[master]
                continue
            if wanted[master] in texts[master]:
                found.add(wanted[master])
                del texts[master]
    for process, master in running:
        process.kill()
        process.wait()
        os.close(master)
    return found


def test_the_plugin_shows_what_it_waits_for(tmp_path: Path) -> None:
    """A call of the API server may take a minute, and every command begins with one."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\nexec sleep 60\n")
    kubectl.chmod(0o755)
    names = ("status", "doctor", "explain web", "logs", "capture web")
    # Each with a mark of its own: the words are the same.
    script = "import sys; from sniffer.plugin import {0}, main; {0}.ASKING += sys.argv.pop(); main.main()"
    expected = {
        (sys.executable, "-c", script.format(words.split()[0]), *words.split(), f" for {words}"): f" for {words}, 2 s"
        for words in names
    }
    assert on_terminals(expected, 30, {**os.environ, "KUBECTL": str(kubectl)}) == set(expected.values())


def test_commands_show_what_they_wait_for(tmp_path: Path) -> None:
    """Of an API server that takes connections and says nothing."""
    program = str(Path(sys.executable).with_name("sniffer"))
    kubeconfig = tmp_path / "kubeconfig"
    commands = {
        "crds --apply": "bringing ",
        "cleanup --cluster --json": "telling the agents",
        "capture web": "asking the API server",
    }
    expected = {(program, *words.split(), f"--kubeconfig={kubeconfig}"): shown for words, shown in commands.items()}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        one = {"server": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        named = {
            "clusters": [{"name": "a", "cluster": one}],
            "users": [{"name": "a", "user": {}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        }
        kubeconfig.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "a", **named}))
        assert on_terminals(expected, 60, {**os.environ, "TERM": "xterm"}) == set(expected.values())
