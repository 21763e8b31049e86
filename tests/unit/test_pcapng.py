"""pcapng as tshark, capinfos and libpcap read it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sniffer import pcapng
from sniffer.pcap import Frame, frames
from sniffer.pcapng import Direction

TIME_NS = 1_700_000_000_123_456_789
FRAME = bytes([2] * 12) + b"\x08\x00"
FIELDS = (
    "frame.time_epoch", "frame.len", "frame.cap_len", "frame.comment", "frame.packet_flags_direction",
    "frame.interface_name", "frame.interface_description", "frame.file_off",
)  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    """What tshark says of each frame, by field."""
    words = [word for field in FIELDS[:-1] for word in ("-e", field)]
    line = ["tshark", "-n", "-r", str(path), "-T", "json", *words]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"HOME": str(path.parent)})
    assert done.returncode == 0, done.stderr
    return [{name: value[0] for name, value in row["_source"]["layers"].items()} for row in json.loads(done.stdout)]


def test_tshark_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        pcapng.section("sniffer test")
        + pcapng.interface("vxlan 42", "from 10.9.0.1")
        + pcapng.packet(0, TIME_NS, FRAME + bytes(46))
        + pcapng.interface("gre", filter="tcp port 80", snap_length=96)
        + pcapng.packet(1, TIME_NS + 1, FRAME + b"abc", 1514, "node n1, sampled 1 in 10: ü", Direction.EGRESS)
        + pcapng.packet(0, TIME_NS + 2, FRAME + b"ab", direction=Direction.INGRESS)
        + pcapng.statistics(0, TIME_NS, TIME_NS + 3, 5, 3)
    )
    first, second, third = read(path)
    assert (first["frame.len"], first["frame.cap_len"]) == ("60", "60")
    assert first["frame.time_epoch"] == "1700000000.123456789"
    assert (first["frame.interface_name"], first["frame.interface_description"]) == ("vxlan 42", "from 10.9.0.1")
    assert "frame.comment" not in first
    assert (second["frame.len"], second["frame.cap_len"]) == ("1514", "17")
    assert second["frame.comment"] == "node n1, sampled 1 in 10: ü"
    assert int(second["frame.packet_flags_direction"], 0) == Direction.EGRESS
    assert second["frame.interface_name"] == "gre"
    assert int(third["frame.packet_flags_direction"], 0) == Direction.INGRESS
    assert third["frame.time_epoch"].endswith("791")


def test_capinfos_sees_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(
        pcapng.section("sniffer test")
        + pcapng.interface("eth0", filter="tcp port 80")
        + pcapng.packet(0, TIME_NS, FRAME)
        + pcapng.statistics(0, TIME_NS, TIME_NS + 3, 5, 4)
    )
    said = subprocess.run(["capinfos", str(path)], capture_output=True, text=True, check=True).stdout
    for words in ("pcapng", "Ethernet", "sniffer test", "nanoseconds (9)", "Number of stat entries = 1", "tcp port 80"):
        assert words in said, said
    assert "Number of packets:   1" in said, said


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=70), st.integers(0, 2**63), st.text(max_size=60), st.sampled_from(Direction),
            st.none() | st.integers(0, 2**32 - 1),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_libpcap_reads_every_frame(
    tmp_path_factory: pytest.TempPathFactory, packets: list[tuple[bytes, int, str, Direction, int | None]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pcapng"
    made = [
        pcapng.packet(0, time, octets, length, comment, direction)
        for octets, time, comment, direction, length in packets
    ]
    path.write_bytes(pcapng.section("x") + pcapng.interface("i") + b"".join(made))
    wanted = [Frame(octets, len(octets) if length is None else length) for octets, _, _, _, length in packets]
    assert list(frames(path)) == wanted


def test_a_long_comment_is_cut_between_characters() -> None:
    block = pcapng.packet(0, 0, b"", comment="ü" * pcapng.COMMENT_LENGTH + "\udcff")
    assert len(block) < pcapng.COMMENT_LENGTH + 60
    assert "ü" * (pcapng.COMMENT_LENGTH // 2) in block.decode("latin-1").encode("latin-1").decode("utf-8", "ignore")
