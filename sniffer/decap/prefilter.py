"""Classic BPF for a packet socket that starts at the IP header: lets through what a Receiver may want, and little else.

Fragments that are not the first pass, whatever they are of, and so do packets with IPv6 extension headers.
"""

from sniffer.abi.records import Instruction, Program
from sniffer.decap.outer import FRAGMENT, GRE, UDP
from sniffer.decap.receiver import ETHERTYPE_IPV4, ETHERTYPE_IPV6, Asked

WHOLE = 0xFFFFFFFF
"""Bytes of a packet that is taken."""
PORTS_MAX = 32

# <linux/filter.h>: what the kernel knows of a packet, at offsets that no packet has
_PROTOCOL, _PACKET_TYPE = 0xFFFFF000, 0xFFFFF004
_PACKET_MULTICAST = 2  # to us, to all and to many; above: to others, from us
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_HALF_INDEXED, _LOAD_HEADER_LENGTH = 0x20, 0x28, 0x30, 0x48, 0xB1
_GOTO, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x05, 0x15, 0x25, 0x45, 0x06

_Line = tuple[int, int, str, str]
"""Code, operand, where to go when it holds and when not; "" is the next line. Names of places stand between lines."""


def program(asked: Asked) -> Program:
    """Returns WHOLE for a packet that is taken and 0 for any other."""
    return _assembled(
        [
            (_LOAD_WORD, _PACKET_TYPE, "", ""),
            (_GREATER, _PACKET_MULTICAST, "drop", ""),
            (_LOAD_WORD, _PROTOCOL, "", ""),
            (_EQUAL, ETHERTYPE_IPV6, "ipv6", ""),
            (_EQUAL, ETHERTYPE_IPV4, "", "drop"),
            (_LOAD_BYTE, 9, "", ""),
            *_protocols(asked, "udp4"),
            "udp4",
            (_LOAD_HALF, 6, "", ""),
            (_ANY_BIT, 0x1FFF, "take", ""),
            (_LOAD_HEADER_LENGTH, 0, "", ""),
            (_LOAD_HALF_INDEXED, 2, "", ""),
            *_ports(asked),
            "ipv6",
            (_LOAD_BYTE, 6, "", ""),
            *_extensions(),
            (_EQUAL, FRAGMENT, "fragment", ""),
            *_protocols(asked, "udp6"),
            "udp6",
            (_LOAD_HALF, 42, "", ""),
            *_ports(asked),
            "fragment",
            (_LOAD_HALF, 42, "", ""),
            (_ANY_BIT, 0xFFF8, "take", ""),
            (_LOAD_BYTE, 40, "", ""),
            *_extensions(),
            *_protocols(asked, "fragment of udp"),
            "fragment of udp",
            (_LOAD_HALF, 50, "", ""),
            *_ports(asked),
            "take",
            (_RETURN, WHOLE, "", ""),
            "drop",
            (_RETURN, 0, "", ""),
        ]
    )


def _protocols(asked: Asked, udp: str) -> list[_Line]:
    to_gre = "take" if asked.over_gre else "drop"
    return [(_EQUAL, GRE, to_gre, ""), (_EQUAL, UDP, udp if asked.ports else "drop", "drop")]


def _ports(asked: Asked) -> list[_Line]:
    return [*((_EQUAL, port, "take", "") for port in sorted(asked.ports)), (_GOTO, 0, "drop", "")]


def _extensions() -> list[_Line]:
    return [(_EQUAL, header, "take", "") for header in (0, 43, 60)]


def _assembled(lines: list[_Line | str]) -> Program:
    places: dict[str, int] = {}
    code: list[_Line] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(code)
        else:
            code.append(line)

    def steps(name: str, at: int) -> int:
        return places[name] - at - 1 if name else 0

    return tuple(
        Instruction(what, 0, 0, steps(yes, at))
        if what == _GOTO
        else Instruction(what, steps(yes, at), steps(no, at), operand)
        for at, (what, operand, yes, no) in enumerate(code)
    )
