"""kernel/relay.py: the pair is made, mended, silent, and cuts whatever crosses it into plain frames."""

import json
import platform
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf, relay
from sniffer.kernel.netlink import Netlink
from tests.topology import run, set_sysctl

ALIAS = "sniffer relay of /sys/fs/bpf/test"
FRAGS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "GPL";
SEC("xdp.frags") int ring(struct xdp_md *context) { return XDP_PASS; }
SEC("xdp") int whole(struct xdp_md *context) { return XDP_PASS; }
"""
STAYS = {"tx-scatter-gather", "tx-scatter-gather-fraglist", "scatter-gather", "highdma"}


def sh(line: str, netns: str | None = None) -> str:
    return run(*line.split(), netns=netns)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bpf.Object]:
    directory = tmp_path_factory.mktemp("relay")
    (directory / "ring.c").write_text(FRAGS)
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    words = ("-O2", "-g", "-target", "bpf", "-mcpu=v2", include, "-c", directory / "ring.c", "-o", directory / "ring.o")
    run("clang-19", *words)
    with bpf.Object.open(directory / "ring.o") as opened:
        yield opened


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened
    for name in (relay.TX, relay.RX):
        run("ip", "link", "delete", name, check=False)


def switched_on(name: str) -> set[str]:
    """Offloads that are on and could be off, as ethtool sees them."""
    (features,) = json.loads(run("ethtool", "--json", "-k", name))
    states = {feature: state for feature, state in features.items() if isinstance(state, dict)}
    return {feature for feature, state in states.items() if state["active"] and not state["fixed"]} - STAYS


def details(name: str) -> dict[str, object]:
    (found,) = json.loads(run("ip", "-d", "-j", "link", "show", name))
    return dict(found)


def test_the_relay_is_made_and_all_is_off(netlink: Netlink) -> None:
    assert netlink.relay() is None
    made = netlink.create_relay(ALIAS)
    assert netlink.relay() == made
    assert netlink.relay(ALIAS) == made
    assert made.ring is None
    for name, index in ((relay.TX, made.sender), (relay.RX, made.receiver)):
        assert not switched_on(name)
        found = details(name)
        assert (found["ifindex"], found["mtu"], found["ifalias"]) == (index, 65535, ALIAS)
        assert set(found["flags"]) == {"BROADCAST", "NOARP", "UP", "LOWER_UP"}  # type: ignore[call-overload]
        assert (found["inet6_addr_gen_mode"], found["num_tx_queues"], found["num_rx_queues"]) == ("none", 1, 1)
    assert netlink.create_relay(ALIAS) == made
    assert netlink.delete_relay()
    assert not netlink.delete_relay()
    assert netlink.relay() is None


DAMAGE = {
    "mtu": "ip link set sniffer-tx mtu 1500",
    "down": "ip link set sniffer-rx down",
    "arp": "ip link set sniffer-rx arp on",
    "multicast": "ip link set sniffer-tx multicast on",
    "segmentation": "ethtool -K sniffer-tx tso on",
    "gro": "ethtool -K sniffer-rx gro on",
    "checksums": "ethtool -K sniffer-tx tx on",
    "addresses": "ip link set sniffer-rx addrgenmode eui64",
    "bridge": "ip link set sniffer-tx master br7",
    "alias": "ip link set sniffer-tx alias",
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_relay_is_mended(netlink: Netlink, what: str) -> None:
    made = netlink.create_relay(ALIAS)
    run("ip", "link", "add", "br7", "type", "bridge")
    run(*DAMAGE[what].split(), *([""] if what == "alias" else []))
    assert netlink.relay() is None
    assert netlink.create_relay(ALIAS) == made
    assert netlink.relay() == made
    run("ip", "link", "delete", "br7")


def test_half_a_relay_is_mended(netlink: Netlink) -> None:
    """Killed right after the pair was made."""
    run("ip", "link", "add", relay.TX, "type", "veth", "peer", "name", relay.RX)
    assert netlink.relay() is None
    netlink.create_relay(ALIAS)
    assert netlink.relay() is not None


TORN = {
    "renamed": ["ip link set sniffer-rx name gone"],
    "both renamed": ["ip link set sniffer-rx name gone", "ip link set sniffer-tx name lost"],
    "moved": ["ip netns add far", "ip link set sniffer-tx netns far"],
}


@pytest.mark.parametrize("what", TORN)
@pytest.mark.parametrize("mended", [True, False])
def test_a_relay_that_is_no_pair_any_more(netlink: Netlink, what: str, mended: bool) -> None:
    """It is made anew, or removed, and nothing is left of the former one."""
    before = {link.name for link in netlink.links()}
    made = netlink.create_relay(ALIAS)
    for end in (relay.RX, relay.TX):
        sh(f"ip link set {end} down")
    for line in TORN[what]:
        sh(line)
    assert netlink.relay(ALIAS) is None
    if mended:
        again = netlink.create_relay(ALIAS)
        assert netlink.relay(ALIAS) == again != made
        assert {link.name for link in netlink.links()} == before | {relay.TX, relay.RX}
    assert netlink.delete_relay(ALIAS)
    assert {link.name for link in netlink.links()} == before
    if what == "moved":
        assert "veth" not in run("ip", "-d", "link", netns="far")
        sh("ip netns delete far")


@pytest.mark.parametrize(
    "words",
    [
        "link add sniffer-tx type bridge",
        "link add sniffer-rx type veth peer name other0",
        "link add sniffer-tx type veth peer name other0",
        "link add sniffer-rx type bridge; link add sniffer-tx link sniffer-rx type macvlan",
    ],
)
def test_a_link_of_somebody_else_with_our_name_is_left_alone(netlink: Netlink, words: str) -> None:
    for line in words.split(";"):
        sh(f"ip {line}")
    before = run("ip", "-d", "link")
    for attempt in (netlink.relay, netlink.delete_relay, lambda: netlink.create_relay(ALIAS)):
        with pytest.raises(MachineError, match="not this sniffer's relay"):
            attempt()
    assert run("ip", "-d", "link") == before


def test_the_relay_of_another_pin_root_is_left_alone(netlink: Netlink) -> None:
    netlink.create_relay("sniffer relay of elsewhere")
    with pytest.raises(MachineError, match="sniffer relay of elsewhere"):
        netlink.create_relay(ALIAS)
    with pytest.raises(MachineError):
        netlink.relay(ALIAS)
    assert netlink.relay() is not None
    run("ip", "link", "set", relay.TX, "alias", "mine")
    with pytest.raises(MachineError):
        netlink.delete_relay()


@pytest.mark.parametrize("ring", [False, True])
def test_the_relay_is_silent(netlink: Netlink, programs: bpf.Object, ring: bool) -> None:
    """With IPv6 as a distribution sets it up, from before it exists and for seconds after: not one frame."""
    for group in ("all", "default"):
        set_sysctl(f"net.ipv6.conf.{group}.disable_ipv6", 0)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as capture:
        made = netlink.create_relay(ALIAS)
        if ring:
            netlink.attach_xdp(made.receiver, programs.program("ring").fd)
        run("ip", "link", "add", "loud0", "type", "veth", "peer", "name", "loud1")
        for name in ("loud0", "loud1"):
            run("ip", "link", "set", name, "up")
        time.sleep(3)
        capture.setblocking(False)
        heard: set[str] = set()
        try:
            while True:
                _, source = capture.recvfrom(65536)
                heard.add(source[0])
        except BlockingIOError:
            pass
        run("ip", "link", "delete", "loud0")
    assert heard & {"loud0", "loud1"}  # an ordinary pair does speak, and we do hear
    assert not heard & {relay.TX, relay.RX}


def test_the_ring_comes_without_gro(netlink: Netlink, programs: bpf.Object) -> None:
    made = netlink.create_relay(ALIAS)
    program = programs.program("ring")
    netlink.attach_xdp(made.receiver, program.fd)
    assert details(relay.RX)["xdp"]["prog"]["id"] == program.id  # type: ignore[index]
    assert details(relay.RX)["xdp"]["mode"] == 1  # type: ignore[index] # native, not generic
    assert not switched_on(relay.RX)
    assert not switched_on(relay.TX)
    found = netlink.relay()
    assert found is not None
    assert found.ring == program.id
    netlink.attach_xdp(made.receiver, program.fd)
    assert netlink.relay() == found
    with pytest.raises(KernelError, match="XDP of sniffer-rx"):
        netlink.attach_xdp(made.receiver, programs.program("whole").fd)  # not for frames of this MTU
    netlink.attach_xdp(made.receiver, None)
    assert netlink.relay() == made
    assert not switched_on(relay.RX)


def test_a_kernel_that_switches_gro_on_with_the_program(
    netlink: Netlink, programs: bpf.Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some do, this one does not: the stand-in does it for them."""
    made = netlink.create_relay(ALIAS)
    change = netlink.change

    def as_they_do(*arguments: object, **options: object) -> None:
        change(*arguments, **options)  # type: ignore[arg-type]
        sh("ethtool -K sniffer-rx gro on")

    monkeypatch.setattr(netlink, "change", as_they_do)
    netlink.attach_xdp(made.receiver, programs.program("ring").fd)
    assert not switched_on(relay.RX)
    assert netlink.relay() is not None


