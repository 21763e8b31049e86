"""The commands of docs/receivers, run as they stand there, in the namespace of an analyzer.

Of the kernel's devices this needs those that the kernel has; tests/kernels/run has a kernel with all.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from sniffer.pcap import frames
from tests.agent import SNIFFER
from tests.pages import DOCS, commands, inline
from tests.receiving import Recv
from tests.topology import add_analyzer, command, namespace, remove, run, set_sysctl
from tests.tunnelled import VXLAN_KEY, erspan2, erspan3, geneve, gre, option, packet, tunnels
from tests.wire import Capture, send, write_pcap

RECV, WIRESHARK, KERNEL = (commands(f"receivers/{name}.md") for name in ("recv", "wireshark", "kernel"))
ETHERNET = bytes.fromhex("020000000902 020000000901")
REQUEST = bytes(
    Ether(src="02:00:00:00:00:0a", dst="02:00:00:00:00:0b")
    / IP(src="10.1.0.20", dst="10.1.0.30")
    / TCP(sport=40000, dport=80, flags="PA")
    / Raw(b"GET /page HTTP/1.0\r\n\r\n")
)


@pytest.fixture(scope="module", autouse=True)
def bed() -> Iterator[None]:
    """Nobody's host sends from 10.9.0.1 and fd00:9::1 to the analyzer `ana`."""
    namespace(None, ipv6=False)
    try:
        add_analyzer("ana", "up0", 0, mtu=9000)
        set_sysctl("net.ipv6.conf.eth0.disable_ipv6", 0, "ana")
        run("ip", "address", "add", "fd00:9::2/64", "dev", "eth0", "nodad", netns="ana")
        yield
    finally:
        remove(["up0"], ["ana"])


def on_wire(*packets: bytes) -> list[bytes]:
    return [ETHERNET + (b"\x08\x00" if one[0] >> 4 == 4 else b"\x86\xdd") + one for one in packets]


