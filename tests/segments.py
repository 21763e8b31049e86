"""Super-packets: how to send them as a guest or a stack does, what they are cut into, what a stream was.

Frames start at the Ethernet header; a VLAN tag in front of the IP header is understood.
"""

import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.wire import socket_in

# <linux/virtio_net.h>
NEEDS_CHECKSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
_HEADER = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_TCP, _UDP = 6, 17


@dataclass(frozen=True, slots=True)
class Layers:
    """Where the headers of a TCP or UDP frame begin: offsets in bytes."""

    network: int
    transport: int
    payload: int
    version: int
    protocol: int
    end: int
    """Of the IP packet; what follows is padding."""


def layers(frame: bytes) -> Layers | None:
    """The layers of a TCP or UDP frame over IP without extension headers; None of any other."""
    network = 14
    while frame[network - 2 : network] in {b"\x81\x00", b"\x88\xa8"}:
        network += 4
    kind = frame[network - 2 : network]
    if kind == b"\x08\x00":
        protocol, transport = frame[network + 9], network + (frame[network] & 15) * 4
        end = network + int.from_bytes(frame[network + 2 : network + 4])
    elif kind == b"\x86\xdd":
        protocol, transport = frame[network + 6], network + 40
        end = network + 40 + int.from_bytes(frame[network + 4 : network + 6])
    else:
        return None
    if protocol not in {_TCP, _UDP}:
        return None
    payload = transport + ((frame[transport + 12] >> 4) * 4 if protocol == _TCP else 8)
    return Layers(network, transport, payload, 4 if kind == b"\x08\x00" else 6, protocol, end)


def ones_sum(octets: bytes) -> int:
    """The Internet checksum's sum (RFC 1071), folded to 16 bits."""
    octets += b"\0" * (len(octets) % 2)
    total = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_sum(frame: bytes, at: Layers, length: int) -> int:
    """Sum of the pseudo header of TCP or UDP with `length` bytes from the transport header on."""
    return ones_sum(_addresses(frame, at) + struct.pack(">II", length, at.protocol))


def _addresses(frame: bytes, at: Layers) -> bytes:
    return frame[at.network + 12 : at.network + 20] if at.version == 4 else frame[at.network + 8 : at.network + 40]


def checksums_good(frame: bytes) -> bool:
    """Whether the IP and transport checksums of a TCP or UDP frame are right (UDP over IPv4 may have none)."""
    at = layers(frame)
    assert at is not None
    if at.version == 4 and ones_sum(frame[at.network : at.transport]) != 0xFFFF:
        return False
    body = frame[at.transport : at.end]
    if at.protocol == _UDP and body[6:8] == b"\0\0":
        return at.version == 4
    return ones_sum(body + b"\0" * (len(body) % 2) + struct.pack(">H", pseudo_sum(frame, at, len(body)))) == 0xFFFF


def with_checksums(frame: bytes) -> bytes:
    """The frame with IP and transport checksums that are right."""
    return _checked(frame, partial=False)


def without_transport_checksum(frame: bytes) -> bytes:
    """The frame as a stack hands it to a device that makes checksums: only the pseudo header is summed."""
    return _checked(frame, partial=True)


def _checked(frame: bytes, partial: bool) -> bytes:
    at = layers(frame)
    assert at is not None
    made = bytearray(frame)
    if at.version == 4:
        made[at.network + 10 : at.network + 12] = bytes(2)
        made[at.network + 10 : at.network + 12] = (0xFFFF - ones_sum(made[at.network : at.transport])).to_bytes(2)
    place = at.transport + (16 if at.protocol == _TCP else 6)
    made[place : place + 2] = bytes(2)
    total = pseudo_sum(frame, at, at.end - at.transport)
    if not partial:
        total = ones_sum(bytes(made[at.transport : at.end]) + b"\0" * ((at.end - at.transport) % 2) + total.to_bytes(2))
        total = 0xFFFF - total or (0xFFFF if at.protocol == _UDP else 0)
    made[place : place + 2] = total.to_bytes(2)
    return bytes(made)


def unsummed(frame: bytes) -> bytes:
    """The frame, cut wherever, with its transport checksum blanked: the hook sees it before it is filled in."""
    at = layers(frame + bytes(128))
    if at is None:
        return frame
    place = at.transport + (16 if at.protocol == _TCP else 6)
    return frame[:place] + bytes(2)[: max(len(frame) - place, 0)] + frame[place + 2 :]


