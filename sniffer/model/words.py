"""The words of a pcap-filter(7) expression, read as libpcap's own scanner reads them.

libpcap looks up in DNS, NIS or /etc/ethers whatever stands where an address may stand and is no address, while it
compiles. `check` finds such names first, so that no text makes libpcap ask anybody. Names of ports and protocols come
from local tables and pass.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from sniffer.errors import FilterError
from sniffer.model.problem import quoted
from sniffer.model.resources import FILTER_LENGTH

# libpcap's optimiser takes time with the cube of a text's length (measured: 600 ports, 4 KB, 32 s).
WORDS_LENGTH = 1024
TERMS_LENGTH = 256
"""Primitives joined by `and` and `or`: at most one more than there are of these."""

# scanner.l of libpcap 1.10, in its order: of two rules that match as much, the earlier one wins.

_NUMBER = r"(?:0[xX][0-9A-Fa-f]+|[0-9]+)"
_BYTE = r"[0-9A-Fa-f]{1,2}"
_WORD = r"[0-9A-Fa-f]{1,4}"
_MAC = "|".join(
    [f"{_BYTE}(?:{mark}{_BYTE}){{5}}" for mark in (":", "-", r"\.")]
    + [r"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}", r"[0-9A-Fa-f]{12}"]
)
_IPV4 = rf"{_NUMBER}(?:\.{_NUMBER}){{3}}"


def _ipv6() -> Iterator[str]:
    """Every way to write an IPv6 address: eight words, or fewer around one `::`; the last two may be an IPv4."""

    def words(count: int) -> str:
        return ":".join([_WORD] * count)

    yield words(8)
    yield f"{words(6)}:{_IPV4}"
    for total in range(8):
        for left in range(total + 1):
            yield f"{words(left)}::{words(total - left)}"
    for total in range(6):
        for left in range(total + 1):
            right = words(total - left)
            yield f"{words(left)}::{right}{':' if right else ''}{_IPV4}"


class Kind(Enum):
    """What a word is to libpcap's grammar, as far as names are concerned."""

    OPERATOR = auto()
    AND_OR = auto()
    OPERAND = auto()
    NAME = auto()
    """Neither a keyword nor an address (libpcap's ID)."""
    KEYWORD = auto()


@dataclass(frozen=True, slots=True)
class Word:
    """One token and where it begins in the text, in characters."""

    kind: Kind
    text: str
    offset: int


_RULES = [
    (Kind.OPERATOR, re.compile(r">=|<=|!=|==|<<|>>|[-+*/%:\[\]!<>()&|^=]")),
    (Kind.AND_OR, re.compile(r"&&|\|\|")),
    (Kind.OPERAND, re.compile(rf"\${_BYTE}")),
    *((Kind.OPERAND, re.compile(form)) for form in _MAC.split("|")),
    (Kind.OPERAND, re.compile(_NUMBER)),
    (Kind.OPERAND, re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{1,3}}")),
    *((Kind.OPERAND, re.compile(form)) for form in _ipv6()),
    # An Ethernet address gone wrong: libpcap says so.
    (Kind.OPERAND, re.compile(rf"{_BYTE}:+(?:{_BYTE}:+)+")),
    (Kind.NAME, re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]*[.A-Za-z0-9])?")),
    (Kind.NAME, re.compile(r"\\[^ !()\n\t]+")),
]
# Escaped words hold any byte but a space: a zero byte would end the text for libpcap, and only for libpcap.
_STRANGE = re.compile(r"[^!-~ \r\n\t]")
_SPACE = re.compile(r"[ \r\n\t]*")

# Keywords that begin or continue a primitive, by what a name behind them is to libpcap.


