"""`kubectl sniffer capture`: a pod's frames, live, through kubectl's own connection.

    sniffer capture, in the agent's pod of the node ── kubectl exec ── standard output here

Standard input is the lifeline: something goes down it every second. Whatever dies here, or between here and there
(this program, kubectl, the shell, the connection), the far end hears nothing any more, and takes its programs away.
"""

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from sniffer.errors import InputError
from sniffer.model.problem import printable, quoted
from sniffer.plugin.kubectl import Kubectl, Object, agent_of
from sniffer.plugin.terminal import ASKING, progress, say_line

BEAT_S = 1.0
KEEPALIVE_S = 6
"""What the far end lets pass without a beat."""
PATIENCE_S = 5.0
"""How long the far end may take to say its last words."""
_LOOK_S = 0.1
_LINE = 4000
_NOTE = b"command terminated with exit code"
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Options:
    """What is wanted of the frames; None is the far end's default."""

    filter: str | None = None
    snap_length: int | None = None
    count: int | None = None
    duration_s: float | None = None

    def words(self) -> Sequence[str]:
        """For `sniffer capture`."""
        given = {
            "--filter": self.filter,
            "--snap-length": self.snap_length,
            "--count": self.count,
            "--duration": self.duration_s,
        }
        return [f"{option}={value}" for option, value in given.items() if value is not None]


def capture(kubectl: Kubectl, name: str, namespace: str | None, options: Options, file: str, *, as_json: bool) -> int:
    """Until Ctrl-C, or as the options say. `file`: where pcapng goes, `-` for standard output.

    The exit status is the far end's: 1 when frames were lost.
    """
    if file == "-" and sys.stdout.isatty():
        raise InputError("standard output: given a terminal, allowed a file or a pipe, as in `| wireshark -k -i -`")
    with progress(ASKING):
        words = line_of(kubectl, pod_of(kubectl, name, namespace), options, as_json=as_json)
    if file == "-":
        return run(words, sys.stdout.fileno(), speaks=not as_json)
    try:
        with Path(file).open("wb") as output:
            return run(words, output.fileno(), speaks=not as_json)
    except OSError as error:
        raise InputError(f"-w: given {quoted(file)}, allowed a file that can be written ({error.strerror})") from None


def pod_of(kubectl: Kubectl, name: str, namespace: str | None) -> Object:
    """A pod that runs. InputError: there is none, or it has ended, or it is on no node yet."""
    if "/" in name:
        namespace, _, name = name.removeprefix("pod/").rpartition("/")
    pod = kubectl.get("pods", name, *(("-n", namespace) if namespace else ()))
    phase = (pod.get("status") or {}).get("phase")
    if phase in _ENDED or not pod["spec"].get("nodeName"):
        raise InputError(f"pod: given {quoted(name)}, which is {printable(str(phase))}, allowed one that runs")
    if pod["spec"].get("hostNetwork"):
        raise InputError(f"pod: given {quoted(name)}, which uses its node's network, allowed one with its own")
    return pod


def line_of(kubectl: Kubectl, pod: Object, options: Options, *, as_json: bool = False) -> Sequence[str]:
    """The command line that captures a pod. MachineError: no agent is ready on its node."""
    agent = agent_of(kubectl, pod["spec"]["nodeName"])
    where = (pod["metadata"]["name"], f"--namespace={pod['metadata']['namespace']}", f"--keepalive={KEEPALIVE_S}")
    words = ("sniffer", "capture", *where, *options.words(), *(("--json",) if as_json else ()))
    return kubectl.exec_line(agent, *words, stdin=True)


def run(line: Sequence[str], output: int, *, speaks: bool = True) -> int:
    """Runs it with its lifeline until it ends; a signal to end lets it say its last words. Its exit status is the far
    end's, 3 where kubectl itself has failed. speaks: the far end says in words that it has begun.
    """
    # A session of its own: Ctrl-C is for us, and the far end ends in order.
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, start_new_session=True, bufsize=0
    )
    words = _Words(process)
    is_read = True
    with _signals() as told, ExitStack() as waiting:
        if speaks or _is_file(output):
            waiting.enter_context(progress("waiting for the node"))
        due_s = time.monotonic()
        while not told and process.poll() is None and (is_read := _has_reader(output)):
            if words.came or (_is_file(output) and os.fstat(output).st_size):
                waiting.close()
            if time.monotonic() >= due_s:
                due_s += BEAT_S
                if not _beat(process):
                    break
            _sleep(process, _LOOK_S)
    ended = _end(process)
    words.join(PATIENCE_S)
    if ended == -signal.SIGPIPE or not is_read:  # whoever read here has had enough
        return 0
    return ended if ended == 0 or words.of_far_end else 3


class _Words(Thread):
    """What is said on standard error, passed on as it comes. kubectl's note of an exit status is kept back."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(name="words", daemon=True)
        self._said = process.stderr
        self.came = False
        """The far end has spoken: it captures, or says why not."""
        self.of_far_end = False
        """The exit status is that of the command, not kubectl's own."""
        self.start()

    def run(self) -> None:
        for line in self._said or ():
            self.came = True
            if line.startswith(_NOTE):
                self.of_far_end = True
            else:
                say_line(printable(line.decode(errors="replace").rstrip("\n"), _LINE))


def _has_reader(output: int) -> bool:
    """kubectl finds out when it writes, and a pod may be silent for hours."""
    poll = select.poll()
    poll.register(output, 0)
    return not poll.poll(0)


def _is_file(output: int) -> bool:
    """Which shows that something has come; of what went through a pipe nothing can be seen here."""
    return stat.S_ISREG(os.fstat(output).st_mode)


@contextmanager
def _signals() -> Iterator[Sequence[int]]:
    """The signals to end that have come."""
    told: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, lambda number, _: told.append(number)) for number in numbers}
    try:
        yield told
    finally:
        for number, action in former.items():
            signal.signal(number, action)


def _beat(process: "subprocess.Popen[bytes]") -> bool:
    """False: nobody takes it any more."""
    try:
        assert process.stdin
        process.stdin.write(b"\n")
    except OSError:
        return False
    return True


def _sleep(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Cuts the lifeline and waits for the last words; killed after that, or by a second signal."""
    if process.stdin:
        process.stdin.close()
    try:
        return process.wait(PATIENCE_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
        return 3
