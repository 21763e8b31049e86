"""A long-running program of the cluster: started, stopped, killed, paused; its words in a file."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.topology import wait_until

STOP_S = 15.0


class Daemon:
    """One program. `log` is added to by every start; `cgroup`: the `cgroup.procs` file that it is to be in."""

    def __init__(
        self,
        name: str,
        line: Sequence[object],
        log: Path,
        cgroup: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, log
        enter = ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(cgroup)] if cgroup else []
        self.line = [*enter, *map(str, line)]
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the program itself, as the tests see it."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it and waits for nothing."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def until(self, condition: Callable[[], object], timeout: float = 60.0, what: str = "") -> None:
        """Waits for a condition; AssertionError with the log's end when the program ends or takes too long."""

        def asked() -> object:
            if not self.running:
                raise AssertionError(f"{self.name} ended")
            return condition()

        try:
            wait_until(asked, timeout, every=0.05, what=what or f"{self.name} ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to one that does not go; no error where nothing runs."""
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()

    def restart(self) -> None:
        """Stops and starts it."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: its connections stay and nobody answers on them."""
        self.signal(signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; no error where nothing runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        words = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"--- {self.log}", *words[-lines:]])


def stop_all(daemons: Sequence[Daemon]) -> None:
    """Stops several at once: all get their SIGTERM before the first is waited for."""
    for daemon in daemons:
        daemon.signal(signal.SIGCONT)
        daemon.signal(signal.SIGTERM)
    end = time.monotonic() + STOP_S
    for daemon in daemons:
        if daemon.process is not None:
            try:
                daemon.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                daemon.kill()
