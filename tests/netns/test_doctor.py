"""`sniffer doctor`: what keeps a machine from mirroring is found and has a fix; nothing is changed by looking."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sniffer.abi.limits import Direction
from sniffer.kernel import bpf, tcx
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.programs import object_path
from tests.agent import SNIFFER, Agent, mirror, target
from tests.ringless import with_digest
from tests.topology import node, run

CHECKS = [
    *("kernel", "capabilities", "selinux", "lockdown", "libpcap", "programs", "attachment", "jit", "btf", "memlock"),
    *("bpffs", "agent", "relay", "backlog", "mtu", "tunnels", "cni", "rivals", "rx-gro-list", "network services"),
]
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")
ROOT = "/sys/fs/bpf/sniffer"


def doctor(*words: object, before: Sequence[str] = ()) -> tuple[int, list[dict[str, str]]]:
    """Exit status and lines. Of the kernel's line nothing is asked: CI runs where it runs."""
    line = [*before, str(SNIFFER), "doctor", "--json", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert list(dict.fromkeys(row["check"] for row in rows)) == CHECKS
    for row in rows:
        assert list(row) == ["check", "result", "text", "fix"]
        assert row["text"]
        assert bool(row["fix"]) == (row["result"] != "ok"), row
    results = {row["result"] for row in rows}
    assert done.returncode == (3 if "fail" in results else 1 if "warn" in results else 0)
    return done.returncode, rows


def found(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["check"], row["result"]) for row in rows if row["result"] != "ok" and row["check"] != "kernel"]


def text(rows: list[dict[str, str]], check: str) -> str:
    (row,) = (row for row in rows if row["check"] == check)
    return row["text"]


@contextmanager
def veth(name: str = "d0", mtu: int = 1500) -> Iterator[int]:
    """A veth pair that is up; the ifindex of `name`."""
    run("ip", "link", "add", name, "mtu", mtu, "type", "veth", "peer", "name", f"{name}-end", "mtu", mtu)
    try:
        for end in (name, f"{name}-end"):
            run("ip", "link", "set", end, "up")
        yield json.loads(run("ip", "-j", "link", "show", name))[0]["ifindex"]
    finally:
        run("ip", "link", "del", name)


@pytest.fixture(scope="module")
def others() -> Iterator[bpf.Object]:
    """Programs that are not an agent's: a load of our own object that nobody pins."""
    with bpf.Object.open(object_path()) as loaded:
        yield loaded


def machine() -> str:
    """What a look may not change."""
    lines = (
        *(("ip", "-d", "-s", "link"), ("ip", "addr"), ("ip", "route", "show", "table", "all"), ("ip", "neigh")),
        *(("tc", "qdisc"), ("find", "/sys/fs/bpf", "/run", "-not", "-path", "/run/tmp*"), ("ls", "/sys/module")),
        ("grep", "-r", ".", "/proc/sys/net", "/proc/sys/kernel/bpf_stats_enabled"),
    )
    return "\n".join(subprocess.run(line, capture_output=True, text=True, check=False).stdout for line in lines)


def test_a_machine_that_can() -> None:
    """Twice, and it is as before."""
    before = machine()
    for _ in range(2):
        _, rows = doctor()
        assert found(rows) == []
    assert machine() == before


def test_people_get_a_table() -> None:
    with veth("sniffer-tx"):
        done = subprocess.run(
            [SNIFFER, "doctor"], capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "200"}
        )
    assert done.returncode == 3
    (line,) = (line for line in done.stdout.splitlines() if " relay " in line)
    assert [cell.strip() for cell in line.split("│")[1:3]] == ["fail", "relay"]
    assert "ip link set sniffer-tx name NAME" in line
    assert "\x1b" not in done.stdout


def test_a_relay_name_that_somebody_has() -> None:
    with veth("sniffer-rx"):
        status, rows = doctor()
    assert (status, found(rows)) == (3, [("relay", "fail")])
    assert "sniffer-rx" in text(rows, "relay")


def test_a_pin_root_on_another_file_system(tmp_path: Path) -> None:
    status, rows = doctor("--pin-root", tmp_path / "not" / "yet")
    assert (status, found(rows)) == (3, [("bpffs", "fail")])
    assert not (tmp_path / "not").exists()


def test_without_rights_there_are_fewer_answers() -> None:
    with veth():
        status, rows = doctor(before=UNPRIVILEGED)
    assert status == 3
    assert found(rows) == [
        ("capabilities", "fail"),
        *((check, "warn") for check in ("programs", "attachment", "rivals")),
    ]
    assert text(rows, "capabilities") == "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON missing"


