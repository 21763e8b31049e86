"""A topology with the agent on it, and the arithmetic that every copy must obey."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from tests.agent import Agent, Document, Status, mirror, sniffer
from tests.receivers import Received
from tests.topology import wait_until
from tests.wire import Capture

_numbers = count(1)


def unique(stem: str = "m") -> str:
    """A name that no mirror of this run has had, so that its counters begin at zero."""
    return f"{stem}-{next(_numbers)}"


@contextmanager
def agent_at(directory: Path, *arguments: object) -> Iterator[Agent]:
    """The agent, without any mirror yet; at the end everything of it is removed from the kernel."""
    agent = Agent(directory, Path("/sys/fs/bpf/sniffer"), *arguments)
    try:
        with agent:
            yield agent
    finally:
        sniffer("cleanup")


def programme(agent: Agent, *documents: Document) -> list[str]:
    """Puts these resources, and no other, in force; returns the mirrors' names once their endpoints are reachable."""
    agent.write(*documents)
    names = [item["metadata"]["name"] for item in documents if item["kind"].endswith("Mirror")]

    def ready(status: Status) -> bool:
        rows = {row["name"]: row for row in status["mirrors"]}
        return rows.keys() == set(names) and all(
            row["state"] == "Programmed" and row["reason"] is None and row["targets"] for row in rows.values()
        )

    agent.wait(ready, 10)
    return names


def mirror_of(target: str, interface: str = "pod0", direction: str = "Ingress", **spec: Any) -> Document:
    """A mirror of one direction of one interface to one target, with a fresh name."""
    return mirror(unique(), [interface], [target], direction=direction, **spec)


def settled(agent: Agent, *names: str, timeout: float = 5.0) -> list[Status]:
    """The rows of these mirrors once nothing is in the relay, where counters move on for a moment."""
    last: list[list[Status]] = [[]]

    def still() -> list[Status] | None:
        rows = {row["name"]: row for row in agent.status()["mirrors"]}
        before, last[0] = last[0], [rows[name] for name in names]
        moving = any(sum(row["lost"].values()) for row in last[0])
        return None if moving and _counts(before) != _counts(last[0]) else last[0]

    rows = wait_until(still, timeout, every=0.05, what=f"counters of {names} at rest")
    assert rows is not None
    return rows


def _counts(rows: list[Status]) -> list[Status]:
    return [{key: row[key] for key in ("matched", "sent", "dropped", "wire", "lost")} for row in rows]


def drained(capture: Capture) -> list[bytes]:
    """Ends a capture once it is quiet: on a busy machine its thread may be behind what its socket holds."""
    capture.settle()
    return capture.stop()


def copies(analyzer: Capture) -> list[bytes]:
    """The outer frames that arrive until it is quiet, and ends the capture; not the node's ARP, ND and MLD."""
    return [frame for frame in drained(analyzer) if frame[12:14] != b"\x08\x06" and not _is_icmpv6(frame)]


def _is_icmpv6(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] in {0, 58}


def check_identity(row: Mapping[str, Any]) -> None:
    """matched = sent + every drop, to the packet."""
    dropped = sum(row["dropped"].values())
    assert row["matched"]["packets"] == row["sent"]["packets"] + dropped, row
    assert row["undecided"] == 0, row


def check_counts(
    row: Mapping[str, Any], frames: Iterable[bytes], outer: Sequence[bytes], lost: int = 0, **dropped: int
) -> None:
    """A mirror has matched these frames, dropped and lost as many as said, and written just these outer frames."""
    check_identity(row)
    lengths = [len(frame) for frame in frames]
    assert row["matched"] == {"packets": len(lengths), "bytes": sum(lengths)}, row
    assert {reason: number for reason, number in row["dropped"].items() if number} == dropped, row
    assert sum(row["lost"].values()) == lost, row
    assert row["wire"] == {"packets": len(outer), "bytes": sum(map(ip_length, outer))}, row


def check_padding(outer: Iterable[bytes], partial: bool = False) -> None:
    """What lies behind the outer IP packet says nothing of the frame: zeros, and where a checksum was left to be
    filled in (`partial`) perhaps that of what is left."""
    for frame in outer:
        beyond = frame[ip_length(frame) :].strip(b"\0")
        assert len(beyond) <= 2 * partial, frame.hex()


def ip_length(outer: bytes) -> int:
    """Bytes of an outer frame without the padding that a short last fragment may have behind its IP packet."""
    if outer[12:14] == b"\x86\xdd":
        return 54 + int.from_bytes(outer[18:20])
    return 14 + int.from_bytes(outer[16:18])


def difference(wanted: Iterable[bytes], got: Iterable[bytes]) -> tuple[list[str], list[str]]:
    """What is missing and what is too much, as multisets, in words that fit into a failure."""
    wanted, got = Counter(wanted), Counter(got)
    return tuple(  # type: ignore[return-value]
        [f"{number} x {len(frame)} bytes {frame[:64].hex()}" for frame, number in (one - other).items()][:8]
        for one, other in ((wanted, got), (got, wanted))
    )


def of_key(received: Iterable[Received], kind: str, key: int | None) -> list[Received]:
    """What arrived through one tunnel."""
    return [item for item in received if (item.kind, item.key) == (kind, key)]


def outer_of(outer: Sequence[bytes], kind: str, key: int | None = None, version: int = 4) -> list[bytes]:
    """The outer frames of one tunnel, later fragments (by identification) included."""
    mine: set[bytes] = set()
    found = []
    for frame in outer:
        identity, offset, transport = _place(frame)
        if offset == 0 and (*_tunnel(frame, transport), 6 if frame[12] == 0x86 else 4) == (kind, key, version):
            mine.add(identity)
        elif offset == 0:
            mine.discard(identity)
        if identity in mine:
            found.append(frame)
    return found


def _place(frame: bytes) -> tuple[bytes, int, int]:
    """What the fragments of an outer packet share, the fragment's offset, and where its payload begins."""
    if frame[12:14] != b"\x86\xdd":
        return frame[18:20] + frame[23:24], int.from_bytes(frame[20:22]) & 0x1FFF, 34
    if frame[20] != 44:
        return frame, 0, 54
    return frame[54:55] + frame[58:62], int.from_bytes(frame[56:58]) >> 3, 62


def _tunnel(frame: bytes, at: int) -> tuple[str, int | None]:
    over_udp = {34: frame[23:24], 54: frame[20:21], 62: frame[54:55]}[at] == b"\x11"
    if over_udp:
        return "geneve" if frame[at + 10 : at + 12] == b"\x65\x58" else "vxlan", int.from_bytes(
            frame[at + 12 : at + 15]
        )
    if frame[at + 2 : at + 4] == b"\x65\x58":
        return "gre", int.from_bytes(frame[at + 4 : at + 8]) if frame[at] & 0x20 else None
    return "erspan", int.from_bytes(frame[at + 10 : at + 12]) & 0x3FF
