"""Outer packets in, frames out, everything counted.

`packets` = whole ones + `fragments.received`; whole ones + `fragments.reassembled` = `frames` + everything `refused`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from typing import Any, NamedTuple

from sniffer.decap import outer
from sniffer.decap.outer import GRE, UDP, Datagram, Fragment, Octets
from sniffer.decap.reassembly import Reassembly
from sniffer.decap.refusal import Refusal
from sniffer.decap.sequence import Sequence
from sniffer.decap.tunnels import Inner, Kind, geneve, gre, vxlan

TUNNELS_MAX = 4096
"""Senders and keys that are told apart; frames of more are received as those of one without a name."""
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD

_PARSERS = {Kind.VXLAN: vxlan, Kind.GENEVE: geneve}


@dataclass(frozen=True, slots=True)
class Asked:
    """What to decapsulate: kinds by UDP port, and which of those over GRE."""

    ports: Mapping[int, Kind]
    over_gre: frozenset[Kind]


@dataclass(slots=True)
class Tunnel:
    """One sender, address of ours and key; `sender` "" stands for all that are too many to tell apart."""

    number: int
    """From 0, in the order in which they were first heard."""
    kind: Kind
    sender: str
    receiver: str
    key: int | None
    frames: int = 0
    octets: int = 0
    first_ns: int = 0
    last_ns: int = 0
    sequence: Sequence | None = None


class Arrival(NamedTuple):
    """A frame and the tunnel that it came through."""

    tunnel: Tunnel
    inner: Inner


@dataclass(slots=True)
class Receiver:
    """What one run of `sniffer recv` knows."""

    asked: Asked
    packets: int = 0
    frames: int = 0
    octets: int = 0
    refused: dict[Refusal, int] = field(default_factory=lambda: dict.fromkeys(Refusal, 0))
    reassembly: Reassembly = field(default_factory=Reassembly)
    tunnels: dict[tuple[Kind, bytes, bytes, int | None], Tunnel] = field(default_factory=dict)

    def receive(self, ethertype: int, octets: Octets, time_ns: int, checked: bool = False) -> Arrival | None:
        """The frame that an outer packet completes, or None. `octets`: from the IP header on; `time_ns`: of arrival.

        `checked`: the transport checksum need not be looked at. Nothing that is in a packet raises.
        """
        self.packets += 1
        found: Datagram | Fragment | Refusal | Arrival | None
        found = outer.ipv4(octets) if ethertype == ETHERTYPE_IPV4 else outer.ipv6(octets)
        if isinstance(found, Fragment):
            checked = False  # what the device says of a part says nothing of the whole
            found = self.reassembly.add(found, time_ns)
        if isinstance(found, Datagram):
            found = self._arrival(found, time_ns, checked)
        if isinstance(found, Refusal):
            self.refused[found] += 1
            return None
        return found

    def _arrival(self, datagram: Datagram, time_ns: int, checked: bool) -> Arrival | Refusal:
        inner = self._inner(datagram, checked)
        if isinstance(inner, Refusal):
            return inner
        tunnel = self._tunnel(datagram, inner, time_ns)
        length = len(inner.frame)
        tunnel.frames += 1
        tunnel.octets += length
        tunnel.last_ns = time_ns
        if tunnel.sequence and inner.sequence is not None:
            tunnel.sequence.add(inner.sequence)
        self.frames += 1
        self.octets += length
        return Arrival(tunnel, inner)

    def _inner(self, datagram: Datagram, checked: bool) -> Inner | Refusal:
        if datagram.protocol == GRE and self.asked.over_gre:
            inner = gre(datagram.payload, checked)
            wanted = not isinstance(inner, Inner) or inner.kind in self.asked.over_gre
            return inner if wanted else Refusal.NOT_ASKED
        if datagram.protocol != UDP:
            return Refusal.NOT_ASKED
        found = outer.udp(datagram, checked)
        if isinstance(found, Refusal):
            return found
        port, payload = found
        kind = self.asked.ports.get(port)
        return _PARSERS[kind](payload) if kind else Refusal.NOT_ASKED

    def _tunnel(self, datagram: Datagram, inner: Inner, time_ns: int) -> Tunnel:
        key = (inner.kind, datagram.source, datagram.destination, inner.key)
        found = self.tunnels.get(key)
        if found is None and len(self.tunnels) >= TUNNELS_MAX:
            key = (inner.kind, b"", b"", None)
            found = self.tunnels.get(key)
        if found is None:
            _, source, destination, number = key
            found = self.tunnels[key] = Tunnel(
                len(self.tunnels), inner.kind, _address(source), _address(destination), number, first_ns=time_ns
            )
            if source and inner.sequence is not None:
                found.sequence = Sequence()
        return found

    def row(self) -> dict[str, Any]:
        """All counts, as `--json` shows them."""
        return {
            "packets": self.packets,
            "frames": self.frames,
            "bytes": self.octets,
            "refused": {str(reason): number for reason, number in self.refused.items()},
            "fragments": asdict(self.reassembly.counts),
            "tunnels": [_row(tunnel) for tunnel in self.tunnels.values()],
        }


def lost(tunnel: Tunnel) -> int:
    """Packets that the sequence numbers miss."""
    return tunnel.sequence.lost if tunnel.sequence else 0


def _row(tunnel: Tunnel) -> dict[str, Any]:
    sequence = tunnel.sequence
    counts = sequence and {
        "received": sequence.received,
        "lost": sequence.lost,
        "late": sequence.late,
        "duplicates": sequence.duplicates,
        "restarts": sequence.restarts,
    }
    return {
        "kind": str(tunnel.kind),
        "sender": tunnel.sender,
        "receiver": tunnel.receiver,
        "key": tunnel.key,
        "frames": tunnel.frames,
        "bytes": tunnel.octets,
        "sequence": counts,
    }


def _address(octets: bytes) -> str:
    return str(ip_address(octets)) if octets else ""
