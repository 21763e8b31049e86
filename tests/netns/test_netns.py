"""kernel/netns.py and plan/binding.py against the kernel: namespaces, veths and addresses, as a runtime makes them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.kernel.netlink import Netlink
from sniffer.kernel.netns import Namespaces
from sniffer.plan.binding import Bindings, Namespace, Owners, bind
from sniffer.plan.cluster import Binding, Pod
from tests.topology import run, wait_until

DIRECTORY = Path("/run/netns")


def sh(line: str, netns: str | None = None) -> str:
    return run(*line.split(), netns=netns)


def batch(lines: str) -> None:
    run("ip", "-batch", "-", stdin=lines)


def index_of(name: str) -> int:
    return int(json.loads(sh(f"ip -j link show {name}"))[0]["ifindex"])


def inode_of(netns: str) -> int:
    return (DIRECTORY / netns).stat().st_ino


def pod(uid: str, *addresses: str) -> Pod:
    return Pod(uid, "shop", uid, {}, addresses, False, True, "2026-05-01T10:00:00Z")


def make(name: str, *addresses: str) -> int:
    """A pod's namespace with a veth, h-NAME here and eth0 there; the ifindex here."""
    batch(f"netns add {name}\nlink add h-{name} type veth peer name eth0 netns {name}\n")
    for address in addresses:
        run("ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []), netns=name)
    return index_of(f"h-{name}")


class Node:
    """The agent's way through a look: links, then namespaces, then pods to both."""

    def __init__(self) -> None:
        self.netlink = Netlink()
        self.namespaces = Namespaces(DIRECTORY)
        self.owners: Owners | None = None

    def look(self, *pods: Pod) -> Bindings:
        links = self.netlink.links()
        found = bind(pods, self.namespaces.look(self.netlink), links, self.owners)
        if found.waits:
            owned = found.owners.by_namespace
            found = bind(pods, self.namespaces.look(self.netlink, fresh=True, owned=owned), links, self.owners)
        self.owners = found.owners
        return found

    def all(self) -> dict[str, Namespace]:
        found = self.namespaces.look(self.netlink, fresh=True)
        assert found is not None
        return {namespace.name: namespace for namespace in found}


@pytest.fixture
def node() -> Iterator[Node]:
    this = Node()
    yield this
    for path in DIRECTORY.iterdir():
        run("ip", "netns", "delete", path.name, check=False)
        path.unlink(missing_ok=True)
    wait_until(lambda: not veths(this), 20, what="veths whose namespaces are gone")
    this.netlink.close()


def veths(node: Node) -> int:
    return sum(link.kind == "veth" for link in node.netlink.links())


def test_a_pod_is_found_by_its_addresses_and_has_its_veth(node: Node) -> None:
    one, two = make("cni-1", "10.244.0.5/24", "fd00::5/64"), make("cni-2", "10.244.0.6/32")
    found = node.look(pod("four", "10.244.0.6"), pod("six", "fd00::5")).bindings
    assert found == {"four": Binding((two,), None, inode_of("cni-2")), "six": Binding((one,), None, inode_of("cni-1"))}
    sh("ip address add 10.244.0.7 peer 10.244.0.1 dev eth0", netns="cni-1")
    assert node.all()["cni-1"].addresses == {"10.244.0.5", "10.244.0.7", "fd00::5"}
    assert node.namespaces.fault is None


def test_all_of_a_pods_veths_and_nothing_else(node: Node) -> None:
    """D15, and devices between two pods or on the node that have another end too."""
    first = make("cni-1", "10.244.0.5/24")
    make("cni-2", "10.244.0.6/24")
    batch(
        "link add second type veth peer name net1 netns cni-1\n"
        "link add here type veth peer name there\n"
        "link add name p1 netns cni-1 type veth peer name p2 netns cni-2\n"
    )
    assert node.look(pod("a", "10.244.0.5")).bindings["a"].interfaces == (first, index_of("second"))
    for device in ("second", "here"):
        sh(f"ip link delete {device}")
    assert node.look(pod("a", "10.244.0.5")).bindings["a"].interfaces == (first,)


@pytest.mark.parametrize("kind", ["macvlan", "none"])
def test_a_pod_without_a_host_veth(node: Node, kind: str) -> None:
    """D13: `none` is a device that has nothing to do with the node, such as one of SR-IOV."""
    sh("ip netns add cni-1")
    try:
        if kind == "none":
            sh("ip link add eth0 netns cni-1 type bridge")
        else:
            sh("ip link add low0 type bridge")
            sh(f"ip link add link low0 name eth0 netns cni-1 type {kind}")
        sh("ip address add 10.244.0.5/24 dev eth0", netns="cni-1")
        assert node.look(pod("a", "10.244.0.5")).bindings == {"a": Binding((), "NoHostVeth", inode_of("cni-1"))}
    finally:
        run("ip", "link", "delete", "low0", check=False)


def test_a_veth_that_moves_on_is_the_pods_no_more(node: Node) -> None:
    one, two = make("cni-1", "10.244.0.5/24"), make("cni-2", "10.244.0.6/24")
    pods = pod("a", "10.244.0.5"), pod("b", "10.244.0.6")
    node.look(*pods)
    run("ip", "-n", "cni-1", "link", "set", "eth0", "name", "net7")
    run("ip", "-n", "cni-1", "link", "set", "net7", "netns", "cni-2")
    found = node.look(*pods).bindings
    assert (found["a"].interfaces, found["a"].reason, found["b"].interfaces) == ((), "NoHostVeth", (one, two))


def test_a_device_that_a_pod_takes_away_from_the_runtime(node: Node) -> None:
    """G16: into a namespace that nobody has a name for, from which it goes on talking."""
    one = make("cni-1", "10.244.0.5/24")
    assert node.look(pod("a", "10.244.0.5")).bindings["a"].interfaces == (one,)
    with subprocess.Popen(["ip", "netns", "exec", "cni-1", "unshare", "--net", "sleep", "60"]) as hidden:
        try:
            away = Path(f"/proc/{hidden.pid}/ns/net")
            wait_until(lambda: away.stat().st_ino not in {Path("/proc/self/ns/net").stat().st_ino, inode_of("cni-1")})
            run("ip", "-n", "cni-1", "link", "set", "eth0", "netns", hidden.pid)
            assert node.look(pod("a", "10.244.0.5")).bindings["a"] == Binding((one,), None, inode_of("cni-1"))
        finally:
            hidden.kill()


def test_an_address_that_moves_on_takes_nothing_with_it(node: Node) -> None:
    """A neighbour's address on a pod's own device, before and after the agent knows them."""
    one, two = make("cni-1", "10.244.0.5/32"), make("cni-2", "10.244.0.6/32")
    pods = pod("a", "10.244.0.5"), pod("b", "10.244.0.6")
    node.look(*pods)
    sh("ip address delete 10.244.0.5/32 dev eth0", netns="cni-1")
    sh("ip address add 10.244.0.5/32 dev eth0", netns="cni-2")
    found = node.look(*pods).bindings
    assert (found["a"].interfaces, found["b"].interfaces) == ((one,), (two,))
    sh("ip address add 10.244.0.5/32 dev eth0", netns="cni-1")
    node.owners = None
    found = node.look(*pods).bindings
    assert (found["a"].interfaces, found["b"].interfaces) == ((one,), (two,))
    sh("ip address delete 10.244.0.6/32 dev eth0", netns="cni-2")
    node.owners = None
    assert node.look(*pods).bindings == {"a": Binding((), "Ambiguous"), "b": Binding((), "NotYet")}


def test_an_address_that_comes_late_and_one_used_again(node: Node) -> None:
    make("cni-1", "10.244.0.5/24")
    node.look(pod("old", "10.244.0.5"))
    new = make("cni-2")
    assert node.look(pod("new", "10.244.0.5")).bindings == {"new": Binding((), "NotYet")}
    sh("ip address add 10.244.0.5/24 dev eth0", netns="cni-2")
    assert node.look(pod("new", "10.244.0.5")).bindings["new"].interfaces == (new,)


def test_a_namespace_that_goes_with_its_veth(node: Node) -> None:
    make("cni-1", "10.244.0.5/24")
    assert node.look(pod("a", "10.244.0.5")).bindings["a"].reason is None
    sh("ip netns delete cni-1")
    assert node.look(pod("a", "10.244.0.5")).bindings["a"] == Binding((), "NotYet")
    again = make("cni-2", "10.244.0.5/24")  # the pod's next one, or another pod's: the pod is told of as before
    assert node.look(pod("a", "10.244.0.5")).bindings["a"] == Binding((), "NotYet")
    assert node.look(pod("b", "10.244.0.5")).bindings["b"].interfaces == (again,)


def test_a_name_or_an_inode_used_again_is_another_namespace(node: Node) -> None:
    keys = set()
    for number in range(6):
        index = make("cni-1", f"10.244.0.{number}/24")
        found = node.all()["cni-1"]
        assert found.addresses == {f"10.244.0.{number}"}
        assert node.look(pod(f"p{number}", f"10.244.0.{number}")).bindings[f"p{number}"].interfaces == (index,)
        keys.add(found.key)
        sh("ip netns delete cni-1")
        wait_until(lambda: "h-cni-1" not in sh("ip link"), what="the veth is gone")
        time.sleep(0.1)
    assert len(keys) == 6


def test_what_is_no_namespace_of_a_pod_is_ignored(node: Node) -> None:
    """The node's own, one namespace by two names, other kinds, and files that hang or that lead elsewhere."""
    index = make("cni-1", "10.244.0.5/24")
    for name, source in (
        ("own", "/proc/self/ns/net"),
        ("pid", "/proc/self/ns/pid"),
        ("a-second-name", "/run/netns/cni-1"),
    ):
        (DIRECTORY / name).touch()
        sh(f"mount --bind {source} /run/netns/{name}")
    os.mkfifo(DIRECTORY / "fifo")
    (DIRECTORY / "plain").write_text("words")
    (DIRECTORY / "loop").symlink_to("loop")
    (DIRECTORY / "link").symlink_to("/run/netns/cni-1")
    (DIRECTORY / "unused").touch()
    try:
        assert set(node.all()) == {"a-second-name"}
        assert node.look(pod("a", "10.244.0.5")).bindings["a"].interfaces == (index,)
        assert node.namespaces.fault is None
    finally:
        for name in ("own", "pid", "a-second-name"):
            sh(f"umount /run/netns/{name}")


def test_a_directory_that_is_not_there(node: Node, tmp_path: Path) -> None:
    namespaces = Namespaces(tmp_path / "netns")
    assert namespaces.look(node.netlink) is None
    assert namespaces.fault == f"{tmp_path}/netns: No such file or directory"
    (tmp_path / "netns").mkdir()
    assert namespaces.look(node.netlink) == ()
    assert namespaces.fault is None


RIGHTS = """
import os, sys
from pathlib import Path
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.netns import Namespaces
assert "CapEff:\\t0000008000001000" in Path("/proc/self/status").read_text(), "rights"
with Netlink() as netlink:
    namespaces = Namespaces(Path("/run/netns"))
    for namespace in namespaces.look(netlink, fresh=True):
        print(namespace.name, *sorted(namespace.addresses or ["?"]))
    print("veths", *(link.index for link in netlink.links() if link.peer), namespaces.fault or "")
"""


def test_the_rights_of_the_agent_suffice(node: Node) -> None:
    """uid 0 with CAP_NET_ADMIN and CAP_BPF alone."""
    index = make("cni-1", "10.244.0.5/24", "fd00::5/64")
    rights = "+net_admin,+bpf"
    command = ["setpriv", f"--bounding-set=-all,{rights}", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"]
    told = run(*command, sys.executable, "-c", RIGHTS)
    assert told == f"cni-1 10.244.0.5 fd00::5\nveths {index} \n"


def test_no_namespace_is_held_and_no_descriptor_kept(node: Node) -> None:
    """E12: two hundred come, are looked at, and go."""

    def living() -> int:
        return len(
            subprocess.run(["lsns", "-t", "net", "-n"], capture_output=True, text=True, check=True).stdout.splitlines()
        )

    namespaces, descriptors = living(), len(os.listdir("/proc/self/fd"))
    for round_ in range(4):
        names = [f"cni-{round_}-{n}" for n in range(50)]
        batch(
            "".join(
                f"netns add {name}\nlink add h{n} type veth peer name eth0 netns {name}\n"
                for n, name in enumerate(names)
            )
        )
        assert len(node.all()) == 50
        assert veths(node) == 50
        batch("".join(f"netns delete {name}\n" for name in names))
        wait_until(lambda: veths(node) == 0, 20, what="the veths go, and so the namespaces")
        assert node.all() == {}
    assert (living(), len(os.listdir("/proc/self/fd"))) == (namespaces, descriptors)


def test_namespaces_that_come_and_go_under_the_look(node: Node) -> None:
    """Whatever is seen is whole: no crash, no fault, no address of another."""
    script = (
        "for i in $(seq 60); do ip netns add r$i; ip -n r$i address add 10.7.0.$i/32 dev lo; ip netns delete r$i; done"
    )
    with subprocess.Popen(["bash", "-c", script]) as churn:
        looks = 0
        while churn.poll() is None:
            for name, namespace in node.all().items():
                assert namespace.addresses in (set(), {f"10.7.0.{name[1:]}"})
            assert node.namespaces.fault is None
            looks += 1
    assert churn.returncode == 0
    assert looks > 20


def test_a_thousand_veths_in_a_burst(node: Node) -> None:
    """D16: 250 namespaces with four veths each; a look is quick, with one more pod too."""
    batch("".join(f"netns add cni-{n}\n" for n in range(250)))
    veth = "link add v{0}-{1} group 77 type veth peer name e{1} netns cni-{0}\n"
    try:
        batch("".join(veth.format(n, i) for n in range(250) for i in range(4)))
        for n in range(250):
            batch_of = f"address add 10.244.1.{n}/32 dev e0\n"
            run("ip", "-n", f"cni-{n}", "-batch", "-", stdin=batch_of)
        pods = [pod(f"p{n}", f"10.244.1.{n}") for n in range(250)]
        found = node.look(*pods).bindings
        assert all(len(found[f"p{n}"].interfaces) == 4 for n in range(250))
        quiet = min(_durations_s(node, pods, None))
        new = min(_durations_s(node, pods, pods[-1]))
        print(f"250 pods, a thousand veths: {quiet * 1e3:.1f} ms, {new * 1e3:.1f} ms with a new one, without the links")
        assert (quiet < 0.005, new < 0.010) == (True, True), (quiet, new)
    finally:
        run("ip", "link", "delete", "group", 77, check=False)


def _durations_s(node: Node, pods: list[Pod], late: Pod | None) -> Iterator[float]:
    """Of processor, for looks at what is as it was; `late`: of looks in which this pod is new."""
    links = node.netlink.links()
    known = bind([p for p in pods if p is not late], node.namespaces.look(node.netlink, fresh=True), links).owners
    for _ in range(7):
        start = time.process_time()
        found = bind(pods, node.namespaces.look(node.netlink), links, known)
        if found.waits:
            fresh = node.namespaces.look(node.netlink, fresh=True, owned=found.owners.by_namespace)
            found = bind(pods, fresh, links, known)
        yield time.process_time() - start
        assert all(binding.interfaces for binding in found.bindings.values())
