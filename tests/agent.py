"""The real agent, as a process, and what people write for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from sniffer.errors import SnifferError
from sniffer.kernel.look import look_at
from sniffer.stats import rows
from tests.topology import start, wait_until

SNIFFER = Path(sys.executable).with_name("sniffer")
VERSION = "sniffer.dev/v1alpha1"
COMMAND_S = 60 if "SNIFFER_KERNEL" not in os.environ else 300
"""A command's patience; in an emulated machine starting Python alone takes half a minute."""
Document = dict[str, Any]
Status = dict[str, Any]


def target(name: str = "ana", address: str | Sequence[str] = "10.9.0.2", **spec: Any) -> Document:
    """A MirrorTarget; `encapsulation` is VXLAN with VNI 4242 unless the spec says otherwise."""
    addresses = [address] if isinstance(address, str) else address
    encapsulation = {"vxlan": {"vni": 4242}}
    spec = {"encapsulation": encapsulation, "endpoints": [{"address": item} for item in addresses]} | spec
    return {"apiVersion": VERSION, "kind": "MirrorTarget", "metadata": {"name": name}, "spec": spec}


def mirror(
    name: str = "all", interfaces: Sequence[str] = ("pod0",), targets: Sequence[str] = ("ana",), **spec: Any
) -> Document:
    """A ClusterTrafficMirror of everything, both directions, unless the spec says otherwise."""
    spec = {"interfaces": list(interfaces), "targetRefs": [{"name": item} for item in targets]} | spec
    return {"apiVersion": VERSION, "kind": "ClusterTrafficMirror", "metadata": {"name": name}, "spec": spec}


def sniffer(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command-line program to its end. `check`: any exit status but 0 and 1 (it found something) fails."""
    line = [str(SNIFFER), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=COMMAND_S)
    if check and done.returncode not in {0, 1}:
        raise AssertionError(f"{' '.join(line)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Agent:
    """`sniffer agent` over a directory of manifests, started by `with` and stopped at its end; see `log` for its words.

    `directory` is ours to fill: `manifests/` and the log live below it. Pins survive, as they do in life.
    """

    def __init__(
        self,
        directory: Path,
        pin_root: Path = Path("/sys/fs/bpf/sniffer"),
        *arguments: object,
        netns: str | None = None,
    ) -> None:
        self.directory, self.pin_root, self.arguments, self.netns = directory, pin_root, arguments, netns
        self.manifests, self.log = directory / "manifests", directory / "agent.log"
        self.manifests.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        if kind is not None:
            print(self.log.read_text(), file=sys.stderr)

    def write(self, *documents: Mapping[str, Any], file: str = "mirrors.yaml") -> None:
        """Replaces one manifest file in one step; the agent sees the former or the new one, never a half."""
        self.write_text(yaml.safe_dump_all(documents, sort_keys=False), file)

    def write_text(self, text: str, file: str = "mirrors.yaml") -> None:
        """Replaces one manifest file in one step by any text."""
        draft = self.directory / f".{file}"
        draft.write_text(text)
        draft.replace(self.manifests / file)

    def remove(self, file: str = "mirrors.yaml") -> None:
        """Deletes one manifest file."""
        (self.manifests / file).unlink()

    def spawn(self) -> None:
        """Starts the agent, and waits for nothing."""
        words = ("agent", "--manifests", self.manifests, "--pin-root", self.pin_root, "--node", "n1", *self.arguments)
        with self.log.open("a") as log:
            self.process = start(SNIFFER, *words, netns=self.netns, stdout=log, stderr=log)

    def start(self, timeout: float = 60.0) -> None:
        """Starts the agent and waits until its status has every mirror of the manifests, none of them Pending."""
        self.spawn()
        wanted = self._named()
        self.wait(lambda status: self.running(status) and _settled(status) >= wanted, timeout)

    def running(self, status: Status) -> bool:
        """Whether a status tells of this very process."""
        return self.process is not None and status["agent"] == status["agent"] | {
            "state": "running",
            "pid": self.process.pid,
        }

    def status(self) -> Status:
        """What `sniffer status --json` prints now, without the price of a process: tests ask often."""
        status: Status = json.loads(json.dumps(rows.status(look_at(self.pin_root))))
        return status

    def mirror(self, name: str = "all") -> Status:
        """The row of one mirror in the status."""
        (row,) = (row for row in self.status()["mirrors"] if row["name"] == name)
        return row

    def wait(self, condition: Callable[[Status], Any], timeout: float = 5.0) -> Status:
        """Waits until a status satisfies the condition, and returns it; ends at once when the agent does."""

        def asked() -> Status | None:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the agent ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                status = self.status()
            except SnifferError:  # no pins yet
                return None
            return status if condition(status) else None

        try:
            status = wait_until(asked, timeout, every=0.05, what="status")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None
        assert status is not None
        return status

    def programmed(self, *names: str, timeout: float = 5.0) -> Status:
        """Waits until these mirrors, by default all of the manifests, are Programmed.

        After an edit of a mirror that was Programmed before it says nothing: wait for what the edit should change.
        """
        wanted = set(names) or self._named()
        return self.wait(lambda status: _settled(status, {"Programmed"}) >= wanted, timeout)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        self._end(signal.SIGKILL)

    def stop(self, timeout: float = 10.0) -> int | None:
        """SIGTERM; returns the exit status, or None when no agent was running."""
        return self._end(signal.SIGTERM, timeout)

    def cleanup(self) -> None:
        """`sniffer cleanup`: removes links, relay and pins, which outlive the agent; counters start anew afterwards."""
        done = sniffer("cleanup", "--pin-root", self.pin_root)
        assert done.returncode == 0, done.stderr

    def _end(self, how: signal.Signals, timeout: float = 10.0) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        if process.poll() is None:
            os.kill(process.pid, how)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _named(self) -> set[str]:
        """The names of all mirrors that the manifests speak of; a file that cannot be read speaks of none."""
        names: set[str] = set()
        for path in self.manifests.glob("*.yaml"):
            with suppress(yaml.YAMLError, TypeError, KeyError):
                documents = [item for item in yaml.safe_load_all(path.read_text()) if item]
                names |= {item["metadata"]["name"] for item in documents if item["kind"].endswith("TrafficMirror")}
        return names


def _settled(status: Status, states: set[str] | None = None) -> set[str]:
    """Names of the mirrors in one of these states; None: in any but Pending."""
    rows = status["mirrors"]
    return {row["name"] for row in rows if (row["state"] in states if states else row["state"] != "Pending")}
