"""kernel/netlink.py: links, routes, neighbours, events, against the kernel. The namespace `wire` is the network."""

import os
import select
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.errors import KernelError
from sniffer.kernel import rtnetlink
from sniffer.kernel.netlink import Netlink
from sniffer.plan.facts import PathState
from tests.topology import run, set_sysctl, wait_until


def sh(line: str, netns: str | None = None) -> str:
    return run(*line.split(), netns=netns)


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    with Netlink() as opened:
        yield opened


@pytest.fixture
def uplink() -> Iterator[str]:
    """up0 10.9.0.1/24, its other end 10.9.0.2 in the namespace `wire`."""
    run("ip", "netns", "add", "wire")
    for netns in (None, "wire"):  # an address of IPv6 that is made sure of is an event, a second later
        set_sysctl("net.ipv6.conf.default.accept_dad", 0, netns)
    run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", "wire")
    for words, netns in (("addr add 10.9.0.1/24 dev up0", None), ("addr add 10.9.0.2/24 dev eth0", "wire")):
        run("ip", *words.split(), netns=netns)
    for device, netns in (("up0", None), ("eth0", "wire")):
        run("ip", "link", "set", device, "up", netns=netns)
    yield "up0"
    run("ip", "link", "delete", "up0")
    run("ip", "netns", "delete", "wire")


def index_of(name: str) -> int:
    return socket.if_nametoindex(name)


def test_links_as_they_are(netlink: Netlink, uplink: str) -> None:
    """D8: a name with a dot and of 15 characters."""
    sh("ip link add near.0123456789 mtu 1400 type veth peer name far0")
    sh("ip link add br7 mtu 1400 type bridge")
    run("ip", "link", "set", "near.0123456789", "master", "br7", "alias", "some words")
    try:
        links = {link.name: link for link in netlink.links()}
    finally:
        run("ip", "link", "delete", "br7")
        run("ip", "link", "delete", "far0")
    loopback, up, near, far, bridge = (links[name] for name in ("lo", "up0", "near.0123456789", "far0", "br7"))
    assert (loopback.kind, loopback.arphrd, loopback.up, loopback.mtu) == (None, 772, True, 65536)
    assert (up.kind, up.arphrd, up.up, up.mtu, up.alias, up.master) == ("veth", 1, True, 1500, None, None)
    assert up.index == index_of("up0")
    assert up.address.hex(":") == Path("/sys/class/net/up0/address").read_text().strip()
    assert up.lower is None  # its peer is in another namespace: the index says nothing here
    assert (near.kind, near.alias, near.lower, near.master) == ("veth", "some words", far.index, bridge.index)
    assert (bridge.kind, bridge.up, bridge.mtu) == ("bridge", False, 1400)  # the least of its ports
    assert list(links.values()) == sorted(links.values(), key=lambda link: link.index)


def test_a_thousand_links_are_quick(netlink: Netlink) -> None:
    """D16"""
    many = range(500)
    pairs = "".join(f"link add a{n} group 77 type veth peer name b{n} group 77\n" for n in many)
    run("ip", "-batch", "-", stdin=pairs)
    try:
        durations = []
        for _ in range(5):
            start = time.perf_counter()
            links = netlink.links()
            durations.append(time.perf_counter() - start)
    finally:
        run("ip", "link", "delete", "group", 77)
    by_name = {link.name: link for link in links}
    assert all(by_name[f"a{n}"].lower == by_name[f"b{n}"].index for n in many)
    assert min(durations) < 0.05


def test_a_path_on_the_link_and_through_a_gateway(netlink: Netlink, uplink: str) -> None:
    run("ip", "route", "add", "10.50.0.0/16", "via", "10.9.0.2")
    run("ping", "-c1", "-W2", "10.9.0.2")
    path = netlink.path_to("10.9.0.2")
    assert (path.state, path.device, path.ifindex) == (PathState.REACHABLE, "up0", index_of("up0"))
    assert (path.source, path.nexthop, path.mtu, path.local) == ("10.9.0.1", "10.9.0.2", 1500, False)
    path = netlink.path_to("10.50.3.4")
    assert (path.address, path.state, path.nexthop, path.source) == (
        "10.50.3.4",
        PathState.REACHABLE,
        "10.9.0.2",
        "10.9.0.1",
    )


