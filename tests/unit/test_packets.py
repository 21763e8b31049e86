"""The frames that other tests rely on are what they say, the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packets import BARE, CORPUS, FILTERS, generate

DIGEST = """
import hashlib
from tests.packets import CORPUS, generate
print(hashlib.sha256(b"".join((*(case.frame for case in CORPUS), *generate(7, 2000)))).hexdigest())
"""


def test_corpus_is_the_same_in_every_process() -> None:
    root = Path(__file__).parents[2]
    digests = {
        subprocess.check_output([sys.executable, "-c", DIGEST], cwd=root, env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_corpus_names_and_frames_are_unique() -> None:
    assert len({case.name for case in CORPUS}) == len({case.frame for case in CORPUS}) == len(CORPUS)


def test_corpus_fits_an_ethernet_of_1500() -> None:
    for case in CORPUS:
        tag = 4 if case.frame[12:14] == b"\x81\x00" else 0
        assert 15 <= len(case.frame) <= 1514 + tag, case.name
    assert len(BARE.frame) == 14


@pytest.mark.parametrize(
    "line",
    [f"C{number}" for number in (*range(1, 16), 20, 21, 22, 27, 31, 33)],
)
def test_corpus_has_every_kind_of_frame(line: str) -> None:
    """The lines of the case list that a single frame can stand for; super-packets and checksum states need a sender."""
    assert any(line in case.cases for case in CORPUS)


def test_generated_frames_differ_and_stay_in_bounds() -> None:
    frames = list(generate(1, 5000))
    assert frames == list(generate(1, 5000)) != list(generate(2, 5000))
    assert len(set(frames)) > 4500
    assert {min(map(len, frames)), max(map(len, frames))} == {15, 1514}
    assert {len(frame) for frame in generate(3, 500, shortest=100, longest=120)} <= set(range(100, 121))


def test_filters_are_unique() -> None:
    assert len(set(FILTERS)) == len(FILTERS) > 150
