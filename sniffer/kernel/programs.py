"""Loading the BPF object, or taking over the programs that an agent of the same object pinned."""

import errno
import os
import re
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf, capabilities, policy, uname
from sniffer.kernel.pins import DIGEST_LENGTH, PROGRAMS, RING, Pins

OBJECT_VARIABLE = "SNIFFER_OBJECT"
MEMLOCK_FIX = "ulimit -l unlimited (LimitMEMLOCK=infinity in a unit, CAP_SYS_RESOURCE in a container)"
_MEMLOCK_CHARGED_BEFORE = (5, 11, 0)


_LINE = re.compile(r"([0-9a-f]{64})  \S+\n")


def object_path() -> Path:
    """The compiled object: $SNIFFER_OBJECT, or the one in the package. MachineError: it is not there."""
    path = Path(os.environ.get(OBJECT_VARIABLE) or Path(__file__).with_name("sniffer.bpf.o"))
    if not path.is_file():
        raise MachineError(f"the BPF object {path} is missing", "run `make build`")
    return path


def built_digest(built: Path | None = None) -> str:
    """SHA-256 of an object, by default the agent's, as its build wrote it beside it in sha256sum(1)'s words
    (`OBJECT.sha256`).

    MachineError where nothing is written: an object of which nobody knows what it should be is not loaded.
    """
    built = built or object_path()
    path = built.with_name(f"{built.name}.sha256")
    try:
        line = _LINE.fullmatch(path.read_text())
    except (OSError, UnicodeDecodeError):
        line = None
    if line is None:
        raise MachineError(f"{path} does not say which BPF object was built", "run `make build`")
    return line[1]


def load(pins: Pins) -> Mapping[str, int]:
    """Fds of our programs by name; maps and programs are pinned. Loads nothing where the same object is pinned.

    The ring is not among them where the kernel cannot have it. MachineError: the object is not the one that was built.
    """
    digest = built_digest()
    bpf.read_object(object_path(), digest)  # before anything is touched, and where nothing needs to be loaded too
    home = pins.programs / digest[:DIGEST_LENGTH]
    if not (pins.exists() and all((home / name).exists() for name in PROGRAMS if name != RING)):
        shutil.rmtree(home, ignore_errors=True)
        try:
            loaded = open_object(pins.maps)
        except KernelError as error:
            raise refusal(error) from error
        with loaded:
            home.mkdir(parents=True)
            for name in (name for name in PROGRAMS if name in loaded.loaded()):
                bpf.pin(loaded.program(name).fd, home / name)
    return {name: bpf.get_pinned(home / name) for name in PROGRAMS if (home / name).exists()}


def open_object(pin_maps: Path | None = None, autoload: Mapping[str, bool] | None = None) -> bpf.Object:
    """The object, as it was built, with all that this kernel takes of it: before 5.18 no `xdp.frags`, so no ring.

    `autoload` says of programs, by name, whether they are wanted.
    """
    path, digest = object_path(), built_digest()
    try:
        return bpf.Object.open(path, pin_maps, autoload, digest)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
    return bpf.Object.open(path, pin_maps, {**(autoload or {}), RING: False}, digest)


def refusal(error: KernelError) -> MachineError:
    """Why the object could not be loaded, for people: the verifier's words are of no use to who lacks a capability, or
    has an old kernel.
    """
    lacking = capabilities.missing()
    if lacking:
        return MachineError(f"loading BPF programs is not allowed: {', '.join(lacking)} missing", "run as root")
    kernel = uname.judgement()
    if kernel.result == "fail":
        return MachineError(f"this kernel does not take the BPF programs: {kernel.text}", "use a later one")
    limit = memlock_limit()
    if error.errno == errno.EPERM and limit is not None:  # libbpf has tried to lift it
        return MachineError(memlock_words(limit), MEMLOCK_FIX)
    suspect = policy.may_forbid() if error.errno in (errno.EPERM, errno.EACCES) else None
    if suspect:
        return MachineError(
            f"loading BPF programs is not allowed, no capability is missing; {suspect}", policy.SELINUX_FIX
        )
    return MachineError(f"the kernel refuses the BPF object: {error}", "see `sniffer doctor`")


def memlock_limit() -> int | None:
    """Bytes that maps may take; None: any, or this kernel does not count them as locked memory."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return None if limit == resource.RLIM_INFINITY or uname.version()[0] >= _MEMLOCK_CHARGED_BEFORE else limit


def memlock_words(limit: int) -> str:
    """That so many bytes may not be enough."""
    return f"only {limit} bytes may be locked in memory, which kernels before 5.11 count maps as"


def pinned_ids(pins: Pins) -> Mapping[str, int]:
    """Ids of the programs that are pinned, by name; where none are, numbers that no program has."""
    homes = list(pins.programs.iterdir()) if pins.programs.is_dir() else []
    ids = {name: -number for number, name in enumerate(PROGRAMS, start=1)}
    if homes and not any((home / RING).exists() for home in homes):
        del ids[RING]
    for home in homes:
        for name in (name for name in PROGRAMS if (home / name).exists()):
            fd = bpf.get_pinned(home / name)
            ids[name] = bpf.program_of(fd).id
            os.close(fd)
    return ids


def drop_others(pins: Pins) -> None:
    """Unpins the programs of other objects: nothing is attached of them any more."""
    keep = built_digest()[:DIGEST_LENGTH]
    for home in pins.programs.iterdir():
        if home.name != keep:
            shutil.rmtree(home)
