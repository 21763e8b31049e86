"""libpcap's compiler: every filter of the corpus, no name ever looked up, bounded whatever the text."""

import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer import pcap
from sniffer.abi.records import Instruction, Program
from sniffer.errors import FilterError, InputError
from sniffer.model.words import CONSTANTS, KEYWORDS, TERMS_LENGTH, WORDS_LENGTH, Kind, words
from tests.filters import FILTERS


def ethernet(kind: int, payload: bytes) -> bytes:
    return bytes.fromhex("02000000000b02000000000a") + struct.pack("!H", kind) + payload


def ipv4(protocol: int, payload: bytes) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return ethernet(0x0800, header + socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2") + payload)


SYN = ipv4(6, struct.pack("!HHIIBBHHH", 40000, 443, 0, 0, 5 << 4, 2, 0, 0, 0))
DNS = ipv4(17, struct.pack("!HHHH", 40000, 53, 8, 0))
ARP = ethernet(0x0806, bytes(28))


@pytest.mark.parametrize("text", FILTERS)
def test_every_filter_of_the_corpus_compiles(text: str) -> None:
    assert 1 <= len(pcap.compile(text)) <= pcap.LENGTH


DECISIONS = [
    ("", SYN, True),
    ("tcp", SYN, True),
    ("tcp", DNS, False),
    ("tcp[tcpflags] & tcp-syn != 0", SYN, True),
    ("port domain", DNS, True),
    ("port https", SYN, True),
    ("host 10.0.0.1 and not port 22", SYN, True),
    ("host 10.0.0.3", SYN, False),
    ("net 10.0.0", SYN, True),
    ("arp", ARP, True),
    ("ip proto \\udp", DNS, True),
    ("ether host 02-00-00-00-00-0a", ARP, True),
    ("ether host 0200.0000.000b", ARP, True),
    ("ether src 02000000000a", ARP, True),
]


@pytest.mark.parametrize(("text", "frame", "expected"), DECISIONS)
def test_matches(text: str, frame: bytes, expected: bool) -> None:
    assert pcap.matches(pcap.compile(text), frame) is expected


def test_matches_knows_the_length_on_the_wire() -> None:
    program = pcap.compile("greater 100")
    assert not pcap.matches(program, SYN)
    assert pcap.matches(program, SYN, 100)
    assert not pcap.matches(pcap.compile("tcp port 443"), SYN[:30], len(SYN))


def test_the_shape_of_a_program() -> None:
    assert pcap.compile("ip") == (
        Instruction(0x28, 0, 0, 12),
        Instruction(0x15, 0, 1, 0x800),
        Instruction(0x06, 0, 0, 262144),
        Instruction(0x06, 0, 0, 0),
    )


REFUSED = [
    # Names that libpcap would look up, with their place
    ("host zeek", 5, 'host name "zeek"'),
    ("host localhost", 5, 'host name "localhost"'),
    ("tcp port 80 and host www.example.com", 21, 'host name "www.example.com"'),
    ("src zeek", 4, 'host name "zeek"'),
    ("dst host not zeek", 13, 'host name "zeek"'),
    ("host (10.0.0.1 or zeek)", 18, 'host name "zeek"'),
    ("host 10.0.0.1 or zeek", 17, 'host name "zeek"'),
    ("port 80 or (host 10.0.0.1 or zeek) or domain", 29, 'host name "zeek"'),
    ("host 10.0.0.1 or (port 80 or domain) or zeek", 40, 'host name "zeek"'),
    ("host \\tcp", 5, 'host name "\\\\tcp"'),
    ("host fe80:1", 5, 'host name "fe80"'),
    ("host 10.0.0.1.5", 5, 'host name "10.0.0.1.5"'),
    ("host 10.0.0.1x", 5, 'host name "10.0.0.1x"'),
    ("ether host zeek", 11, 'host name "zeek"'),
    ("wlan addr1 zeek", 11, 'host name "zeek"'),
    ("gateway router", 8, 'host name "router"'),
    ("net backbone", 4, 'network name "backbone"'),
    ("src net loopback", 8, 'network name "loopback"'),
    # I1, I7, and words that libpcap would only call a syntax error
    ("tpc port 80", 0, '"tpc" is no word'),
    ("tcp prot 80", 4, '"prot" is no word'),
    ("host 10.0.0.1 adn port 80", 14, '"adn" is no word'),
    ("port 80 adn port 81", 8, '"adn" is no word'),
    ("vlan and zeek", 9, '"zeek" is no word'),
    ("portrange 90-80", 10, 'range "90-80" is reversed'),
    ('port "80"', 5, 'unexpected character "\\""'),
    ("tcp; arp", 3, 'unexpected character ";"'),
    ("host zéek", 6, 'unexpected character "é"'),
    ("port \\ht\0tp", 8, 'unexpected character "\\u0000"'),
    ("ip \ud800", 3, 'unexpected character "\\ud800"'),
    ("inbound", 0, '"inbound" asks the capture device'),
    ("tcp and outbound", 8, '"outbound" asks'),
    ("ifindex 3", 0, '"ifindex" asks'),
    # libpcap's own words
    ("port 65536", None, "illegal port number 65536 > 65535"),
    ("port -1", None, "syntax error"),
    ("port nosuchport", None, "unknown port 'nosuchport'"),
    ("proto nosuchproto", None, "unknown ip proto 'nosuchproto'"),
    ("net 10.0.0.1/8", None, 'non-network bits set in "10.0.0.1/8"'),
    ("net 10.0.0.0/33", None, "mask length must be <= 32"),
    ("ip broadcast", None, "netmask not known, so 'ip broadcast' not supported"),
    ("vlan 5000", None, "VLAN tag 5000 greater than maximum 4095"),
    ("tcp and udp and", None, "syntax error"),
    ("1 = 2", None, "expression rejects all packets"),
    ("ip[0] / 0 = 1", None, "division by zero"),
    ("type data subtype null", None, "802.11 link-layer types supported only on 802.11"),
]


@pytest.mark.parametrize(("text", "offset", "message"), REFUSED)
def test_refused(text: str, offset: int | None, message: str) -> None:
    """I1, I2, I7: what is wrong, and where if anybody knows."""
    with pytest.raises(FilterError) as raised:
        pcap.compile(text)
    assert raised.value.message.startswith(message)
    assert raised.value.offset == offset
    assert isinstance(raised.value, InputError)
    assert raised.value.exit_status == 2
    with pytest.raises(FilterError) as again:
        pcap.compile(text)
    assert str(again.value) == str(raised.value)
    assert again.value is not raised.value


@pytest.mark.parametrize(
    "text",
    [
        "port domain or ntp",
        "port (domain or not ntp)",
        "port 80 or (host 10.0.0.1) or domain",
        "portrange http-https",
        "ether proto \\arp",
        "ip protochain \\udp",
        "llc rr or llc ui",
        "host ::1 or ::ffff:10.0.0.1 or fe80::a:b or 1:2:3:4:5:6:7:8",
        "host 10.1",
        "net 10 or 10.1 or 10.1.2",
        "(((tcp)))",
        "! ! tcp",
        "tcp&&port 80||udp",
        "tcp[0x0:2]>=1<<3",
    ],
)
def test_names_of_local_tables_and_addresses_pass(text: str) -> None:
    assert pcap.compile(text)


def test_this_libpcap_knows_the_keywords() -> None:
    """Of a keyword it does not know, libpcap would make a host's name."""
    for word in KEYWORDS:
        with pytest.raises(FilterError, match="syntax error"):
            pcap._compiled(f"port {word}", optimise=False)
    for word in CONSTANTS:
        assert pcap._compiled(f"port {word}", optimise=False)
    with pytest.raises(FilterError, match="unknown port"):
        pcap._compiled("port nokeyword", optimise=False)


def test_an_unknown_keyword_is_a_name() -> None:
    assert [word.kind for word in words("vrrp", KEYWORDS - {"vrrp"})] == [Kind.NAME]
    assert [word.kind for word in words("vrrp")] == [Kind.KEYWORD]


def test_the_longest_program() -> None:
    """What fits, fits; one port more, and the message says how long it would be."""
    ports = [f"port {number}" for number in range(1, 140)]
    fitting, beyond = 100, len(ports)
    while beyond - fitting > 1:
        middle = (fitting + beyond) // 2
        if isinstance(outcome(" or ".join(ports[:middle])), FilterError):
            beyond = middle
        else:
            fitting = middle
    assert pcap.LENGTH - 8 < len(pcap.compile(" or ".join(ports[:fitting]))) <= pcap.LENGTH
    with pytest.raises(FilterError, match=r"too long: 5\d\d instructions, at most 511"):
        pcap.compile(" or ".join(ports[:beyond]))


# Each ends libpcap's patience, its C stack or its optimiser's, were it not stopped.
HOSTILE = {
    "parentheses": "(" * 500 + "ip" + ")" * 500,
    "open parentheses": "(" * 1024,
    "too many parentheses": "(" * 4096,
    "not": "not " * 1000 + "ip",
    "exclamation marks": "!" * 4096,
    "indexes": "ip[" * 300 + "0" + "]" * 300 + " = 0",
    "signs": "-" * 1000 + "len = 1",
    "sums": "len" + "+len" * 500 + " = 1",
    "ports": "port " + " or ".join(str(number) for number in range(1, 600)),
    "ranges": "portrange " + " or ".join(f"{number}-{number + 1}" for number in range(1, 256)),
    "fewer ranges": "portrange " + " or ".join(f"{number}-{number + 1}" for number in range(1, 96)),
    "pairs": " or ".join(f"(src portrange {n}-{n + 1} and dst portrange {n}-{n + 1})" for n in range(1, 48)),
    "addresses": "host " + " or ".join(f"{number:x}::" for number in range(1, 256)),
    "tags": " and ".join(["vlan"] * 256),
    "labels": " and ".join(["mpls"] * 256),
    "tunnels": " and ".join(["geneve"] * 256),
    "chains": "protochain " + " or ".join(str(number) for number in range(1, 256)),
    "loads": " and ".join(f"ip[ip[{number}]] != tcp[1]" for number in range(80)),
    "one long word": "a" * 4096,
    "one long number": "port " + "9" * 4000,
    "too long": "ip or " * 1000 + "ip",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_filters_end(name: str) -> None:
    """In bounded time, on a thread with a small stack, with a program or an error."""
    results: list[object] = []

    def compile_it() -> None:
        results.append(outcome(HOSTILE[name]))

    former = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=compile_it)
        start = time.process_time()
        thread.start()
    finally:
        threading.stack_size(former)
    thread.join()
    assert len(results) == 1
    assert time.process_time() - start < 10, "measured: 2 s at most"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ip " * (WORDS_LENGTH + 1), f"more than {WORDS_LENGTH} words"),
        (" or ".join(["ip"] * (TERMS_LENGTH + 1)), f"more than {TERMS_LENGTH} terms"),
        ("&&".join(["ip"] * (TERMS_LENGTH + 1)), f"more than {TERMS_LENGTH} terms"),
        ("x" * 4097, "4097 characters, at most 4096"),
        (HOSTILE["ranges"], "instructions before optimisation, at most 9000"),
    ],
)
def test_limits(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        pcap.compile(text)
    assert pcap.compile(" or ".join(["ip"] * TERMS_LENGTH))


OTHER_WORDS = r"""
and or not ( ) [ ] : / = != & + - << host port src net mask 10.0.0.1 10.1 fe80::1 80 1-5 0x8 zeek http \tcp $5
aa:bb:cc:dd:ee:ff
"""
WORDS = st.sampled_from(sorted(KEYWORDS | CONSTANTS)) | st.sampled_from(OTHER_WORDS.split())


def outcome(text: str) -> Program | FilterError:
    try:
        return pcap.compile(text)
    except FilterError as error:
        return error


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=40))
def test_no_text_crashes(text: str) -> None:
    """I14: whatever the text, a program within the limit or a FilterError on one line."""
    result = outcome(text)
    if isinstance(result, FilterError):
        assert str(result).isprintable()
        assert result.offset is None or 0 <= result.offset < len(text)
    else:
        assert 1 <= len(result) <= pcap.LENGTH
        pcap.matches(result, SYN)


