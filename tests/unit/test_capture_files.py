"""Captures, read through libpcap."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from sniffer.errors import InputError
from sniffer.pcap import Frame, frames

FRAMES = [bytes([2] * 12) + b"\x08\x00" + bytes(length) for length in (0, 46, 1486, 60000)]


def pcap(path: Path, link_type: int = 1, order: str = "<", cut: int = 0) -> Path:
    """cut: bytes that are missing of each frame."""
    blob = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type)
    for frame in FRAMES:
        kept = frame[: len(frame) - cut]
        blob += struct.pack(f"{order}IIII", 0, 0, len(kept), len(frame)) + kept
    path.write_bytes(blob)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap(tmp_path: Path, order: str) -> None:
    assert list(frames(pcap(tmp_path / "a.pcap", order=order))) == [Frame(f, len(f)) for f in FRAMES]


def test_pcapng(tmp_path: Path) -> None:
    ng = tmp_path / "a.pcapng"
    subprocess.run(["editcap", "-F", "pcapng", pcap(tmp_path / "a.pcap"), ng], check=True, capture_output=True)
    assert ng.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    assert [frame.octets for frame in frames(ng)] == FRAMES


def test_cut_frames_say_how_long_they_were(tmp_path: Path) -> None:
    found = list(frames(pcap(tmp_path / "a.pcap", cut=4)))
    assert found == [Frame(f[:-4], len(f)) for f in FRAMES]


@pytest.mark.parametrize(("link_type", "words"), [(113, "LINUX_SLL"), (105, "IEEE802_11"), (101, "RAW"), (250, "")])
def test_other_link_types_are_refused(tmp_path: Path, link_type: int, words: str) -> None:
    with pytest.raises(InputError, match=rf"a.pcap: given link type .*{words}.*, allowed EN10MB"):
        list(frames(pcap(tmp_path / "a.pcap", link_type)))


def test_what_is_no_capture(tmp_path: Path) -> None:
    text, half = tmp_path / "text", pcap(tmp_path / "half")
    text.write_text("port 80, said the file, and more than twenty-four bytes")
    half.write_bytes(half.read_bytes()[:-1])
    for path in (text, half, tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=path.name) as caught:
            list(frames(path))
        assert "\n" not in str(caught.value)
    assert len(str(caught.value).split(str(tmp_path))) == 2, "the name once"


def test_files_are_closed(tmp_path: Path) -> None:
    path = pcap(tmp_path / "a.pcap")
    for _ in range(3):
        next(frames(path))
    opened = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
    assert str(path) not in opened
