"""A million damaged frames through the real programs: by the kernel's test run, and a tenth of them over a live link.

Whatever comes: the tap decides as libpcap does, the original and its metadata stay as they were, the copies that
libpcap wants arrive byte for byte and once, each of them is in the books, and the kernel says nothing. SNIFFER_FUZZ is
the number of frames, SNIFFER_FUZZ_SEED what they begin with.
"""

import json
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from sniffer import pcap
from sniffer.abi.limits import CODE_RULE, LIST_LENGTH, Action, Direction, Outcome
from sniffer.abi.records import COUNTERS_SIZE, Hook, Instruction, MirrorRecord, Program, pack_program
from sniffer.kernel import bpf
from sniffer.kernel.look import look_at
from sniffer.kernel.pins import Pins
from tests.agent import Agent, mirror, target
from tests.filters import FILTERS
from tests.inventory import ROOT, ifindex
from tests.mirrored import agent_at, check_identity
from tests.packets import CORPUS
from tests.topology import Node, node, run, wait_until
from tests.traffic import compiled
from tests.witness import Witness, packed, quiet_kernel

FRAMES = int(os.environ.get("SNIFFER_FUZZ", "1000000"))
SEED = int(os.environ.get("SNIFFER_FUZZ_SEED", "1"))
CROSSING = FRAMES // 10
LONGEST = 1514
INSTRUCTION_BYTES = 8
NAMES = [f"fuzz-{number:02}" for number in range(LIST_LENGTH)]
Result = dict[str, int]


@dataclass(frozen=True, slots=True)
class Bed:
    """A full hook at the pod: mirror n sends through GRE key n + 1. The agent has set it up and is gone."""

    node: Node
    agent: Agent
    mirrors: tuple[MirrorRecord, ...]
    ifindex: int

    def use(self, programs: Sequence[Program]) -> None:
        """Other filters in place of the former ones: no agent looks, and nothing is sent meanwhile."""
        filters = bpf.open_pinned(Pins(ROOT).maps / "filters")
        for record, program in zip(self.mirrors, programs, strict=True):
            linked = (Instruction(CODE_RULE, Action.MIRROR, 0, 0), *program)
            filters.update(struct.pack("=I", record.filter), pack_program(linked))
        filters.close()


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    directory = tmp_path_factory.mktemp("agent")
    with node(uplink_mtu=1600) as made, agent_at(directory, "--lease", "86400") as agent:
        run(*f"ip neighbour replace 10.9.0.2 lladdr {made.analyzer_mac} dev up0 nud permanent".split())
        targets = [target(name, encapsulation={"gre": {"key": n}}) for n, name in enumerate(NAMES, start=1)]
        mirrors = [
            mirror(name, targets=[name], direction="Ingress", filter=f"len == {n}") for n, name in enumerate(NAMES)
        ]
        agent.write(*targets, *mirrors)
        agent.programmed()
        agent.stop()
        state = look_at(ROOT).state
        hook = Hook(ifindex("pod0"), Direction.INGRESS)
        yield Bed(made, agent, tuple(state.mirrors[number] for number in state.lists[state.hooks[hook]]), hook.ifindex)


def fuzz(program: str, *arguments: object, programs: Sequence[Program], **options: object) -> Result:
    """Runs one of the fuzzers over the corpus and these programs, on one CPU."""
    classics = [b"".join(struct.pack("=HBBI", i.code, i.jt, i.jf, i.k) for i in one) for one in programs]
    line = ["taskset", "-c", "0", str(compiled(program)), *map(str, arguments)]
    given = packed([case.frame for case in CORPUS]) + packed(classics, INSTRUCTION_BYTES)
    done = subprocess.run(line, input=given, capture_output=True, check=False, timeout=3600, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr.decode()
    result: Result = json.loads(done.stdout)
    assert result["differences"] == 0, result
    return result


def books(bed: Bed) -> dict[str, int]:
    """Of all mirrors together, once nothing is in the relay."""

    def rested() -> list[dict[str, dict[str, int]]] | None:
        rows = bed.agent.status()["mirrors"]
        return None if any(row["lost"]["no_memory"] for row in rows) else rows

    rows = wait_until(rested, what="nothing in the relay")
    assert rows
    for row in rows:
        check_identity(row)
        assert not any(row["dropped"].values())
        assert not any(row["lost"].values())
    return {key: sum(row[key]["packets"] for row in rows) for key in ("matched", "sent", "wire")}


def since(before: dict[str, int], after: dict[str, int]) -> set[int]:
    return {after[key] - before[key] for key in after}


def test_test_runs(bed: Bed) -> None:
    """C1 to C15, C20 to C22, C27, C31, C33, damaged: every filter of the corpus, by sixteen mirrors that copy."""
    every = [pcap.compile(text) for text in FILTERS]
    groups = [every[at : at + LIST_LENGTH] for at in range(0, len(every), LIST_LENGTH)]
    tap = bpf.get_pinned(next(Pins(ROOT).programs.glob("*/tap_ingress")))
    counters = bpf.open_pinned(Pins(ROOT).maps / "counters")
    taken = refused = 0
    before = books(bed)
    with Witness() as witness, quiet_kernel():
        witness.attach("tally", "eth0", "ingress", bed.node.analyzer)
        for number, group in enumerate(groups):
            programs = (group + groups[0])[:LIST_LENGTH]
            bed.use(programs)
            where = (bed.ifindex, SEED * 1000 + number, -(-FRAMES // len(groups)), LONGEST)
            shape = (bpf.possible_cpus(), COUNTERS_SIZE, Outcome.MATCHED * 16)
            ids = [record.counter for record in bed.mirrors]
            done = fuzz(
                "decide", tap, counters.fd, *where, *shape, *ids, programs=programs, pass_fds=(tap, counters.fd)
            )
            taken += done["taken"]
            refused += done["refused"]
        wait_until(lambda: witness.arrived()[0] >= taken, what="every copy arrives")
        assert witness.arrived()[0] == taken
    os.close(tap)
    counters.close()
    assert taken > FRAMES
    assert refused < FRAMES // 10
    assert since(before, books(bed)) == {taken}
    run("tc", "qdisc", "del", "dev", "eth0", "clsact", netns=bed.node.analyzer)


def test_a_live_link(bed: Bed) -> None:
    """The same over veths: production arrives whole and in order, and the analyzer gets what libpcap would have."""
    few = ("", "tcp or udp port 53", "ip6 or arp or vlan", "ether[20:2] & 1 = 1 and len > 60")
    never = pcap.compile("len == 0")
    programs = [pcap.compile(text) for text in few]
    bed.use(programs + [never] * (LIST_LENGTH - len(few)))
    before = books(bed)
    with Witness() as witness, quiet_kernel():
        witness.forward(bed.node.pod_device, bed.node.peer_device)
        netns = (bed.node.pod, bed.node.peer, bed.node.analyzer)
        done = fuzz("cross", *netns, SEED, CROSSING, LONGEST, programs=programs)
        run("tc", "qdisc", "del", "dev", bed.node.pod_device, "clsact")
    assert done["copies"] > CROSSING
    assert since(before, books(bed)) == {done["copies"]}