@given(st.binary(max_size=200), st.sampled_from(FILTERS))
def test_no_frame_crashes_the_oracle(frame: bytes, text: str) -> None:
    assert pcap.matches(pcap.compile(text), frame) in (True, False)


def test_threads_do_not_disturb_each_other() -> None:
    expected = {text: pcap.compile(text) for text in FILTERS[:40]}
    wrong: list[str] = []

    def compile_all() -> None:
        for text, program in expected.items():
            # With a word too many, so that no thread finds the other's result.
            with_spaces = text + " " * (threading.get_ident() % 50)
            if pcap.compile(with_spaces) != program:
                wrong.append(text)

    threads = [threading.Thread(target=compile_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_importing_loads_no_library() -> None:
    """A machine without libpcap can still say so: MachineError, not an ImportError."""
    code = (
        "import ctypes; real = ctypes.CDLL\n"
        "def missing(name, *rest, **options):\n"
        "    if 'pcap' in str(name): raise OSError(name)\n"
        "    return real(name, *rest, **options)\n"
        "ctypes.CDLL = missing\n"
        "from sniffer import pcap\n"
        "from sniffer.errors import MachineError\n"
        "try: pcap.compile('ip')\n"
        "except MachineError as error: print(error.exit_status, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("3 libpcap is not installed; install")
