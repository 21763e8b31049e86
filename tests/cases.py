"""What must have a test: production's safety (A), loops (B), shapes of packets (C). A test names what it covers in its
docstring, or its module's: `C16`, `C1 to C15`; tests/unit/test_cases.py finds what nobody names.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

TESTS = Path(__file__).parent

CASES = {
    "A1": "the agent killed under load",
    "A2": "killed while maps are written",
    "A3": "an analyzer that is down, or whose neighbour does not answer",
    "A4": "an analyzer that refuses each copy with ICMP",
    "A5": "an uplink that is saturated",
    "A6": "the uplink removed, its index used again",
    "A7": "the uplink down",
    "A8": "a copy longer than the path's MTU",
    "A9": "no memory for the clone",
    "A10": "no memory for the original's head",
    "A11": "more mirrors on a packet than copies are made",
    "A12": "a flood of the smallest packets",
    "A13": "production that paces its packets by time stamps",
    "A14": "production that sends without copying",
    "A15": "TCP with little to send from",
    "A16": "super-packets towards an uplink that segments nothing",
    "B1": "copies leave by a mirrored interface",
    "B2": "the analyzer is a mirrored pod",
    "B3": "nodes that mirror their uplinks to each other's pods",
    "B4": "an endpoint that is the node itself",
    "B5": "a multicast or broadcast endpoint",
    "B6": "copies inside of an overlay",
    "B7": "copies that somebody puts back on the wire",
    "B8": "another product that mirrors our copies",
    "B9": "an overlay that uses our port",
    "B10": "copies behind a VLAN tag, or over IPv6",
    "C1": "ARP",
    "C2": "LLDP, STP, 802.2",
    "C3": "IPv6 neighbour discovery and groups",
    "C4": "a VLAN tag beside the skb",
    "C5": "a VLAN tag in the payload",
    "C6": "two tags and three",
    "C7": "MPLS",
    "C8": "PPPoE",
    "C9": "IPv4 options",
    "C10": "IPv4 fragments",
    "C11": "IPv6 extension headers",
    "C12": "headers that are cut",
    "C13": "headers that lie",
    "C14": "14 and 15 bytes",
    "C15": "runts with padding",
    "C16": "9000 bytes, and TCP super-packets",
    "C17": "UDP super-packets of a sender",
    "C18": "UDP joined by a list of fragments",
    "C19": "TCP joined by a list of fragments",
    "C20": "SCTP",
    "C21": "ESP, AH, WireGuard",
    "C22": "packets of an overlay",
    "C23": "a checksum to be filled in, in a frame that is cut",
    "C24": "a checksum that covers the whole packet",
    "C25": "headers in pages",
    "C26": "an skb that is shared already",
    "C27": "broadcast and multicast",
    "C28": "hairpin and loopback",
    "C29": "longer than an IP length can say",
    "C30": "no Ethernet header",
    "C31": "no payload",
    "C32": "a tag and a super-packet",
    "C33": "addresses and ports of zero",
}

REFUSED: Mapping[str, str] = {"C30": "UnsupportedInterface"}
"""What is not done, and the reason that status gives for it, which docs/status.md explains."""

AWAITED: frozenset[str] = frozenset()
"""What no test covers yet."""

_NAMED = re.compile(r"\b([ABC])(\d{1,2})(?: to (?:\1)(\d{1,2}))?\b")


def named(text: str) -> Iterator[str]:
    """The cases that a docstring names."""
    for letter, first, last in _NAMED.findall(text):
        yield from (f"{letter}{number}" for number in range(int(first), int(last or first) + 1))


def covered(tests: Path = TESTS) -> dict[str, list[str]]:
    """Of each case the tests that name it."""
    found: dict[str, list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        module = ast.parse(path.read_text())
        of_module = list(named(ast.get_docstring(module) or ""))
        for function in ast.walk(module):
            if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
                continue
            for case in {*of_module, *named(ast.get_docstring(function) or "")}:
                found.setdefault(case, []).append(f"{path.relative_to(tests)}::{function.name}")
    return found
