"""The hash of a flow (bpf/flow.h) and who is in a sample (bpf/limit.h), written down a second time."""

import struct

_64 = (1 << 64) - 1
_FLOW_SEED, _SAMPLING_SEED = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
_MULTIPLIER = 0xFF51AFD7ED558CCD
_TAGS = (0x8100, 0x88A8)
_WITH_PORTS = (6, 17, 132)
_EXTENSIONS = (0, 43, 60)


def chosen(frame: bytes, one_in: int) -> bool:
    """Whether a mirror that takes one in so many flows takes this frame; it is whole, its tags in the payload."""
    return _mix(flow_hash(frame), _SAMPLING_SEED) <= _64 // one_in


def flow_hash(frame: bytes) -> int:
    """64 bits."""
    at, kind = 14, _u16(frame, 12)
    for _ in range(3):
        if kind not in _TAGS:
            break
        kind, at = _u16(frame, at + 2), at + 4
    if kind == 0x0800:
        return _ipv4(frame, at)
    if kind == 0x86DD:
        return _ipv6(frame, at)
    hashed = _pair(_FLOW_SEED, _u32(frame, 0), _u32(frame, 6))
    return _mix(_pair(hashed, _u16(frame, 4), _u16(frame, 10)), kind)


def _ipv4(frame: bytes, at: int) -> int:
    hashed = _pair(_FLOW_SEED, _u32(frame, at + 12), _u32(frame, at + 16))
    protocol = frame[at + 9]
    if _u16(frame, at + 6) & 0x3FFF:
        return _mix(hashed, protocol)
    return _ports(frame, hashed, at + (frame[at] & 15) * 4, protocol)


def _ipv6(frame: bytes, at: int) -> int:
    hashed = _FLOW_SEED
    for word in range(0, 16, 4):
        hashed = _pair(hashed, _u32(frame, at + 8 + word), _u32(frame, at + 24 + word))
    protocol, at = frame[at + 6], at + 40
    while protocol in _EXTENSIONS:
        protocol, at = frame[at], at + (frame[at + 1] + 1) * 8
    return _ports(frame, hashed, at, protocol)


def _ports(frame: bytes, hashed: int, at: int, protocol: int) -> int:
    one, other = struct.unpack_from("!HH", frame, at) if protocol in _WITH_PORTS else (0, 0)
    return _mix(hashed, protocol << 48 | (one ^ other) << 24 | (one + other))


def _mix(hashed: int, value: int) -> int:
    hashed = (hashed ^ value) * _MULTIPLIER & _64
    return hashed ^ hashed >> 32


def _pair(hashed: int, one: int, other: int) -> int:
    return _mix(hashed, (one ^ other) << 32 | (one + other & 0xFFFFFFFF))


def _u16(frame: bytes, at: int) -> int:
    return int(struct.unpack_from("!H", frame, at)[0])


def _u32(frame: bytes, at: int) -> int:
    return int(struct.unpack_from("!I", frame, at)[0])
