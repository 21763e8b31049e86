"""Control groups of one cluster, in every hierarchy that this machine has (version 1) or in the one (version 2).

They are the one thing of a cluster that no namespace holds: removed at the end, and what a killed run left behind is
removed by the next one, which tells it by the lock that a living run holds on its own.
"""

import fcntl
import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path

from tests.topology import wait_until

ROOT = Path("/sys/fs/cgroup")
PREFIX = "sniffer-test-"


def unified() -> bool:
    """Whether this machine has version 2 and nothing else."""
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The top of every hierarchy; the first is the one that processes are looked for in."""
    if unified():
        return [ROOT]
    found = [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink() and _is_group(path)]
    assert found, f"no control groups are mounted below {ROOT}"
    return sorted(found, key=lambda path: ("pids" not in path.name.split(","), path.name))


def _is_group(path: Path) -> bool:
    return (path / "cgroup.procs").exists()


class Groups:
    """The control groups of one cluster: a directory each, nodes below it."""

    def __init__(self) -> None:
        for top in hierarchies()[:1]:
            for other in top.glob(f"{PREFIX}*"):
                _remove_abandoned(other.name)
        self.name = f"{PREFIX}{secrets.token_hex(4)}"
        self._make(self.name)
        self._lock = _lock(hierarchies()[0] / self.name)
        assert self._lock is not None, f"{self.name} is another's"

    def add(self, name: str) -> str:
        """Makes the groups of one node. The answer is its `cgroupRoot`."""
        path = f"{self.name}/{name}"
        self._make(path)
        self._make(f"{path}/system", leaf=True)
        return f"/{path}"

    def procs(self, name: str) -> Path:
        """The file into which a program of this node writes its pid."""
        return hierarchies()[0] / self.name / name / "system" / "cgroup.procs"

    def pids(self, name: str, below: str = "**") -> list[int]:
        """Processes of one node, daemons and pods; `below`: in the groups that match this pattern only."""
        found: list[int] = []
        for path in (hierarchies()[0] / self.name / name).glob(f"{below}/cgroup.procs"):
            with suppress(OSError):  # gone meanwhile
                found += [int(word) for word in path.read_text().split() if word != "0"]
        return found

    def kill(self, name: str) -> None:
        """Ends every process of a node, as a power cut does."""

        def none_left() -> bool:
            pids = self.pids(name)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        wait_until(none_left, timeout=20, every=0.02, what=f"processes of {name} gone")

    def remove(self) -> None:
        """Removes all of them; AssertionError when a process is left in one."""
        wait_until(lambda: _remove(self.name), timeout=10, every=0.05, what=f"control groups {self.name} gone")
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self, path: str, leaf: bool = False) -> None:
        if unified():
            _hand_down(ROOT)  # the kubelet wants every controller in its own group
        for top in hierarchies():
            group = top / path
            group.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                # Version 1 starts them empty, and no process can enter then.
                if not unified() and (group / name).exists() and not (group / name).read_text().strip():
                    (group / name).write_text((group.parent / name).read_text())
            if unified() and not leaf:
                _hand_down(group)


def _hand_down(group: Path) -> None:
    """Lets the groups below have every controller that this one has (version 2)."""
    for controller in (group / "cgroup.controllers").read_text().split():
        with suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _lock(path: Path) -> int | None:
    """Locks a directory for as long as this process lives; None where another has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(name: str) -> None:
    with suppress(FileNotFoundError):
        lock = _lock(hierarchies()[0] / name)
        if lock is not None:
            _remove(name)
            os.close(lock)


def _remove(name: str) -> bool:
    """Whether nothing is left of it in any hierarchy."""
    for top in hierarchies():
        if not (top / name).exists():
            continue
        for path, _, _ in os.walk(top / name, topdown=False):
            with suppress(OSError):
                Path(path).rmdir()
    return not any((top / name).exists() for top in hierarchies())