def test_the_capabilities_that_suffice() -> None:
    """Without CAP_PERFMON the verifier refuses the programs."""
    enough = ("setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all")
    assert found(doctor(before=enough)[1]) == []
    few = ("setpriv", "--bounding-set=-all,+bpf,+net_admin", "--inh-caps=-all")
    status, rows = doctor(before=few)
    assert (status, found(rows)) == (3, [("capabilities", "fail"), ("programs", "warn")])
    assert text(rows, "capabilities") == "CAP_PERFMON missing"


def test_an_object_that_the_kernel_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = with_digest(tmp_path / "broken.o", object_path().read_bytes()[:5000])
    monkeypatch.setenv("SNIFFER_OBJECT", str(broken))
    assert found(doctor()[1]) == [("programs", "fail")]
    monkeypatch.setenv("SNIFFER_OBJECT", str(tmp_path / "missing.o"))
    status, rows = doctor()
    assert (status, found(rows)) == (3, [("programs", "fail")])
    assert "missing.o is missing" in text(rows, "programs")


@pytest.mark.parametrize(("uplink", "result"), [(1549, [("mtu", "warn")]), (1550, [])])
def test_the_mtu_of_the_uplink(uplink: int, result: list[tuple[str, str]]) -> None:
    with veth("up0", uplink), veth("d0", 1500):
        run("ip", "link", "set", "up0-end", "mtu", 1400)
        run("ip", "addr", "add", "10.77.0.1/24", "dev", "up0")
        run("ip", "route", "add", "default", "via", "10.77.0.2", "dev", "up0")
        _, rows = doctor()
    assert found(rows) == result
    assert "up0" in text(rows, "mtu")
    if result:
        assert "d0" in text(rows, "mtu")
        assert "take 1550 wrapped" in text(rows, "mtu")


def test_programs_of_others(others: bpf.Object) -> None:
    tap, ring = others.program("tap_egress"), others.program("relay_ring")
    with veth() as ifindex, Netlink() as netlink:
        link = tcx.attach_tcx(ifindex, Direction.INGRESS, tap.fd)
        netlink.attach_xdp(ifindex, ring.fd)
        netlink.ensure_clsact(ifindex)
        options = {"parent": 0xFFFFFFF2, "prio": 7, "fd": tap.fd, "name": "theirs", "direct_action": True}
        netlink.change("filter", "tc", "add-filter", "bpf", index=ifindex, handle=3, **options)
        try:
            status, rows = doctor()
        finally:
            os.close(link)
    assert status == 1
    assert found(rows) == [("rivals", "warn")] * 3
    assert [row["text"].partition(";")[0] for row in rows if row["check"] == "rivals"] == [
        f"d0: XDP has program {ring.id}",
        f"d0: TCX ingress has program {tap.id}",
        "d0: clsact ingress has theirs, priority 7, handle 0x3",
    ]


@pytest.mark.parametrize("attachment", ["tcx", "clsact"])
def test_an_agent_and_who_is_ahead_of_it(tmp_path: Path, others: bpf.Object, attachment: str) -> None:
    """What runs behind us is no rival."""
    tap = others.program("tap_ingress")
    with node("bridge"), Netlink() as netlink:
        agent = Agent(tmp_path, Path(ROOT), "--attachment", attachment)
        agent.write(target(), mirror())
        ifindex = json.loads(run("ip", "-j", "link", "show", "pod0"))[0]["ifindex"]
        netlink.ensure_clsact(ifindex)
        options = {"parent": 0xFFFFFFF2, "prio": 7, "fd": tap.fd, "name": "behind", "direct_action": True}
        netlink.change("filter", "tc", "add-filter", "bpf", index=ifindex, handle=3, **options)
        behind = tcx.attach_tcx(ifindex, Direction.EGRESS, tap.fd) if attachment == "tcx" else None
        with agent:
            agent.programmed()
            _, rows = doctor()
            assert [item for item in found(rows) if item[0] != "mtu"] == [("tunnels", "warn")]
            words = "to 10.9.0.2 by up0 packets of 1500 bytes pass, full frames of pod0 take 1550 wrapped"
            assert text(rows, "tunnels").startswith(words)
            assert text(rows, "agent") == f"runs, pid {agent.process.pid if agent.process else None}"
            assert text(rows, "relay") == "is there"
            ahead = tcx.attach_tcx(ifindex, Direction.INGRESS, tap.fd)
            _, rows = doctor()
            os.close(ahead)
            assert ("rivals", "warn") in found(rows)
            assert text(rows, "rivals").startswith(f"pod0: TCX ingress has program {tap.id};")
        _, rows = doctor()
        assert ("agent", "warn") in found(rows)
        if behind is not None:
            os.close(behind)
        agent.cleanup()
    assert found(doctor()[1]) == []


def test_network_services_are_named() -> None:
    service = Path("/run/NetworkManager")
    assert text(doctor()[1], "network services") == "none"
    service.mkdir()
    try:
        assert text(doctor()[1], "network services").startswith("NetworkManager; the agent tells it")
    finally:
        service.rmdir()
