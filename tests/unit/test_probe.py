"""What `helm test` makes of what an analyzer has seen."""

import pytest

from sniffer.cli.probe import Seen, count, judge

TOKEN = "0123456789abcdef"


def probe(number: int, token: str = TOKEN) -> bytes:
    return f"sniffer-probe {token} {number}\n".encode()


def test_probes_and_copies_are_counted_apart() -> None:
    seen: dict[str, Seen] = {}
    count(seen, probe(1), copied=False)
    count(seen, b"\x08\0\0\0\0\0\x01\0" + bytes(42) + probe(1), copied=True)
    count(seen, bytes(50) + probe(1), copied=True)
    count(seen, bytes(50) + probe(2, "f" * 16), copied=True)
    for other in (b"", b"sniffer-probe\n", bytes(8) + probe(1), probe(1) + b"x"):
        count(seen, other, copied=False)
    for other in (b"", bytes(60), probe(1)):  # the mark begins in the header
        count(seen, other, copied=True)
    assert seen[TOKEN].probes == {1: 1}
    assert seen[TOKEN].copies == {1: 2}
    assert seen["f" * 16].copies == {2: 1}


@pytest.mark.parametrize(
    ("copies", "status", "words"),
    [
        ({5: 1, 6: 1, 7: 1}, 0, "3 probes, each copied to the analyzer once, 2 of them arrived"),
        ({4: 9, 5: 1, 6: 1, 7: 1}, 0, "3 probes"),
        ({5: 1, 7: 1}, 1, "of 3 probes 1 have no copy and 0 more than one; 2 of the probes"),
        ({5: 1, 6: 2, 7: 1}, 1, "of 3 probes 0 have no copy and 1 more than one"),
    ],
)
def test_the_judgement(copies: dict[int, int], status: int, words: str) -> None:
    seen = Seen()
    seen.probes.update({5: 1, 6: 1})
    seen.copies.update(copies)
    found, said = judge(seen, range(5, 8))
    assert found == status
    assert words in said