def _table(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HOSTS = _table("host src dst address1 addr1 address2 addr2 address3 addr3 address4 addr4 ra ta gateway")
_LOCAL = _table("port portrange proto protochain")
_TAKES_NAME = _table("on ifname rset ruleset reason action type subtype dir direction llc")
_OF_THE_DEVICE = _table("inbound outbound ifindex")
CONSTANTS = _table(
    """
    icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo icmp-routeradvert
    icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq
    icmp-maskreply
    icmp6type icmp6code icmp6-destinationunreach icmp6-packettoobig icmp6-timeexceeded icmp6-parameterproblem icmp6-echo
    icmp6-echoreply icmp6-multicastlistenerquery icmp6-multicastlistenerreportv1 icmp6-multicastlistenerdone
    icmp6-routersolicit icmp6-routeradvert icmp6-neighborsolicit icmp6-neighboradvert icmp6-redirect icmp6-routerrenum
    icmp6-nodeinformationquery icmp6-nodeinformationresponse icmp6-ineighbordiscoverysolicit
    icmp6-ineighbordiscoveryadvert icmp6-multicastlistenerreportv2 icmp6-homeagentdiscoveryrequest
    icmp6-homeagentdiscoveryreply icmp6-mobileprefixsolicit icmp6-mobileprefixadvert icmp6-certpathsolicit
    icmp6-certpathadvert icmp6-multicastrouteradvert icmp6-multicastroutersolicit icmp6-multicastrouterterm
    tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr
    """
)
_OTHERS = _table(
    """
    link ether ppp slip fddi tr wlan arp rarp ip sctp tcp udp icmp igmp igrp pim vrrp carp radio ip6 icmp6 ah esp atalk
    aarp decnet lat sca moprc mopdl iso esis es-is isis is-is l1 l2 iih lsp snp csnp psnp clnp stp ipx netbeui mask less
    greater byte broadcast multicast len length vlan mpls pppoed pppoes geneve lane metac bcc oam oamf4 oamf4ec oamf4sc
    sc ilmic vpi vci connectmsg metaconnect rnr rulenum srnr subrulenum fisu lssu lsu msu hfisu hlssu hmsu sio opc dpc
    sls hsio hopc hdpc hsls
    """
)
_LOCAL_TABLES = "port or protocol"
KEYWORDS = frozenset({*_HOSTS, "net", *_LOCAL, *_TAKES_NAME, *_OF_THE_DEVICE, *_OTHERS})
"""Of libpcap 1.10, without `and`, `or`, `not` and the names of numbers."""


def words(text: str, keywords: frozenset[str] = KEYWORDS) -> Iterator[Word]:
    """The words of an expression in their order; `keywords` are those of KEYWORDS that libpcap here knows.

    Raises FilterError with the offset of a character that is in no word.
    """
    strange = _STRANGE.search(text)
    if strange:
        raise FilterError(f"unexpected character {quoted(strange[0])}", strange.start())
    offset = _SPACE.match(text).end()  # type: ignore[union-attr]  # it matches the empty text too
    while offset < len(text):
        kind, end = Kind.NAME, offset
        for rule, pattern in _RULES:
            match = pattern.match(text, offset)
            if match and match.end() > end:
                kind, end = rule, match.end()
        if end == offset:
            raise FilterError(f"unexpected character {quoted(text[offset])}", offset)
        word = text[offset:end]
        yield Word(_keyword(word, keywords) if kind is Kind.NAME else kind, word, offset)
        offset = _SPACE.match(text, end).end()  # type: ignore[union-attr]


def _keyword(word: str, keywords: frozenset[str]) -> Kind:
    if word in ("and", "or"):
        return Kind.AND_OR
    if word == "not":
        return Kind.OPERATOR
    if word in CONSTANTS:
        return Kind.OPERAND
    return Kind.KEYWORD if word in keywords else Kind.NAME


def check(text: str, keywords: frozenset[str] = KEYWORDS) -> None:
    """Raises FilterError where libpcap would look up a name, take very long, or ask a capture device."""
    if len(text) > FILTER_LENGTH:
        raise FilterError(f"{len(text)} characters, at most {FILTER_LENGTH}", FILTER_LENGTH)
    qualifier: str | None = None
    outside: list[str | None] = []
    previous: Word | None = None
    terms = 1
    for count, word in enumerate(words(text, keywords), start=1):
        if count > WORDS_LENGTH:
            raise FilterError(f"more than {WORDS_LENGTH} words", word.offset)
        if word.kind is Kind.AND_OR:
            terms += 1
            if terms > TERMS_LENGTH:
                raise FilterError(f"more than {TERMS_LENGTH} terms", word.offset)
        elif word.kind is Kind.KEYWORD:
            qualifier = _qualifier(word)
        elif word.kind is Kind.NAME:
            _check_name(word, previous, qualifier)
        elif word.text == "(":
            outside.append(qualifier)
        elif word.text == ")" and outside:
            # What stood before the parenthesis holds behind it too: `port 80 or (host 10.0.0.1) or domain`.
            qualifier = outside.pop()
        previous = word


def _qualifier(word: Word) -> str | None:
    """What a name would be to libpcap from here on; None where it takes no name."""
    if word.text in _OF_THE_DEVICE:
        raise FilterError(f'"{word.text}" asks the capture device: choose by interfaces and direction', word.offset)
    if word.text in _LOCAL:
        return _LOCAL_TABLES
    if word.text in _HOSTS:
        return "host"
    return "network" if word.text == "net" else None


def _check_name(word: Word, previous: Word | None, qualifier: str | None) -> None:
    name = quoted(word.text)
    if previous is not None:
        if previous.text == "portrange":
            _check_range(word)
        if previous.text in _TAKES_NAME and previous.kind is Kind.KEYWORD:
            return
        if previous.kind in (Kind.OPERAND, Kind.NAME) or previous.text in (")", "]"):
            raise FilterError(f"{name} is no word of pcap-filter that can stand here", word.offset)
    if qualifier is None:
        raise FilterError(f"{name} is no word of pcap-filter", word.offset)
    if qualifier != _LOCAL_TABLES:
        raise FilterError(f"{qualifier} name {name}: names are not looked up, give the address", word.offset)


def _check_range(word: Word) -> None:
    """libpcap turns a reversed range round in silence; whoever wrote it meant something else."""
    ends = re.fullmatch(r"(\d+)-(\d+)", word.text)
    if ends and int(ends[1]) > int(ends[2]):
        raise FilterError(f"range {quoted(word.text)} is reversed", word.offset)