def test_attaching_leaves_the_offloads_of_others(netlink: Netlink, programs: bpf.Object) -> None:
    sh("ip link add other0 type veth peer name other1")
    sh("ethtool -K other0 gro on tso off")
    before = switched_on("other0")
    netlink.attach_xdp(socket.if_nametoindex("other0"), programs.program("ring").fd)
    assert switched_on("other0") == before
    sh("ip link del other0")


def test_xdp_on_an_interface_that_is_gone(netlink: Netlink, programs: bpf.Object) -> None:
    with pytest.raises(KernelError, match="XDP of ifindex 4711: ENODEV"):
        netlink.attach_xdp(4711, programs.program("ring").fd)


def capture_of(name: str) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    opened.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    opened.bind((name, 3))
    opened.settimeout(0.5)
    return opened


def arrived(capture: socket.socket) -> list[bytes]:
    frames = []
    try:
        while True:
            frames.append(capture.recv(1 << 17))
    except TimeoutError:
        return frames


def super_packet(payload: bytes, segment: int) -> bytes:
    """A TCP packet over IPv4 for a socket with PACKET_VNET_HDR, to be cut into `segment` bytes of payload, its
    checksum left to whoever cuts it: what a local sender hands to its device."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + len(payload), 1, 0x4000, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    ip = ip[:10] + struct.pack("!H", 0xFFFF - folded(ip)) + ip[12:]
    pseudo = ip[12:20] + struct.pack("!HH", 6, 20 + len(payload))
    tcp = struct.pack("!HHIIBBHHH", 4000, 80, 1, 1, 0x50, 0x10, 1000, folded(pseudo), 0)
    header = struct.pack("=BBHHHH", 1, 1, 54, segment, 34, 16)  # needs a checksum, TCPv4, where both are
    return header + bytes(12) + b"\x08\x00" + ip + tcp + payload


def folded(data: bytes) -> int:
    """The one's complement sum of 16-bit words."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def sound(frame: bytes) -> bool:
    """Whether both checksums of a TCP frame are right."""
    ip, segment = frame[14:34], frame[34:]
    return folded(ip) == folded(ip[12:20] + struct.pack("!HH", 6, len(segment)) + segment) == 0xFFFF


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("gro", [False, True])
def test_a_super_packet_is_cut_and_never_merged_again(
    netlink: Netlink, programs: bpf.Object, ring: bool, gro: bool
) -> None:
    """With GRO switched on again, the control, the kernel does merge what it cut a moment before."""
    made = netlink.create_relay(ALIAS)
    if ring:
        netlink.attach_xdp(made.receiver, programs.program("ring").fd)
    if gro:
        run("ethtool", "-K", relay.RX, "gro", "on")
    payload = bytes(n % 251 for n in range(50_000))
    with capture_of(relay.RX) as capture, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        sender.bind((relay.TX, 0))
        for _ in range(5):
            sender.send(super_packet(payload, 1000))
        frames = arrived(capture)
    if gro:
        assert len(frames) < 50
        return
    assert [len(frame) for frame in frames] == [1054] * 250
    assert b"".join(frame[54:] for frame in frames) == payload * 5
    assert all(sound(frame) for frame in frames)


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("size", [15, 60, 1514, 3800, 4000, 9014, 16000, 32000, 65000, 65549])
def test_a_frame_of_any_size_crosses_whole(netlink: Netlink, programs: bpf.Object, size: int, ring: bool) -> None:
    made = netlink.create_relay(ALIAS)
    if ring:
        netlink.attach_xdp(made.receiver, programs.program("ring").fd)
    frame = bytes(12) + b"\x88\xb5" + bytes(n % 251 for n in range(size - 14))
    with capture_of(relay.RX) as capture, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((relay.TX, 0))
        sender.send(frame)
        assert arrived(capture) == [frame]