def test_paths_over_ipv6(netlink: Netlink, uplink: str) -> None:
    """On the link, by a gateway that has only a link-local address, by metric; ours, and nobody's."""
    for address, device, netns in (("fd00:9::1", "up0", None), ("fd00:9::2", "eth0", "wire")):
        for own in (address, address.replace("fd00:9", "fe80")):
            run("ip", "address", "add", f"{own}/64", "dev", device, "nodad", netns=netns)
    assert netlink.path_to("fd00:9::2").state == PathState.UNREACHABLE
    netlink.probe_neighbour(index_of("up0"), "fd00:9::2")
    wait_until(lambda: netlink.path_to("fd00:9::2").state == PathState.REACHABLE, 2)
    path = netlink.path_to("fd00:9::2")
    assert (path.source, path.nexthop, path.mtu, path.local) == ("fd00:9::1", "fd00:9::2", 1500, False)
    sh("ip -6 route add fd00:50::/32 via fe80::2 dev up0 mtu 1400")
    netlink.probe_neighbour(index_of("up0"), "fe80::2")
    wait_until(lambda: netlink.path_to("fd00:50::7").state == PathState.REACHABLE, 2)
    path = netlink.path_to("fd00:50::7")
    assert (path.source, path.nexthop, path.mtu, path.carried()) == ("fd00:9::1", "fe80::2", 1400, path)
    assert netlink.path_to("fd00:9::1").local
    sh("ip -6 route add unreachable fd00:60::/32")
    for address in ("fd00:60::1", "fd00:61::1"):
        assert netlink.path_to(address).state == PathState.NO_ROUTE


def test_a_gateway_of_the_other_family(netlink: Netlink, uplink: str) -> None:
    run("ip", "route", "add", "10.51.0.0/16", "via", "inet6", "fe80::77", "dev", "up0")
    assert netlink.path_to("10.51.0.1").state == PathState.UNREACHABLE
    run("ip", "neigh", "add", "fe80::77", "lladdr", "02:00:00:00:00:77", "dev", "up0")
    path = netlink.path_to("10.51.0.1")
    assert (path.state, path.nexthop) == (PathState.REACHABLE, "fe80::77")


def test_the_source_of_a_route(netlink: Netlink, uplink: str) -> None:
    run("ip", "addr", "add", "10.9.0.77/32", "dev", "up0")
    run("ip", "route", "add", "10.52.0.0/16", "via", "10.9.0.2", "src", "10.9.0.77")
    assert netlink.path_to("10.52.0.1").source == "10.9.0.77"


@pytest.mark.parametrize("route", ["", "blackhole", "unreachable", "prohibit", "throw"])
def test_no_route(netlink: Netlink, uplink: str, route: str) -> None:
    if route:
        run("ip", "route", "add", route, "10.60.0.0/16")
    try:
        path = netlink.path_to("10.60.0.1")
    finally:
        run("ip", "route", "flush", "10.60.0.0/16")
    assert (path.address, path.state, path.ifindex) == ("10.60.0.1", PathState.NO_ROUTE, 0)


def test_a_broadcast_address_is_no_route(netlink: Netlink, uplink: str) -> None:
    assert netlink.path_to("10.9.0.255").state == PathState.NO_ROUTE


def test_a_link_that_is_down_or_unplugged_is_no_route(netlink: Netlink, uplink: str) -> None:
    run("ip", "neigh", "add", "10.9.0.9", "lladdr", "02:00:00:00:00:09", "dev", "up0")
    assert netlink.path_to("10.9.0.9").state == PathState.REACHABLE
    run("ip", "link", "set", "eth0", "down", netns="wire")
    wait_until(lambda: netlink.path_to("10.9.0.9").state == PathState.NO_ROUTE)
    run("ip", "link", "set", "eth0", "up", netns="wire")
    wait_until(lambda: netlink.path_to("10.9.0.9").state == PathState.REACHABLE)
    run("ip", "link", "set", "up0", "down")
    assert netlink.path_to("10.9.0.9").state == PathState.NO_ROUTE


def test_the_mtu_is_the_routes_never_more_than_the_links(netlink: Netlink, uplink: str) -> None:
    run("ip", "route", "add", "10.61.0.0/16", "via", "10.9.0.2", "mtu", "1300")
    run("ip", "route", "add", "10.62.0.0/16", "via", "10.9.0.2", "mtu", "9000")
    run("ip", "route", "add", "10.63.0.0/16", "via", "10.9.0.2")
    assert netlink.path_to("10.61.0.1").mtu == 1300
    assert netlink.path_to("10.62.0.1").mtu == 1500
    run("ip", "link", "set", "up0", "mtu", "1400")
    assert netlink.path_to("10.63.0.1").mtu == 1400


