"""`sniffer recv` as a process, and what it left."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.agent import SNIFFER
from tests.topology import command


class Recv:
    """Receives from `with` to its end, or until it ends by itself (`wait`); then `row` is what it said.

    `usage`: CPU seconds that it took after its start.
    """

    def __init__(self, *words: object, netns: str | None = "ana", **options: Any) -> None:
        line = command(netns, SNIFFER, "recv", "--json", *words)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(line, **(streams | options))
        self.row: Mapping[str, Any] = {}
        assert self._process.stderr
        said = self._process.stderr.readline().decode()
        assert said.startswith("sniffer: receiving"), said + self._process.stderr.read().decode()
        self._before = self._cpu()
        self.usage = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> Mapping[str, Any]:
        """As Ctrl-C does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self, timeout: float = 20) -> Mapping[str, Any]:
        """Until it ends."""
        if not self.row:
            self.usage = self._cpu() - self._before
            stdout, stderr = self._process.communicate(timeout=timeout)
            words = (stdout or stderr).decode(errors="replace")
            assert self._process.returncode in {0, 1}, stderr
            self.row = json.loads(words.splitlines()[-1])
            assert self._process.returncode == (self.row["dropped"]["ring"] > 0 or self.lost() > 0), self.row
        return self.row

    def is_idle(self) -> bool:
        """Whether it waits for packets."""
        before = self._cpu()
        time.sleep(0.1)
        return self._cpu() - before < 0.02

    def lost(self) -> int:
        return sum(tunnel["sequence"]["lost"] for tunnel in self.row["tunnels"] if tunnel["sequence"])

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_identity(row: Mapping[str, Any]) -> None:
    """Every packet that arrived is accounted for."""
    fragments = row["fragments"]
    whole = row["packets"] - fragments["received"]
    assert whole + fragments["reassembled"] == row["frames"] + sum(row["refused"].values()), row
    assert row["frames"] == sum(tunnel["frames"] for tunnel in row["tunnels"]), row
