"""The pin directory: what lies where on the bpffs, who holds it, and the maps that are pinned there.

<root>/                         locked by the agent (flock), readers share
<root>/abi-<N>/<map>            the maps
<root>/abi-<N>/links/<ifindex>-<direction>
<root>/abi-<N>/programs/<digest>/<program>
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from sniffer.abi.limits import ABI, Direction, NameKind
from sniffer.abi.records import Hook, NameKey, unpack_name
from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf
from sniffer.plan.names import node_of

DEFAULT_ROOT = Path("/sys/fs/bpf/sniffer")
ARRAYS = ("hooks", "lists", "filters", "mirrors", "leases", "tunnels", "egress", "paths", "budgets", "labels", "relay")
TABLES = ("counters", "names", "outers", "buckets", "sequences")
RING = "relay_ring"
"""The one program that a kernel may lack what it takes for (docs/adr/0002)."""
PROGRAMS = (RING, "tap_ingress", "tap_egress", "encap", "encap_frame")
"""In the order in which they are pinned: where the others are, the ring was pinned too, or this kernel has none."""
DIGEST_LENGTH = 16
LOCK_ATTEMPTS, LOCK_PAUSE_S = 10, 0.02


class Pins:
    """Paths below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.maps = root / f"abi-{ABI}"
        self.links = self.maps / "links"
        self.programs = self.maps / "programs"

    def create(self) -> None:
        """Makes the directories. MachineError: not on a bpffs, or not allowed."""
        existing = next(p for p in (self.root, *self.root.parents) if p.exists())
        if not bpf.is_bpffs(existing):
            fix = "mount one there (mount -t bpf bpf /sys/fs/bpf) or name a --pin-root that lies on one"
            raise MachineError(f"{self.root} is not on a bpffs", fix)
        try:
            self.links.mkdir(parents=True, exist_ok=True)
            self.programs.mkdir(exist_ok=True)
        except OSError as error:
            raise MachineError(f"{self.root} cannot be made: {error.strerror}", "run as root") from None

    def forget(self) -> None:
        """Removes the directories that `create` made, where nothing came into them."""
        with contextlib.suppress(OSError):
            for path in (self.links, self.programs, self.maps, self.root):
                path.rmdir()

    def exists(self) -> bool:
        """Whether an agent of this ABI was here."""
        return all((self.maps / name).exists() for name in (*ARRAYS, *TABLES))

    def former(self) -> list[Path]:
        """The directories of agents of other ABIs, whose maps no program of ours can read."""
        return sorted(home for home in self.root.glob("abi-*") if home != self.maps)

    def link(self, hook: Hook) -> Path:
        """Where the TCX link of a hook is pinned."""
        return self.links / f"{hook.ifindex}-{hook.direction.name.lower()}"

    def linked(self) -> Iterator[Hook]:
        """The hooks that have a link pinned."""
        for path in sorted(self.links.iterdir()) if self.links.is_dir() else ():
            ifindex, _, direction = path.name.partition("-")
            if ifindex.isdigit() and direction.upper() in Direction.__members__:
                yield Hook(int(ifindex), Direction[direction.upper()])

    def remove(self) -> None:
        """Unlinks what agents of any ABI made below the root, and the root itself where that was all it had.

        Never more: the root may be the bpffs itself, full of the maps of others. MachineError: not on a bpffs.
        """
        if not bpf.is_bpffs(self.root):
            raise MachineError(f"{self.root} is not on a bpffs", "name the --pin-root that the agent was given")
        for home in self.root.glob("abi-*"):
            shutil.rmtree(home)
        with contextlib.suppress(OSError):  # it is not empty, or a mount point
            self.root.rmdir()


class Lock:
    """The right to change what is pinned below a root. The kernel gives it back when its holder dies."""

    def __init__(self, pins: Pins) -> None:
        """MachineError: another process has it."""
        self._fd = os.open(pins.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self._taken(pins):
                pid = holder_words(pins).get("pid", "unknown")
                raise MachineError(
                    f"another sniffer agent (pid {pid}) holds {pins.root}", "stop it first, or name another --pin-root"
                )
        except BaseException:
            os.close(self._fd)
            raise

    def _taken(self, pins: Pins) -> bool:
        """Tries for a moment: `is_held` of a reader has it for a few microseconds."""
        for attempt in range(LOCK_ATTEMPTS):
            if attempt:
                time.sleep(LOCK_PAUSE_S)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise KernelError(f"flock of {pins.root}", error.errno or 0) from None
            else:
                return True
        return False

    def holds(self, pins: Pins) -> bool:
        """Whether what is locked is what lies at the root now: somebody may have removed it, or mounted over it."""
        try:
            return pins.exists() and os.path.samestat(os.fstat(self._fd), pins.root.stat())
        except OSError:
            return False

    def release(self) -> None:
        os.close(self._fd)


def is_held(pins: Pins) -> bool:
    """Whether an agent holds the lock now."""
    try:
        fd = os.open(pins.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def holder_words(pins: Pins) -> Mapping[str, object]:
    """Node, pid and version of the agent that was here last; {} when nothing is known."""
    return node_of(holder_text(pins))


def holder_text(pins: Pins) -> str:
    """The NODE name; "" when there is none."""
    try:
        names = bpf.open_pinned(pins.maps / "names", read_only=True)
    except KernelError:
        return ""
    try:
        text = names.lookup(NameKey(NameKind.NODE, 0).pack())
        return unpack_name(text) if text else ""
    finally:
        names.close()


class Maps:
    """The pinned maps, open; arrays as memory."""

    def __init__(self, pins: Pins, writable: bool) -> None:
        # The kernel maps no memory of a map that was opened for reading only.
        opened = {name: bpf.open_pinned(pins.maps / name) for name in ARRAYS}
        opened |= {name: bpf.open_pinned(pins.maps / name, read_only=not writable) for name in TABLES}
        self.counters, self.names, self.outers, self.buckets = (opened[name] for name in TABLES[:4])
        self.memory = {name: opened[name].mmap(writable) for name in ARRAYS}
        self.stride = {name: opened[name].stride for name in ARRAYS}
        self.size = {name: opened[name].value_size for name in ARRAYS}
        self._opened = opened

    def close(self) -> None:
        for memory in self.memory.values():
            memory.close()
        for opened in self._opened.values():
            opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, name: str, number: int) -> bytes:
        """One element of an array."""
        start = number * self.stride[name]
        return self.memory[name][start : start + self.size[name]]

    def write(self, name: str, number: int, record: bytes) -> None:
        """One element of an array that no program can reach."""
        start = number * self.stride[name]
        self.memory[name][start : start + self.size[name]] = record