@contextmanager
def running(text: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A page's command, in the analyzer's namespace and some directory."""
    path = f"{SNIFFER.parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(directory)}
    line = command("ana", "bash", "-euo", "pipefail", "-c", text)
    process = subprocess.Popen(
        line, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def output(text: str, directory: Path, packets: Sequence[bytes], timeout: float = 20) -> str:
    """What a command prints while these packets come, again and again until it ends by itself."""
    with running(text, directory) as process:
        end = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < end:
            send(on_wire(*packets), "up0", netns=None)
            time.sleep(0.1)
        assert process.poll() is not None, f"still running: {text}"
        stdout, stderr = process.communicate()
        assert process.returncode in {0, 1}, stderr
        return stdout


def test_every_page_is_here() -> None:
    """A command without a name has no test (pages.commands); others are in test_suricata.py and test_zeek.py."""
    pages = {path.name for path in (DOCS / "receivers").iterdir()} - {"README.md"}
    assert pages == {"recv.md", "wireshark.md", "kernel.md", "suricata.md", "zeek.md"}
    assert RECV.keys() == {"file", "pipe", "json"}
    assert WIRESHARK.keys() == {"live", "inside", "cut"}
    assert KERNEL.keys() == {*DEVICES, "watch"}


def test_recv_into_a_file(tmp_path: Path) -> None:
    output(RECV["file"], tmp_path, [packet(tunnel, REQUEST) for _, tunnel in tunnels()])
    assert [frame.octets for frame in frames(tmp_path / "copies.pcapng")] == [REQUEST] * 6


def test_recv_into_a_pipe(tmp_path: Path) -> None:
    said = output(RECV["pipe"], tmp_path, [packet(VXLAN_KEY, REQUEST)])
    assert said.splitlines() == ["vxlan 4242 from 10.9.0.1\t10.1.0.30"] * 2


def test_recv_counts(tmp_path: Path) -> None:
    burst = [packet(gre(7, number), REQUEST) for number in (1, 2, 5)]
    with running(RECV["json"], tmp_path) as process:
        assert process.stderr
        assert "receiving" in process.stderr.readline()
        send(on_wire(*burst), "up0", netns=None)
        said, _ = process.communicate(timeout=20)
    assert json.loads(said) == {"frames": 3, "lost": [2], "dropped": 0}


def test_tshark_live(tmp_path: Path) -> None:
    said = output(WIRESHARK["live"], tmp_path, [packet(VXLAN_KEY, REQUEST)])
    assert said.split() == ["10.1.0.20", "10.1.0.30", "/page"]
    assert output(WIRESHARK["inside"], tmp_path, [packet(geneve(), REQUEST)]).split() == ["0x000063"]


def test_editcap_cuts_headers_off(tmp_path: Path) -> None:
    write_pcap(tmp_path / "copies.pcap", on_wire(packet(VXLAN_KEY, REQUEST)))
    output(WIRESHARK["cut"], tmp_path, [])
    assert [frame.octets for frame in frames(tmp_path / "frames.pcap")] == [REQUEST]


DEVICES: dict[str, tuple[Packet, ...]] = {
    "vxlan": (VXLAN_KEY,),
    "geneve": (geneve(), geneve(option(1, 1), option(5, 1), vni=7)),
    "gre": (gre(), gre(7), gre(8, 5), gre(8, 4)),
    "erspan": (erspan2(5, 9), erspan2(6, 8), erspan3(7, 1), erspan3(7, 0)),
}
DEVICES |= {f"{name}6": packets for name, packets in DEVICES.items()}


def has_device(name: str) -> bool:
    """Whether this kernel has devices of a page's kind; the one in tests/kernels/run has to."""
    kind = KERNEL[name].split("type ")[1].split()[0]
    done = subprocess.run(["unshare", "--net", "ip", "link", "add", "x", "type", kind, "external"], capture_output=True)
    return b"Unknown device type" not in done.stderr or "SNIFFER_KERNEL" in os.environ


@pytest.mark.parametrize("name", list(filter(has_device, DEVICES)))
def test_a_device_of_the_kernel(name: str, tmp_path: Path) -> None:
    outer = on_wire(*(packet(tunnel, REQUEST, ipv6=name.endswith("6")) for tunnel in DEVICES[name]))
    run("bash", "-euc", KERNEL[name], netns="ana")
    try:
        with Capture("mirror0", "ana") as inner:
            send(outer, "up0", netns=None)
            assert inner.wait(len(outer)) == [REQUEST] * len(outer)
        said = output(KERNEL["watch"], tmp_path, [one[14:] for one in outer])
        assert "10.1.0.20.40000 > 10.1.0.30.80" in said
    finally:
        run("ip", "link", "delete", "mirror0", netns="ana")


@pytest.mark.skipif(not has_device("gre"), reason="no gre devices in this kernel; in those of tests/kernels/run")
def test_the_kernel_answers_gre_where_it_knows_it() -> None:
    """Once the module is there, in every namespace, whoever listens; until a device takes it."""

    def answers() -> int:
        with Capture("up0") as seen:
            send(on_wire(packet(gre(7), REQUEST)), "up0", netns=None)
            return sum(frame[23] == 1 for frame in seen.settle(0.5))

    for _ in range(2):  # the first time may load the module
        run("bash", "-euc", KERNEL["gre"], netns="ana")
        assert answers() == 0
        run("ip", "link", "delete", "mirror0", netns="ana")
    with Recv("--gre"):
        assert answers() == 1


def test_this_kernel_has_vxlan() -> None:
    assert has_device("vxlan")
    assert has_device("vxlan6")


WORDS = [(page, line) for page in ("README", "kernel", "wireshark") for line in inline(f"docs/receivers/{page}.md")]
BEFORE = {
    "output icmp": "add table inet filter; add chain inet filter output { type filter hook output priority 0; }",
    "raw prerouting": "add table inet raw; add chain inet raw prerouting { type filter hook prerouting priority raw; }",
}
"""What there is already, where a rule is added."""


@pytest.mark.parametrize(("page", "line"), WORDS)
def test_a_command_among_words(page: str, line: str, tmp_path: Path) -> None:
    """At an analyzer that has a tunnel device; into Wireshark, which stands for itself as tshark."""
    wireshark = tmp_path / "wireshark"
    wireshark.write_text('#!/bin/sh\n[ "$*" = "-k -i -" ] && exec tshark -n -i - -c 2 -T fields -e ip.dst\n')
    wireshark.chmod(0o755)
    (tmp_path / "sniffer.lua").symlink_to(DOCS.parent / "share/wireshark/sniffer.lua")
    before = [f"nft '{table}'" for words, table in BEFORE.items() if words in line]
    if "mirror0" in line:
        before.append(f"ip link delete mirror0 2>/dev/null || true; {KERNEL['vxlan']}")
    if "tshark -X" in line:
        line += " -i eth0 -f 'udp port 6081' -c 1 -T fields -e ip.dst -e sniffer.node"
    if line.startswith(("tshark", "sniffer recv")):
        said = output(f"PATH=$PWD:$PATH\n{line}", tmp_path, [packet(VXLAN_KEY, REQUEST), packet(geneve(), REQUEST)])
        assert "10.1.0.30" in said
    else:
        run("bash", "-euc", "\n".join([*before, line]), netns="ana")
        if line.startswith("nft"):
            assert line.split(maxsplit=6)[6] in run("nft", "list", "ruleset", netns="ana")