@pytest.mark.parametrize("address", ["10.9.0.1", "127.0.0.1"])
def test_our_own_address_is_local(netlink: Netlink, uplink: str, address: str) -> None:
    assert netlink.path_to(address).local


def test_a_device_without_neighbours_is_reachable(netlink: Netlink, uplink: str) -> None:
    run("ip", "link", "set", "up0", "arp", "off")
    assert netlink.path_to("10.9.0.200").state == PathState.REACHABLE


def test_a_neighbour_comes_goes_and_comes_back(netlink: Netlink, uplink: str) -> None:
    """From nothing to reachable by one probe; a silent one ends FAILED; it comes back by another probe."""
    device = index_of("up0")
    run("sysctl", "-qw", "net.ipv4.neigh.up0.retrans_time_ms=20")
    assert netlink.path_to("10.9.0.2").state == PathState.UNREACHABLE
    netlink.probe_neighbour(device, "10.9.0.2")
    wait_until(lambda: netlink.path_to("10.9.0.2").state == PathState.REACHABLE, 1)
    netlink.probe_neighbour(device, "10.9.0.2")
    assert netlink.path_to("10.9.0.2").state == PathState.REACHABLE

    run("ip", "link", "set", "eth0", "arp", "off", netns="wire")  # silent from now on
    run("ip", "neigh", "flush", "dev", "up0")
    assert netlink.path_to("10.9.0.2").state == PathState.UNREACHABLE
    netlink.probe_neighbour(device, "10.9.0.2")
    wait_until(lambda: "FAILED" in run("ip", "neigh", "show", "10.9.0.2", "dev", "up0"))
    assert netlink.path_to("10.9.0.2").state == PathState.UNREACHABLE

    run("ip", "link", "set", "eth0", "arp", "on", netns="wire")
    netlink.probe_neighbour(device, "10.9.0.2")
    wait_until(lambda: netlink.path_to("10.9.0.2").state == PathState.REACHABLE, 1)
    assert "PERMANENT" not in run("ip", "neigh", "show", "10.9.0.2", "dev", "up0")


def test_a_stale_neighbour_stays_reachable_and_is_made_sure_of(netlink: Netlink, uplink: str) -> None:
    """The analyzer has a new MAC address: the kernel's unicast probes fail, then it asks everybody."""
    sh("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 nud stale dev up0")
    for name in ("delay_first_probe_time=0", "retrans_time_ms=20"):
        run("sysctl", "-qw", f"net.ipv4.neigh.up0.{name}")
    assert netlink.path_to("10.9.0.2").state == PathState.REACHABLE
    netlink.probe_neighbour(index_of("up0"), "10.9.0.2")
    wait_until(lambda: netlink.path_to("10.9.0.2").state == PathState.UNREACHABLE, 2)
    netlink.probe_neighbour(index_of("up0"), "10.9.0.2")
    wait_until(lambda: netlink.path_to("10.9.0.2").state == PathState.REACHABLE, 2)
    true = run("ip", "-br", "link", "show", "eth0", netns="wire").split()[2]
    assert true in sh("ip neigh show 10.9.0.2 dev up0")


def test_a_probe_where_there_is_no_link(netlink: Netlink) -> None:
    with pytest.raises(KernelError, match=r"RTM_NEWNEIGH of 10\.9\.0\.2: ENODEV"):
        netlink.probe_neighbour(4711, "10.9.0.2")


EVENTS = {
    "a link is made": "ip link add new0 type bridge",
    "a link goes up": "ip link set up0 promisc on",
    "an alias": "ip link set up0 alias x",
    "a link vanishes": "ip link del spare0",
    "an address": "ip addr add 10.9.1.1/24 dev up0",
    "a route": "ip route add 10.70.0.0/16 via 10.9.0.2",
    "a rule": "ip rule add from 1.2.3.4 table 7",
    "an address of IPv6": "ip addr add fd00:77::1/64 dev up0 nodad",
    "a route of IPv6": "ip -6 route add fd00:70::/32 dev up0",
    "a rule of IPv6": "ip -6 rule add from fd00:1::/64 table 7",
    "a nexthop object": "ip nexthop add id 7 via 10.9.0.2 dev up0",
    "a neighbour": "ip neigh add 10.9.0.7 lladdr 02:00:00:00:00:07 dev up0",
    "a qdisc": "tc qdisc add dev up0 clsact",
    "a link is renamed": "ip link set spare0 name spare1",
}


