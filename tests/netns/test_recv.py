"""`sniffer recv` against packets of scapy and of the kernel's own devices, on links of a real kernel."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.pcap import frames
from tests.agent import SNIFFER, sniffer
from tests.packets import CORPUS
from tests.receiving import Recv, check_identity
from tests.topology import add_analyzer, command, namespace, remove, run, set_sysctl, start, wait_until
from tests.tunnelled import VXLAN_KEY, erspan2, erspan3, fragments, geneve, gre, option, packet, tunnels
from tests.wire import Capture, send

ALL = ("--vxlan", 4789, "--geneve", 6081, "--gre", "--erspan")
ETHERNET = bytes.fromhex("020000000902 020000000901")
FRAME = CORPUS[0].frame


@pytest.fixture(scope="module", autouse=True)
def bed() -> Iterator[None]:
    """The sender is where the test is, at 10.9.0.1 and fd00:9::1; the receiver is in `ana`, at .2."""
    namespace(None, ipv6=False)
    try:
        add_analyzer("ana", "up0", 0, mtu=9000)
        for device, netns, last in (("up0", None, 1), ("eth0", "ana", 2)):
            set_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 0, netns)
            run("ip", "address", "add", f"fd00:9::{last}/64", "dev", device, "nodad", netns=netns)
        yield
    finally:
        remove(["up0"], ["ana"])


def wire(*packets: bytes) -> None:
    """Sends outer packets to the receiver."""
    send([ETHERNET + (b"\x08\x00" if one[0] >> 4 == 4 else b"\x86\xdd") + one for one in packets], "up0", netns=None)


@pytest.mark.parametrize("device", [(), ("-i", "eth0")])
def test_every_tunnel_of_both_families(tmp_path: Path, device: tuple[str, ...]) -> None:
    cases = [case.frame for case in CORPUS[:6]] + [bytes([2] * 12) + b"\x88\xb5" + bytes(8000)]
    sent = [packet(tunnel, frame, ipv6) for ipv6 in (False, True) for _, tunnel in tunnels() for frame in cases]
    file = tmp_path / "a.pcapng"
    with Recv(*ALL, *device, "-w", file, "--count", len(sent)) as recv:
        wire(*sent)
        row = recv.wait()
    check_identity(row)
    assert row["frames"] == row["packets"] == len(sent)
    assert [frame.octets for frame in frames(file)] == cases * 12
    assert {(tunnel["kind"], tunnel["sender"]) for tunnel in row["tunnels"]} == {
        (kind, sender) for kind in ("vxlan", "geneve", "gre", "erspan") for sender in ("10.9.0.1", "fd00:9::1")
    }


def test_what_wireshark_shows(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    options = option(1, 0x1A2B3C4D), option(2, 0xBADF00D), option(3, 2), option(4, 1514), option(5, 10)
    before = time.time()
    with Recv(*ALL, "-w", file, "--count", 3) as recv:
        wire(packet(geneve(*options), FRAME), packet(erspan3(7, 1, d=0, t=1), FRAME), packet(gre(5), FRAME))
        recv.wait()
    words = ("frame.comment", "frame.packet_flags_direction", "frame.len", "frame.interface_name", "frame.time_epoch")
    fields = [word for name in words for word in ("-e", name)]
    line = ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "separator=|", *fields]
    said = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"HOME": str(tmp_path)}).stdout
    rows = [row.split("|") for row in said.splitlines()]
    assert [row[:4] for row in rows] == [
        ["node=1a2b3c4d mirror=0badf00d sampled=1/10", "0x00000002", "1514", "geneve 99 from 10.9.0.1"],
        ["truncated timestamp=0 (100 us)", "0x00000001", str(len(FRAME)), "erspan 7 from 10.9.0.1"],
        ["", "", str(len(FRAME)), "gre 5 from 10.9.0.1"],
    ]
    assert all(before - 1 < float(row[4]) < time.time() + 1 for row in rows)


def test_fragments_and_losses(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    frame = bytes([2] * 12) + b"\x88\xb5" + bytes(range(250)) * 36
    parts = [
        part
        for ipv6 in (False, True)
        for number, tunnel in enumerate((VXLAN_KEY, gre(1, 7), erspan2(9, 1)))
        for part in reversed(fragments(tunnel, frame, 1480, number, ipv6))
    ]
    with Recv(*ALL, "-w", file) as recv:
        wire(*parts[:-1])
        # The last packet lacks a part; of the numbers 8 and 10 to 19 are missing.
        wire(*(packet(gre(1, number), FRAME) for number in (9, 20, 22, 21)))
        wait_until(recv.is_idle)
        row = recv.stop()
    check_identity(row)
    assert Counter(one.octets for one in frames(file)) == {frame: 5, FRAME: 4}
    assert (row["fragments"]["reassembled"], row["fragments"]["headless"]) == (5, 1)
    sequences = {tunnel["sender"]: tunnel["sequence"] for tunnel in row["tunnels"] if tunnel["kind"] == "gre"}
    assert sequences["10.9.0.1"] == {"received": 5, "lost": 11, "late": 1, "duplicates": 0, "restarts": 0}
    assert sequences["fd00:9::1"]["lost"] == 0
    said = run("capinfos", file)
    assert "Number of stat entries = 1" in said, said


def test_the_kernel_passes_nothing_else(tmp_path: Path) -> None:
    """Another port, another protocol, what is not for this host, and what this host sends."""
    other = packet(VXLAN_KEY, FRAME)
    with Recv("--vxlan", 4789) as recv:
        wire(packet(geneve(), FRAME), packet(gre(), FRAME))
        send([bytes([2] * 6) + ETHERNET[6:] + b"\x08\x00" + other], "up0", netns=None)
        send([ETHERNET[6:] + ETHERNET[:6] + b"\x08\x00" + other], "eth0", netns="ana")
        wire(other)
        wait_until(recv.is_idle)
        row = recv.stop()
    assert (row["packets"], row["frames"]) == (1, 1)


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_sender_sees_no_refusal(ipv6: bool) -> None:
    """Nobody has the port bound and there is no tunnel device; without recv the kernel answers with ICMP."""
    sent = [packet(tunnel, FRAME, ipv6) for _, tunnel in tunnels()]

    def refusals() -> int:
        with Capture("up0") as seen:
            wire(*sent)
            protocols = [frame[20] if ipv6 else frame[23] for frame in seen.settle()]
        return sum(protocol in {1, 58} for protocol in protocols)

    # Neighbours are resolved first, and the limits of ICMP are none: else the absence says nothing.
    run("ping", "-c", 1, "-W", 2, "fd00:9::1" if ipv6 else "10.9.0.1", netns="ana")
    set_sysctl("net.ipv6.icmp.ratelimit", 0, "ana")
    set_sysctl("net.ipv4.icmp_ratelimit", 0, "ana")
    assert refusals() >= 2
    with Recv(*ALL) as recv:
        assert refusals() == 0
        assert recv.stop()["frames"] == len(sent)


def test_a_vxlan_device_sends_and_each_frame_is_seen_once(tmp_path: Path) -> None:
    """Where any device is asked for, the port of a bridge does not show a frame that the bridge shows."""
    words = "type vxlan id 42 dstport 4789 remote 10.9.7.2 local 10.9.7.1 noudpcsum"
    for line in (
        "ip address add 10.9.7.1/24 dev up0", f"ip link add vx0 mtu 1500 {words}", "ip link set vx0 up",
        "ip address add 10.42.0.1/24 dev vx0", "ip neighbour add 10.42.0.2 lladdr 02:00:00:00:42:02 dev vx0",
    ):  # fmt: skip
        run(*line.split())
    for line in (
        "ip link add br0 type bridge forward_delay 0", "ip link set eth0 master br0", "ip link set br0 up",
        "ip address add 10.9.7.2/24 dev br0",
    ):  # fmt: skip
        run(*line.split(), netns="ana")
    file = tmp_path / "a.pcapng"
    with Recv("--vxlan", 4789, "-w", file) as recv, Capture("vx0", outgoing=True) as inner:
        run("ping", "-q", "-c", 20, "-i", 0.01, "-W", 1, "-s", 1400, "10.42.0.2", check=False)
        echoes = [frame for frame in inner.settle() if frame[12:14] == b"\x08\x00"]
        recv.stop()
    got = [frame.octets for frame in frames(file) if frame.octets[12:14] == b"\x08\x00"]
    assert got == echoes
    assert len(echoes) == 20
    run("ip", "link", "delete", "vx0")
    run("ip", "link", "delete", "br0", netns="ana")


def test_a_pipe_and_its_end(tmp_path: Path) -> None:
    """As in `sniffer recv -w - | wireshark -k -i -`; the reader goes first."""
    line = command("ana", SNIFFER, "recv", "--gre", "--json", "-w", "-")
    recv = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert recv.stdout
    assert recv.stderr
    tshark = subprocess.Popen(
        ["tshark", "-n", "-l", "-i", "-", "-c", "2", "-T", "fields", "-e", "frame.len"],
        stdin=recv.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(tmp_path)},
    )  # fmt: skip
    recv.stdout.close()
    assert b"receiving" in recv.stderr.readline()
    wire(packet(gre(1), FRAME), packet(gre(1), FRAME + b"\0"))
    said, _ = tshark.communicate(timeout=20)
    assert said.split() == [str(len(FRAME)).encode(), str(len(FRAME) + 1).encode()]
    try:
        wait_until(lambda: wire(packet(gre(1), FRAME)) or recv.poll() is not None, 20, every=0.1)
    finally:
        recv.kill()
    assert recv.returncode == 0
    assert json.loads(recv.stderr.read())["frames"] >= 2


def test_a_link_that_goes_down_and_comes_up() -> None:
    """It waits meanwhile, and does not ask all the time whether the link is there again."""
    with Recv("--gre", "-i", "eth0") as recv:
        run("ip", "link", "set", "eth0", "down", netns="ana")
        wait_until(recv.is_idle, 2)
        run("ip", "link", "set", "eth0", "up", netns="ana")
        run("ip", "address", "add", "fd00:9::2/64", "dev", "eth0", "nodad", netns="ana", check=False)
        wait_until(lambda: "LOWER_UP" in run("ip", "link", "show", "up0"))
        wire(packet(gre(1), FRAME))
        wait_until(recv.is_idle)
        assert recv.stop()["frames"] == 1


def test_fast_enough_or_says_what_it_dropped(tmp_path: Path) -> None:
    """20 microseconds of CPU for a packet are 50,000 packets a second; how many the machine has free is its own."""
    count = 60_000
    frame = bytes([2] * 12) + b"\x88\xb5" + bytes(400)
    head = ETHERNET + b"\x08\x00" + packet(gre(1, 0), frame)
    at = head.index(b"\x30\x00\x65\x58") + 8
    burst = (head[:at] + number.to_bytes(4) + head[at + 4 :] for number in range(count))
    with Recv("--gre", "-w", tmp_path / "a.pcapng", "--buffer", 64) as recv:
        send(burst, "up0", netns=None)
        time.sleep(0.2)
        wait_until(recv.is_idle, 20)
        row = recv.stop()
    (tunnel,) = row["tunnels"]
    dropped = row["dropped"]["ring"]
    assert row["frames"] + dropped == count, row
    assert tunnel["sequence"]["lost"] <= dropped, row
    assert row["frames"] > count * 0.9, row
    assert recv.usage / row["frames"] < 20e-6, recv.usage


def test_what_it_drops_it_counts() -> None:
    """One block of memory, and a reader that sleeps."""
    reader, writer = os.pipe()
    frame = bytes([2] * 12) + b"\x88\xb5" + bytes(8000)
    with Recv("--gre", "-w", "-", "--buffer", 1, stdout=writer) as recv:
        os.close(writer)
        wire(*(packet(gre(1, number), frame) for number in range(1000)))
        time.sleep(0.3)
        drain = start("cat", stdin=reader)
        os.close(reader)
        row = recv.stop()
        assert drain.wait(10) == 0
    assert row["dropped"]["ring"] > 500
    assert row["frames"] + row["dropped"]["ring"] == 1000


def test_the_disk_is_full() -> None:
    """E6: at the analyzer; an agent writes to none."""
    line = command("ana", SNIFFER, "recv", "--gre", "-w", "/dev/full")
    done = subprocess.run(line, capture_output=True, text=True, timeout=20)
    assert done.returncode == 3
    assert "write of the capture file: ENOSPC" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "given no tunnel, allowed one or more of --vxlan PORT"),
        (("--vxlan", 0), "--vxlan: given 0, allowed a UDP port, 1 to 65535"),
        (("--geneve", 65536), "--geneve: given 65536, allowed"),
        (("--vxlan", 4789, "--geneve", 4789), "--geneve: given 4789, allowed a port that --vxlan has not"),
        (("--gre", "-i", "nowhere\n"), r'--interface: given "nowhere\n", allowed one of lo, '),
        (("--gre", "-w", "/nowhere/a"), '--write: given "/nowhere/a", allowed a file to write: No such file'),
        (("--gre", "--count", 0), "--count: given 0, allowed 1 or more"),
        (("--gre", "--duration", "nan"), "--duration: given nan, allowed more than 0 seconds"),
        (("--gre", "--buffer", 0), "--buffer: given 0, allowed 1 to 4096 MiB"),
    ],
)
def test_bad_input(words: tuple[object, ...], said: str) -> None:
    done = sniffer("recv", *words, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
