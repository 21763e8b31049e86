"""What this process may do, and what the agent needs."""

from pathlib import Path

_NUMBERS = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_PERFMON": 38, "CAP_BPF": 39}
_NEEDED = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")
_INCLUDED = {"CAP_BPF": "CAP_SYS_ADMIN", "CAP_PERFMON": "CAP_SYS_ADMIN"}


def effective(status: Path = Path("/proc/self/status")) -> frozenset[str]:
    """The capabilities in force, of those that matter here."""
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    mask = int(line.split()[1], 16)
    return frozenset(name for name, number in _NUMBERS.items() if mask >> number & 1)


def missing(present: frozenset[str] | None = None) -> tuple[str, ...]:
    """What the agent needs and this process has not. CAP_PERFMON: the verifier lets nobody else add to pointers so."""
    has = effective() if present is None else present
    return tuple(name for name in _NEEDED if name not in has and _INCLUDED.get(name) not in has)