@pytest.mark.parametrize("what", EVENTS)
def test_an_event_wakes_within_a_tenth_of_a_second(netlink: Netlink, uplink: str, what: str) -> None:
    """D1, D9"""
    run("ip", "link", "add", "spare0", "type", "bridge")
    socket_ = netlink.monitor()
    with socket_, selectors.DefaultSelector() as selector:
        selector.register(socket_, selectors.EVENT_READ)
        time.sleep(0.05)
        netlink.drain(socket_)
        assert not netlink.drain(socket_)
        run(*EVENTS[what].split())
        assert selector.select(0.1)
        assert netlink.drain(socket_)
        time.sleep(0.02)
        netlink.drain(socket_)
        assert not selector.select(0)
    for undo in (
        "ip link del new0",
        "ip link del spare0",
        "ip link del spare1",
        "ip rule del table 7",
        "ip -6 rule del table 7",
    ):
        run(*undo.split(), check=False)


def test_asking_wakes_nobody(netlink: Netlink, uplink: str) -> None:
    """The loop looks at the node after each event: if looking made events, it would never end."""
    run("tc", "qdisc", "add", "dev", "up0", "clsact")
    netlink.create_relay("sniffer test")
    run("ping", "-c1", "-W2", "10.9.0.2")
    with netlink.monitor() as events:
        time.sleep(0.05)
        netlink.drain(events)
        netlink.links()
        netlink.path_to("10.9.0.2")
        netlink.path_to("10.250.0.2")
        netlink.ingress_qdiscs()
        netlink.relay()
        for direction in (0, 1):
            netlink.filters(index_of("up0"), direction)  # type: ignore[arg-type]
        netlink.create_relay("sniffer test")
        time.sleep(0.02)
        assert not netlink.drain(events)
    netlink.delete_relay()


def test_a_bridge_that_learns_wakes_nobody(netlink: Netlink, uplink: str) -> None:
    run("ip", "link", "add", "br7", "type", "bridge")
    run("ip", "link", "set", "up0", "master", "br7")
    with netlink.monitor() as events:
        time.sleep(0.05)
        netlink.drain(events)
        run("bridge", "fdb", "add", "02:00:00:00:00:55", "dev", "up0", "master", "static")
        time.sleep(0.02)
        assert select.select([events], [], [], 0)[0]
        assert not netlink.drain(events)
    run("ip", "link", "delete", "br7")


def test_lost_events_count_as_events(netlink: Netlink, uplink: str) -> None:
    """D16: an overflow (ENOBUFS) is noticed, and the socket is good again after it."""
    sh("ip link add br7 type bridge")
    sh("ip link set up0 master br7")

    def overflow() -> None:
        """By events that would not matter if none were lost."""
        lines = (f"fdb {verb} 02:00:00:00:00:55 dev up0 master static\n" for verb in ("add", "del"))
        run("bridge", "-batch", "-", stdin="".join(lines) * 100)

    with netlink.monitor() as events:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        time.sleep(0.05)
        netlink.drain(events)
        overflow()
        with pytest.raises(OSError, match="No buffer space"):  # so it is real
            events.recv(1 << 16)
        assert not netlink.drain(events)  # what was left in the socket does not matter
        overflow()
        assert netlink.drain(events)
        assert not netlink.drain(events)
        run("ip", "link", "set", "up0", "alias", "z")
        assert netlink.drain(events)
    sh("ip link delete br7")


def test_a_list_that_changed_meanwhile_is_asked_for_again(netlink: Netlink, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [([b"torn"], True), ([b"whole"], False)]
    monkeypatch.setattr(netlink.questions, "_exchange", lambda *_: answers.pop(0))
    assert netlink.questions.dump("x", 0, b"") == [b"whole"]


def test_the_kernels_own_words_are_in_the_error(netlink: Netlink, uplink: str) -> None:
    body = struct.pack("=BxxxiIII", 0, index_of(uplink), 0, 0xFFFFFFF1, 0)
    with pytest.raises(KernelError, match="the qdisc: ENOENT: Cannot find specified qdisc on specified device"):
        netlink.questions.ask("the qdisc", rtnetlink.GET_QDISC, body)
    with pytest.raises(KernelError, match="a bridge of nothing: ENODEV"):
        netlink.change("a bridge of nothing", "link", "set", index=4711, master=4712)


def test_nothing_leaks() -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Netlink() as netlink:
        before = opened()
        for _ in range(1000):
            netlink.links()
            netlink.path_to("127.0.0.1")
            netlink.path_to("10.250.0.2")
            netlink.offloads("lo")
            netlink.monitor().close()
        assert opened() == before
    Netlink().close()
    before = opened()
    for _ in range(100):
        Netlink().close()
    assert opened() == before
