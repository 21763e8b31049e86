"""The dissector for Wireshark shows what GENEVE's options say, and the documentation's example is what is sent."""

import re
import subprocess
import zlib
from pathlib import Path

import pytest

from sniffer.model.target import Encapsulation, Geneve, Outer
from sniffer.plan.facts import Path as Route
from sniffer.plan.facts import PathState
from sniffer.plan.template import egress_record
from tests.wire import write_pcap

ROOT = Path(__file__).parents[2]
FIELDS = ("node", "mirror", "direction", "original_length", "sampling", "node_name", "mirror_name")
INNER = bytes.fromhex("02000000000b02000000000a88b5") + bytes(84)


def outer_header(address: str, source: str) -> bytes:
    route = Route(address, PathState.REACHABLE, "up0", 3, source, address, 1500)
    return egress_record(route, Encapsulation(geneve=Geneve(vni=7)), Outer(), "n1").template


def example() -> bytes:
    """The options as the page has them."""
    text = (ROOT / "docs/geneve-options.md").read_text()
    lines = re.findall(r"^(ff53 .*?) {2,}\w", text, re.MULTILINE)
    return bytes.fromhex(re.sub(r"[ |]", "", "".join(lines)))


def copy_of(frame: bytes, header: bytes) -> bytes:
    """A finished copy, as the programs make it: lengths, and the options of the example."""
    transport = 54 if header[12:14] == b"\x86\xdd" else 34
    made = bytearray(header[:-40] + example() + frame)
    length = len(made) - transport
    at, size = (18, length) if transport == 54 else (16, length + 20)
    made[at : at + 2] = size.to_bytes(2)
    made[transport : transport + 2] = (50000).to_bytes(2)
    made[transport + 4 : transport + 6] = length.to_bytes(2)
    return bytes(made)


def shown(path: Path, *options: str) -> list[list[str]]:
    words = [word for name in FIELDS for word in ("-e", f"sniffer.{name}")]
    script = f"lua_script:{ROOT / 'share/wireshark/sniffer.lua'}"
    line = ["tshark", "-r", str(path), "-n", "-X", script, "-T", "fields", *words, *options]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "lua" not in done.stderr.lower().replace("root", ""), done.stderr
    return [row.split("\t") for row in done.stdout.splitlines()]


def test_the_example_is_a_template_filled_in() -> None:
    template = outer_header("10.9.0.2", "10.9.0.1")
    assert len(example()) == 40
    assert template[-40:-32] == example()[:8]
    for at in range(0, 40, 8):
        assert template[-40 + at : -36 + at] == example()[at : at + 4]
    assert int.from_bytes(example()[4:8]) == zlib.crc32(b"n1")
    assert int.from_bytes(example()[12:16]) == zlib.crc32(b"shop/web")
    assert len(INNER) == int.from_bytes(example()[28:32]) == 98


@pytest.mark.parametrize(("address", "source"), [("10.9.0.2", "10.9.0.1"), ("fd00::2", "fd00::1")])
def test_fields_are_shown(tmp_path: Path, address: str, source: str) -> None:
    path = tmp_path / "copy.pcap"
    write_pcap(path, [copy_of(INNER, outer_header(address, source)), INNER])
    numbers = ["0xeb7954ec", "0xed0d48f3", "1", "98", "1"]
    assert shown(path) == [[*numbers, "", ""], [""] * 7]
    named = shown(path, "-o", "sniffer.names:n2 n1 shop/web")
    assert named[0] == [*numbers, "n1", "shop/web"]
    assert len(shown(path, "-Y", "sniffer.direction == 2")) == 0
    assert len(shown(path, "-Y", "sniffer.original_length > 90 && sniffer.mirror == 0xed0d48f3")) == 1
