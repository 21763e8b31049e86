"""`sniffer probe`, which `helm test` runs in two pods: marked datagrams, and whether their copies reach an analyzer.

The analyzer needs no rights: copies come to a UDP port of its own, a VXLAN header and a frame in each datagram. It
answers whoever connects with what has come so far, as JSON: how often each probe and each copy.
"""

import contextlib
import json
import re
import secrets
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType

from sniffer.errors import InputError

PROBES = 24788
"""UDP: where probes come. TCP: who asks what has come."""
COPIES = 24789
"""UDP: where copies come, in VXLAN."""
_MARK = re.compile(rb"sniffer-probe ([0-9a-f]{16}) (\d{1,9})\n")
_VXLAN_LENGTH = 8
_SERIES = 100
_ANSWER_S = 2.0
_SETTLE_S = 5.0


@dataclass(slots=True)
class Seen:
    """How often each probe (its number) of one sender came, and how often a copy of it."""

    probes: Counter[int] = field(default_factory=Counter)
    copies: Counter[int] = field(default_factory=Counter)


def receive() -> None:
    """The analyzer's side: until SIGTERM."""

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)  # process 1 of a container has no default
    seen: dict[str, Seen] = {}
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for port, kind in ((PROBES, socket.SOCK_DGRAM), (COPIES, socket.SOCK_DGRAM), (PROBES, socket.SOCK_STREAM)):
            one = stack.enter_context(socket.socket(socket.AF_INET, kind))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", port))
            if kind == socket.SOCK_STREAM:
                one.listen()
            selector.register(one, selectors.EVENT_READ, port)
        print(f"waiting for probes at UDP port {PROBES}, for their copies at {COPIES}", flush=True)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj.type == socket.SOCK_STREAM:
                    _answer(key.fileobj, seen)
                else:
                    count(seen, key.fileobj.recv(65535), copied=key.data == COPIES)


def count(seen: dict[str, Seen], datagram: bytes, *, copied: bool) -> None:
    """Adds a datagram to what a sender's token leads to; `copied`: VXLAN and a frame. Anything else is passed over."""
    found = _MARK.search(datagram, _VXLAN_LENGTH) if copied else _MARK.fullmatch(datagram)
    if found:
        entry = seen.setdefault(found[1].decode(), Seen())
        (entry.copies if copied else entry.probes)[int(found[2])] += 1


def _answer(listening: socket.socket, seen: dict[str, Seen]) -> None:
    with contextlib.suppress(OSError), listening.accept()[0] as asked:
        asked.settimeout(_ANSWER_S)
        entry = seen.get(asked.recv(64).decode("ascii", errors="replace").strip(), Seen())
        asked.sendall(json.dumps({"probes": entry.probes, "copies": entry.copies}).encode())


def send(host: str, timeout_s: float) -> int:
    """The probe's side, `host` being the analyzer's address: 0 when each of a series was copied once, else 1."""
    token, number, started = secrets.token_hex(8), 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probes:
        try:
            probes.connect((host, PROBES))
        except OSError as error:
            raise InputError(f"--to: given {host}, allowed the analyzer's address: {error}") from error
        seen = Seen()
        while not seen.copies and time.monotonic() < started + timeout_s:
            for _ in range(5):
                _probe(probes, token, number)
                number += 1
                time.sleep(0.1)
            seen = _ask(host, token) or seen
        took = time.monotonic() - started
        if not seen.copies:
            print(_nothing(seen, number, timeout_s), file=sys.stderr)
            return 1
        for one in range(number, number + _SERIES):
            _probe(probes, token, one)
            time.sleep(0.01)
        wanted = range(number, number + _SERIES)
        settled = time.monotonic() + _SETTLE_S
        while time.monotonic() < settled and not all(seen.copies[one] for one in wanted):
            time.sleep(0.2)
            seen = _ask(host, token) or seen
    status, words = judge(seen, wanted)
    print(f"{words}; the first copy came within {took:.1f} s", file=sys.stderr if status else sys.stdout)
    return status


def judge(seen: Seen, wanted: range) -> tuple[int, str]:
    """0: each of the probes `wanted` was copied once; 1: not; and why, for people."""
    missing = [one for one in wanted if not seen.copies[one]]
    doubled = [one for one in wanted if seen.copies[one] > 1]
    arrived = sum(seen.probes[one] > 0 for one in wanted)
    if missing or doubled:
        words = f"of {len(wanted)} probes {len(missing)} have no copy and {len(doubled)} more than one"
        return 1, f"{words}; {arrived} of the probes themselves arrived"
    return 0, f"{len(wanted)} probes, each copied to the analyzer once, {arrived} of them arrived"


def _nothing(seen: Seen, sent: int, timeout_s: float) -> str:
    if not seen.probes:
        return (
            f"of {sent} probes none reached the analyzer's pod in {timeout_s:.0f} s, nor did a copy: no traffic passes"
            " between pods here, which is not sniffer's doing; a NetworkPolicy, or the pod did not start"
        )
    return (
        f"no copy came in {timeout_s:.0f} s, though {len(seen.probes)} of {sent} probes did: look at the agents"
        " (kubectl get sniffernodes) and at the controller's log; does anything between the nodes and the pods drop"
        f" UDP to port {COPIES}?"
    )


def _probe(probes: socket.socket, token: str, number: int) -> None:
    with contextlib.suppress(OSError):  # refused, while nobody is there yet
        probes.send(f"sniffer-probe {token} {number}\n".encode())


def _ask(host: str, token: str) -> Seen | None:
    """What the analyzer has seen of ours; None while it does not answer."""
    try:
        with socket.create_connection((host, PROBES), _ANSWER_S) as asking:
            asking.sendall(f"{token}\n".encode())
            with asking.makefile("rb") as answer:
                said = json.loads(answer.read())
    except (OSError, ValueError):
        return None
    return Seen(*(Counter({int(one): times for one, times in said[name].items()}) for name in ("probes", "copies")))
