"""Load: `blast`, a sender in C, and iperf3 for TCP. Programs in C are compiled when first needed."""

import hashlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from tests.topology import command, run, start, wait_until

HERE = Path(__file__).parent
BUILD = Path(__file__).parents[2] / "build" / "tests"
COMPILERS = ("clang-19", "clang-18", "clang", "cc", "gcc")


@dataclass(frozen=True, slots=True)
class Blast:
    """What a run sent. Nanoseconds are per packet handed to the kernel; a super-packet is one."""

    packets: int
    refused: int
    wall_ns: float
    cpu_ns: float


@cache
def compiled(name: str) -> Path:
    """Compiles `name`.c unless this very source was compiled before; returns the program."""
    source = HERE / f"{name}.c"
    sources = b"".join(path.read_bytes() for path in (source, *sorted(HERE.glob("*.h"))))
    program = BUILD / f"{name}-{hashlib.sha256(sources).hexdigest()[:12]}"
    if program.exists():
        return program
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    assert compiler, f"no C compiler: one of {', '.join(COMPILERS)}"
    BUILD.mkdir(parents=True, exist_ok=True)
    # Several runs may compile it at once, and process numbers repeat: each run counts its own from one.
    with tempfile.TemporaryDirectory(dir=BUILD) as own:
        draft = Path(own, name)
        run(compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", draft, source)
        draft.replace(program)
    return program


def blast_command(kind: str = "udp", core: int | None = None, realtime: bool = False, **options: object) -> list[str]:
    """The command line of `blast`; options as in blast.c: dst, port, sport, ports, size, gso, burst, count, seconds,
    rate; dev and hex for raw. `core` pins it; `realtime`: it waits for nobody (give it a rate)."""
    pin = ["taskset", "-c", str(core)] if core is not None else []
    pin += ["chrt", "--fifo", "1"] if realtime else []
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*pin, str(compiled("blast")), kind, *words]


def blast(kind: str = "udp", netns: str | None = "pod", core: int | None = None, **options: object) -> Blast:
    """Sends and returns what was sent; see `blast_command`."""
    return Blast(**json.loads(run(*blast_command(kind, core, **options), netns=netns)))


class Background:
    """A `blast` that runs until it is told to stop: `with Background(...) as load: ...; load.sent` afterwards."""

    def __init__(
        self, netns: str | None = "pod", core: int | None = None, realtime: bool = False, **options: object
    ) -> None:
        self.sent: Blast | None = None
        self._line = command(netns, *blast_command("udp", core, realtime, **options))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._line, stdout=subprocess.PIPE, text=True)
        return self

    def finish(self) -> Blast:
        """Waits for its end (by its count or seconds) and returns what was sent."""
        output, _ = self._process.communicate(timeout=120)
        self.sent = Blast(**json.loads(output))
        return self.sent

    def __exit__(self, *_: object) -> None:
        if self.sent is None:
            self._process.kill()
            self._process.communicate()


def goodput(
    client: str | None = "pod",
    server: str | None = "peer",
    address: str = "10.1.0.30",
    seconds: float = 2,
    flows: int = 1,
) -> float:
    """TCP bits per second that an iperf3 server received."""
    port = 5201
    listener = start("iperf3", "--server", "--one-off", "--port", port, netns=server)
    try:
        wait_until(lambda: f":{port} " in run("ss", "-Htln", netns=server), what="iperf3 listens")
        words = ("--client", address, "--port", port, "--time", seconds, "--parallel", flows, "--json")
        result = json.loads(run("iperf3", *words, netns=client))
    finally:
        listener.kill()
        listener.wait()
    return float(result["end"]["sum_received"]["bits_per_second"])