def cut(frame: bytes, size: int) -> list[bytes]:
    """The segments of a super-packet, `size` bytes of payload each but the last, checksums made: what the kernel's
    segmentation puts on the wire (FIN and PSH on the last, CWR on the first, IPv4 identifications in a row)."""
    at = layers(frame)
    assert at is not None
    load = frame[at.payload : at.end]
    pieces = [load[start : start + size] for start in range(0, len(load), size)] or [b""]
    segments = []
    for number, piece in enumerate(pieces):
        head = bytearray(frame[: at.payload])
        length = at.payload - at.network + len(piece)
        if at.version == 4:
            head[at.network + 2 : at.network + 4] = length.to_bytes(2)
            identification = int.from_bytes(frame[at.network + 4 : at.network + 6]) + number
            head[at.network + 4 : at.network + 6] = (identification & 0xFFFF).to_bytes(2)
        else:
            head[at.network + 4 : at.network + 6] = (length - 40).to_bytes(2)
        if at.protocol == _TCP:
            sequence = int.from_bytes(frame[at.transport + 4 : at.transport + 8]) + number * size
            head[at.transport + 4 : at.transport + 8] = (sequence & 0xFFFFFFFF).to_bytes(4)
            if number < len(pieces) - 1:
                head[at.transport + 13] &= ~0x09
            if number:
                head[at.transport + 13] &= ~0x80
        else:
            head[at.transport + 4 : at.transport + 6] = (8 + len(piece)).to_bytes(2)
        segments.append(with_checksums(bytes(head) + piece))
    return segments


def offload_header(frame: bytes, size: int = 0) -> bytes:
    """What a guest says of a frame: fill in the checksum, and cut it to segments of `size` bytes (0: do not)."""
    at = layers(frame)
    assert at is not None
    kind = GSO_NONE
    if size:
        kind = GSO_UDP_L4 if at.protocol == _UDP else GSO_TCPV4 if at.version == 4 else GSO_TCPV6
    return _HEADER.pack(NEEDS_CHECKSUM, kind, at.payload, size, at.transport, 16 if at.protocol == _TCP else 6)


def send_offloaded(frames: Iterable[tuple[bytes, int]], device: str = "eth0", netns: str | None = "pod") -> int:
    """Sends frames with their checksum left to be filled in, as one super-packet each where the size is not 0: what a
    guest does. Returns how many."""
    number = 0
    with socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        packets.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)  # SO_SNDBUFFORCE
        packets.bind((device, 0))
        for frame, size in frames:
            whole = without_transport_checksum(frame)
            packets.send(offload_header(frame, size) + whole)
            number += 1
    return number


def send_described(device: str, frame: bytes, headers: int, size: int) -> None:
    """Sends one super-packet of IPv6 with `headers` bytes of headers, whatever they are, as a guest of the node does.
    The last of them is UDP to port 9, or TCP without options."""
    udp = frame[headers - 6 : headers - 4] == b"\x00\x09"
    kind, transport, place = (GSO_UDP_L4, headers - 8, 6) if udp else (GSO_TCPV6, headers - 20, 16)
    with socket_in(None, socket.AF_PACKET, socket.SOCK_RAW) as packets:
        packets.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        packets.bind((device, 0))
        packets.send(_HEADER.pack(NEEDS_CHECKSUM, kind, headers, size, transport, place) + frame)


def rebuild(frames: Iterable[bytes]) -> Mapping[tuple[bytes, bytes], bytes]:
    """The streams of TCP by (addresses, ports), from their SYN on, put together by sequence number; AssertionError
    where pieces differ where they overlap, or one is missing."""
    pieces: dict[tuple[bytes, bytes], dict[int, bytes]] = defaultdict(dict)
    starts: dict[tuple[bytes, bytes], int] = {}
    for frame in frames:
        at = layers(frame)
        if at is None or at.protocol != _TCP:
            continue
        addresses = (
            frame[at.network + 12 : at.network + 20] if at.version == 4 else frame[at.network + 8 : at.network + 40]
        )
        flow = (addresses, frame[at.transport : at.transport + 4])
        sequence = int.from_bytes(frame[at.transport + 4 : at.transport + 8])
        if frame[at.transport + 13] & 2:
            starts[flow] = sequence + 1
            continue
        place = (sequence - starts[flow]) & 0xFFFFFFFF
        load = frame[at.payload : at.end]
        if len(load) > len(pieces[flow].get(place, b"")):
            pieces[flow][place] = load
    return {flow: _joined(found) for flow, found in pieces.items()}


def _joined(pieces: Mapping[int, bytes]) -> bytes:
    stream = bytearray()
    for place, load in sorted(pieces.items()):
        if place > len(stream):
            raise AssertionError(f"{place - len(stream)} bytes are missing at {len(stream)}")
        overlap = stream[place : place + len(load)]
        assert load[: len(overlap)] == overlap, f"pieces differ at {place}"
        stream += load[len(overlap) :]
    return bytes(stream)
