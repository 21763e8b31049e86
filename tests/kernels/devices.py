"""What the kernel's own tunnel devices make of copies: gretap, erspan, geneve, vxlan, over IPv4 and over IPv6, of a
kernel that has them. tests/kernels/run runs it.

The corpus goes through all of them at once. None of the devices asks for numbers in order: fast and slow path overtake
each other (docs/adr/0015).
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agent import Agent, Status, mirror, sniffer, target
from tests.kernels.suite import FRAMES, PATIENCE_S
from tests.mirrored import difference, drained
from tests.receivers import kernel_takes
from tests.topology import node, run, set_sysctl
from tests.wire import Capture, send

NODE, ANALYZER = ("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2")
FOUR, SIX = (f"local {ANALYZER[n]} remote {NODE[n]}" for n in range(2))
TYPE2, TYPE3 = "erspan_ver 1 erspan 1", "erspan_ver 2 erspan_dir ingress erspan_hwid 1"
DEVICES = {
    "gretap": (0, {"gre": {"sequence": True}}, f"gretap {FOUR}"),
    "gretap-key": (0, {"gre": {"key": 5, "sequence": True}}, f"gretap {FOUR} key 5"),
    "geneve": (0, {"geneve": {"vni": 501}}, f"geneve id 501 remote {NODE[0]}"),
    "erspan2": (0, {"erspan": {"version": 2, "sessionId": 506}}, f"erspan {FOUR} oseq key 506 {TYPE2}"),
    "erspan3": (0, {"erspan": {"version": 3, "sessionId": 1023}}, f"erspan {FOUR} oseq key 1023 {TYPE3}"),
    "vxlan6": (
        1,
        {"vxlan": {"vni": 603}},
        f"vxlan id 603 dstport 4789 local {ANALYZER[1]} dev eth0 nolearning udp6zerocsumrx",
    ),
    "geneve6": (1, {"geneve": {"vni": 601}}, f"geneve id 601 remote {NODE[1]} udp6zerocsumrx"),
    "ip6gretap": (1, {"gre": {"key": 605}}, f"ip6gretap {SIX} key 605"),
    "ip6gretap-s": (1, {"gre": {"key": 606, "sequence": True}}, f"ip6gretap {SIX} key 606"),
    "ip6erspan2": (1, {"erspan": {"version": 2, "sessionId": 607}}, f"ip6erspan {SIX} oseq key 607 {TYPE2}"),
    "ip6erspan3": (1, {"erspan": {"version": 3, "sessionId": 608}}, f"ip6erspan {SIX} oseq key 608 {TYPE3}"),
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with node():
        for device, netns, address in (("up0", None, NODE[1]), ("eth0", "ana", ANALYZER[1])):
            set_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 0, netns)
            for own in (address, address.replace("fd00:9", "fe80")):
                run("ip", "address", "add", f"{own}/64", "dev", device, "nodad", netns=netns)
        running = Agent(tmp_path_factory.mktemp("agent"), Path("/sys/fs/bpf/sniffer"))
        try:
            running.start(PATIENCE_S)
            yield running
        finally:
            running.stop(PATIENCE_S)
            print(running.log.read_text())
            sniffer("cleanup")


@pytest.fixture(scope="module")
def devices() -> None:
    for number, (_, _, kind) in enumerate(DEVICES.values()):
        run("ip", "link", "add", f"dev{number}", "mtu", 9000, "type", *kind.split(), netns="ana")
        set_sysctl(f"net.ipv6.conf.dev{number}.disable_ipv6", 1, "ana")
        run("ip", "link", "set", f"dev{number}", "up", netns="ana")
    for family, words in (("ipv4", "ipfrag"), ("ipv6", "ip6frag")):
        set_sysctl(f"net.{family}.{words}_high_thresh", 64 << 20, "ana")


def wait_for(agent: Agent, names: set[str]) -> None:
    """Until these mirrors, and no others, are in force."""
    last: list[list[tuple[str, ...]]] = [[]]

    def ready(now: Status) -> bool:
        last[0] = [(row["name"], row["state"], row["reason"], row["message"]) for row in now["mirrors"]]
        return {row[0] for row in last[0] if row[1:3] == ("Programmed", None)} == names == {row[0] for row in last[0]}

    try:
        agent.wait(ready, PATIENCE_S / 2)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{last[0]}") from None


@pytest.mark.parametrize(("direction", "sender", "netns"), [("Ingress", "eth0", "pod"), ("Egress", "pod0", None)])
def test_devices_take_every_copy(agent: Agent, devices: None, direction: str, sender: str, netns: str | None) -> None:
    names = {name: f"{name}-{direction}".lower() for name in DEVICES}
    targets = [target(name, ANALYZER[six], encapsulation=tunnel) for name, (six, tunnel, _) in DEVICES.items()]
    agent.write(*targets, *(mirror(mine, ["pod0"], [name], direction=direction) for name, mine in names.items()))
    wait_for(agent, set(names.values()))
    wanted = [frame for frame in FRAMES if kernel_takes(frame)]
    with ExitStack() as stack:
        captures = [stack.enter_context(Capture(f"dev{number}", "ana")) for number in range(len(DEVICES))]
        send(FRAMES, sender, netns, pause=0.02)
        got = {name: drained(capture) for name, capture in zip(DEVICES, captures, strict=True)}
    found = {name: difference(wanted, filter(kernel_takes, frames)) for name, frames in got.items()}
    assert found == dict.fromkeys(DEVICES, ([], []))
