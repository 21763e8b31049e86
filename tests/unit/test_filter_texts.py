"""Texts at random: what compiles is what libpcap makes of it; what does not is refused by libpcap as well, or
for a reason of our own, with its place. libpcap is asked by calls of the test's own.
"""

import ctypes
import re
from collections import Counter
from collections.abc import Iterator
from random import Random

from sniffer import pcap
from sniffer.abi.records import Instruction, Program
from sniffer.errors import FilterError
from sniffer.model.words import CONSTANTS, KEYWORDS
from tests.filters import FILTERS

TEXTS = 12_000
OUR_REASONS = re.compile(
    r"too long: \d+ instructions|more than \d+ (words|terms)|range .* is reversed|.* asks the capture device"
)
"""Of what libpcap may accept."""
LOOKED_UP = re.compile(r"(host|network) name |.* is no word of pcap-filter")
"""What libpcap is not asked about: it would ask a name server."""
SIGNS = r"and or not ( ) [ ] : / = != & | ^ + - * % << >> && || ! < >= \tcp"
NUMBERS = "10.0.0.1 10.1 10.0.0.0/8 fe80::1 80 1-5 5-1 0x8 65536 $5 aa:bb:cc:dd:ee:ff http"
PIECES = [*sorted(KEYWORDS | CONSTANTS), *SIGNS.split(), *NUMBERS.split()]


class _Code(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(ctypes.c_uint64)))


class Libpcap:
    """pcap_compile itself."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libpcap.so.0.8")
        self._library.pcap_open_dead.restype = ctypes.c_void_p
        self._library.pcap_geterr.restype = ctypes.c_char_p

    def compile(self, text: str) -> Program | str:
        """The program, or libpcap's words."""
        handle, code = ctypes.c_void_p(self._library.pcap_open_dead(1, 262144)), _Code()
        try:
            if self._library.pcap_compile(handle, ctypes.byref(code), text.encode(), 1, 0xFFFFFFFF):
                return str(self._library.pcap_geterr(handle).decode())
            words = code.instructions[: code.length]
            self._library.pcap_freecode(ctypes.byref(code))
        finally:
            self._library.pcap_close(handle)
        return tuple(Instruction(w & 0xFFFF, w >> 16 & 0xFF, w >> 24 & 0xFF, w >> 32) for w in words)


def texts(count: int) -> Iterator[str]:
    """Filters of the corpus joined, mostly with a word or a character damaged; and words at random."""
    rng = Random(8)
    for _ in range(count):
        joint = f" {rng.choice(('and', 'or', 'and not', '&&', '||'))} "
        words = joint.join(rng.sample(FILTERS, rng.choice((1, 2, 2, 3)))).split() if rng.random() < 0.9 else []
        for _ in range(rng.choice((0, 0, 1, 1, 2)) if words else rng.randint(1, 9)):
            at = rng.randint(0, len(words))
            words[at : at + rng.randint(0, 1)] = [rng.choice(PIECES)] if rng.random() < 0.8 else []
        text = rng.choice((" ", " ", "  ", "\n\t")).join(words)
        if text and rng.random() < 0.1:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice("0aé(]#;\\\"'\x7f \r") + text[at + rng.randint(0, 1) :]
        yield text


def kind_of(text: str, libpcap: Libpcap) -> str:
    """How a text ends; AssertionError where libpcap would have it otherwise."""
    try:
        ours: Program | FilterError = pcap.compile(text)
    except FilterError as error:
        ours = error
    if not isinstance(ours, FilterError):
        assert libpcap.compile(text) == ours, text
        return "compiled"
    assert ours.message
    assert ours.offset is None or 0 <= ours.offset <= len(text), text
    if LOOKED_UP.match(ours.message):
        assert ours.offset is not None, text
        return "looked up"
    if isinstance(libpcap.compile(text), str):
        return "refused by libpcap"
    assert OUR_REASONS.match(ours.message), f"{text!r}: {ours}"
    return "refused by us"


def test_every_text_is_compiled_as_libpcap_does_or_refused() -> None:
    libpcap = Libpcap()
    kinds = Counter(kind_of(text, libpcap) for text in texts(TEXTS))
    assert min(kinds["compiled"], kinds["refused by libpcap"]) > TEXTS // 10, kinds
    assert min(kinds["looked up"], kinds["refused by us"]) > 5, kinds
