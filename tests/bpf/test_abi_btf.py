"""sniffer/abi says what bpf/sniffer.h says: by the BTF of the compiled object, and by the C preprocessor."""

import json
import platform
import re
import shutil
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sniffer.abi import limits, records
from sniffer.abi.records import (
    BudgetRecord,
    EgressRecord,
    Hook,
    Instruction,
    MirrorRecord,
    NameKey,
    OuterKey,
    Tally,
    TunnelRecord,
)
from sniffer.kernel import bpf
from sniffer.kernel.pins import ARRAYS, TABLES
from sniffer.kernel.programs import object_path
from tests.topology import run

HEADER = Path(__file__).parents[2] / "bpf" / "sniffer.h"
CLANGS = ("clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14", "clang")
ENUMS: dict[str, type[IntEnum]] = {
    "direction": limits.Direction,
    "action": limits.Action,
    "encapsulation": limits.Encapsulation,
    "oversize": limits.Oversize,
    "sampling": limits.Sampling,
    "path_word": limits.PathWord,
    "name_kind": limits.NameKind,
    "outcome": limits.Outcome,
    "outer_kind": limits.OuterKind,
    "egress_flag": limits.EgressFlag,
    "guard": limits.Guard,
}
ARRAY, PER_CPU_ARRAY, HASH = 2, 6, 1  # enum bpf_map_type
NO_PREALLOC = 1
_TARGET = ("-target", "bpf", f"-I/usr/include/{platform.machine()}-linux-gnu")


@dataclass(frozen=True, slots=True)
class Types:
    """The types of an object by id, structs and enums also by name."""

    by_id: dict[int, dict[str, Any]]
    by_name: dict[tuple[str, str], dict[str, Any]]

    def size(self, number: int) -> int:
        """Bytes of a type."""
        kind = self.by_id[number]
        if kind["kind"] == "ARRAY":
            return int(kind["nr_elems"]) * self.size(kind["type_id"])
        return int(kind["size"]) if "size" in kind else self.size(kind["type_id"])

    def layout(self, name: str) -> dict[str, tuple[int, int]]:
        """Offset and size in bytes of every member of a struct."""
        members = self.by_name["STRUCT", name]["members"]
        return {one["name"]: (one["bits_offset"] // 8, self.size(one["type_id"])) for one in members}


@cache
def types() -> Types:
    rows = json.loads(run("bpftool", "-j", "btf", "dump", "file", object_path(), "format", "raw"))["types"]
    return Types({row["id"]: row for row in rows}, {(row["kind"], row["name"]): row for row in rows})


def _clang() -> str:
    return next(name for name in CLANGS if shutil.which(name))


@cache
def macros() -> dict[str, str]:
    """Every #define of the header, as text."""
    text = run(_clang(), "-E", "-dM", *_TARGET, HEADER)
    own = set(re.findall(r"^#define (\w+)", HEADER.read_text(), re.MULTILINE))
    found = dict(line.split(None, 2)[1:] for line in text.splitlines() if len(line.split(None, 2)) == 3)
    return {name: value for name, value in found.items() if name in own}


def test_every_limit_is_the_header_s() -> None:
    ours = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    own = {name: int(value, 0) for name, value in macros().items()}
    header = {name: value for name, value in own.items() if name in ours or not name.startswith(("MARK_", "HASH_"))}
    header["ABI"] = header.pop("SNIFFER_ABI")
    header["GENERATIONS"] = int(macros()["MARK_GENERATION_MASK"], 0) + 1
    assert ours == header


def test_ids_fit_into_the_mark() -> None:
    """Through the relay the mark carries tunnel, generation, direction and counter; the hash two lengths."""
    mark = {name: int(value, 0) for name, value in macros().items() if name.startswith("MARK_")}
    assert mark["MARK_COUNTER_MASK"] >= limits.COUNTERS_MAX - 1
    assert mark["MARK_COUNTER_MASK"] < mark["MARK_EGRESS"] < 1 << mark["MARK_GENERATION_SHIFT"]
    top = mark["MARK_GENERATION_MASK"] << mark["MARK_GENERATION_SHIFT"]
    assert top < 1 << mark["MARK_TUNNEL_SHIFT"]
    assert limits.TUNNELS_MAX << mark["MARK_TUNNEL_SHIFT"] <= 1 << 32
    assert ~mark["MARK_COPY_MASK"] & 0xFFFFFFFF >= limits.EGRESS_MAX - 1
    assert mark["MARK_COPY"] & ~mark["MARK_COPY_MASK"] == 0
    lengths = {name: int(value, 0) for name, value in macros().items() if name.startswith("HASH_")}
    assert lengths["HASH_SNAP_MASK"] >= limits.FRAME_LIMIT
    assert lengths["HASH_SNAP_MASK"] < 1 << lengths["HASH_LENGTH_SHIFT"]
    assert lengths["HASH_LENGTH_MAX"] << lengths["HASH_LENGTH_SHIFT"] < 1 << 32


@pytest.mark.parametrize("name", ENUMS)
def test_every_enum_is_the_header_s(name: str) -> None:
    """All of its values, from the header's text: BTF has only the enums that a program uses."""
    body = re.search(rf"enum {name} \{{(.*?)\}}", HEADER.read_text(), re.DOTALL)
    assert body
    values: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in body[1].split(","))):
        word, _, value = item.partition("=")
        values[word.strip()] = int(value, 0) if value else len(values)
    if name == "outcome":
        assert values.pop("OUTCOMES") == len(limits.Outcome)
    prefixes = {
        "path_word": "PATH_",
        "name_kind": "NAME_",
        "outer_kind": "OUTER_",
        "direction": "",
        "egress_flag": "EGRESS_",
    }
    prefix = prefixes.get(name, f"{name.upper()}_")
    assert {word.removeprefix(prefix): value for word, value in values.items()} == {
        member.name: member.value for member in ENUMS[name]
    }


def test_the_compiler_numbers_enums_as_we_do(tmp_path: Path) -> None:
    prefixes = {
        limits.PathWord: "PATH_",
        limits.NameKind: "NAME_",
        limits.OuterKind: "OUTER_",
        limits.Direction: "",
        limits.EgressFlag: "EGRESS_",
    }
    lines = [
        f'_Static_assert({prefixes.get(kind, kind.__name__.upper() + "_")}{member.name} == {member.value}, "");'
        for kind in ENUMS.values()
        for member in kind
    ]
    source = tmp_path / "enums.c"
    source.write_text("\n".join([f'#include "{HEADER}"', *lines]))
    run(_clang(), "-fsyntax-only", *_TARGET, source)


# Every field distinct in every byte, so that a swap, a shift or a wrong width shows.
NEXTHOP = bytes(range(0xA0, 0xB0))
TEMPLATE = bytes(range(1, limits.TEMPLATE_LENGTH + 1))
IDS = tuple(0x20212223 + 0x04040404 * n for n in range(8))
MIRROR = MirrorRecord(0x01020304, 0x05060708, 0x090A0B0C, IDS[:4], 0x31323334, 0x35363738, 0x393A3B3C, True)
TUNNEL = TunnelRecord(0x01020304, 0x05, 0x06, 0x07080910, IDS, 0x41424344)
BUDGET = BudgetRecord(0x0102030405060708, 7, 9, 1001, 1002003)
EGRESS = EgressRecord(
    0x01020304, 0x05060708, NEXTHOP, 0x090A0B0C, 0x0D, TEMPLATE, 0x0E, 0x0F, 0x10111213, sequence=0x14151617
)
ADDRESS = bytes(range(0xC0, 0xD0))


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little" if records.struct.pack("=H", 1) == b"\1\0" else "big")


def words(values: tuple[int, ...]) -> bytes:
    return b"".join(number(value, 4) for value in values)


EXPECTED: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "instruction": (
        records.pack_program((Instruction(0x0102, 0x03, 0x04, 0x05060708),))[:8],
        {"code": number(0x0102, 2), "jt": b"\3", "jf": b"\4", "k": number(0x05060708, 4)},
    ),
    "list": (records.pack_list(tuple(range(1, 17))), {"mirrors": words(tuple(range(1, 17)))}),
    "mirror": (
        MIRROR.pack(),
        {
            "filter": number(MIRROR.filter, 4),
            "snap_length": number(MIRROR.snap_length, 4),
            "counter": number(MIRROR.counter, 4),
            "target_count": number(4, 4),
            "tunnels": words(MIRROR.tunnels),
            "one_in": number(MIRROR.one_in, 4),
            "sampling": number(MIRROR.sampling, 4),
            "budget": number(MIRROR.budget, 4),
            "from_pod": number(1, 4),
        },
    ),
    "budget": (
        BUDGET.pack(),
        {
            "owner": number(BUDGET.owner, 8),
            "packet_cost": number(2285714286, 8),  # a seventh of a second in sixteenths of a nanosecond, rounded up
            "packet_burst": number(9 * 2285714286, 8),
            "byte_cost": number(32735265, 8),  # 8/1001000 of a second in units 256 times as small, rounded up
            "byte_burst": number(16016031968, 8),  # 1002003/1001000 of a second, rounded down
            "packets_per_second": number(7, 8),
            "burst_packets": number(9, 8),
            "kilobits_per_second": number(1001, 8),
            "burst_bits": number(1002003, 8),
        },
    ),
    "tunnel": (
        TUNNEL.pack(),
        {
            "generation": number(TUNNEL.generation, 4),
            "encapsulation": number(TUNNEL.encapsulation, 1),
            "oversize": number(TUNNEL.oversize, 1),
            "endpoint_count": number(8, 2),
            "snap_length": number(TUNNEL.snap_length, 4),
            "budget": number(TUNNEL.budget, 4),
            "endpoints": words(TUNNEL.endpoints),
        },
    ),
    "egress": (
        EGRESS.pack(),
        {
            "ifindex": number(EGRESS.ifindex, 4),
            "mtu": number(EGRESS.mtu, 4),
            "nexthop": NEXTHOP,
            "checksum": number(EGRESS.checksum, 4),
            "family": number(EGRESS.family, 1),
            "template_length": number(len(TEMPLATE), 1),
            "encapsulation": b"\x0e",
            "flags": b"\x0f",
            "pseudo": number(EGRESS.pseudo, 4),
            "sequence": number(EGRESS.sequence, 4),
            "template": TEMPLATE,
        },
    ),
    "name_key": (
        NameKey(limits.NameKind.VERDICT, 0x05060708).pack(),
        {"kind": number(3, 4), "id": number(0x05060708, 4)},
    ),
    "outer": (
        OuterKey(limits.OuterKind.HEADER, ADDRESS, 0x05, 0x0607, 0x08090A0B).pack(),
        {
            "address": ADDRESS,
            "key": number(0x08090A0B, 4),
            "port": number(0x0607, 2),
            "protocol": b"\5",
            "kind": b"\2",
        },
    ),
    "name": (records.pack_name("név"), {"text": "név".encode().ljust(limits.NAME_LENGTH, b"\0")}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_records_lie_as_the_compiler_lays_them(name: str) -> None:
    packed, members = EXPECTED[name]
    layout = types().layout(name)
    assert layout.keys() == members.keys()
    assert types().by_name["STRUCT", name]["size"] == len(packed)
    for member, (offset, size) in layout.items():
        assert (member, packed[offset : offset + size]) == (member, members[member])
    assert sum(size for _, size in layout.values()) == len(packed), "padding that nobody names"


def test_a_filter_is_a_row_of_instructions() -> None:
    layout = types().layout("filter")
    assert layout == {"code": (0, records.FILTER_SIZE)}
    assert types().by_name["STRUCT", "filter"]["size"] == records.FILTER_SIZE


def test_counters_are_a_row_of_tallies() -> None:
    assert types().layout("counters") == {"tally": (0, records.COUNTERS_SIZE)}
    assert types().layout("tally") == {"packets": (0, 8), "bytes": (8, 8)}
    row = b"".join(number(100 + n, 8) for n in range(2 * len(limits.Outcome)))
    tallies = records.unpack_counters(row * 3)
    assert tallies == tuple(Tally(3 * (100 + 2 * n), 3 * (101 + 2 * n)) for n in range(len(limits.Outcome)))
    assert [field.name for field in fields(Tally)] == list(types().layout("tally"))


def test_every_struct_of_the_header_is_looked_at() -> None:
    structs = set(re.findall(r"^struct (\w+) \{", HEADER.read_text(), re.MULTILINE))
    assert structs == EXPECTED.keys() | {"filter", "tally", "counters"}


WORD = records.WORD_SIZE
MAPS = {
    "hooks": (ARRAY, 4, WORD, limits.HOOKS_MAX, bpf.MMAPABLE),
    "lists": (ARRAY, 4, records.LIST_SIZE, limits.LISTS_MAX, bpf.MMAPABLE),
    "filters": (ARRAY, 4, records.FILTER_SIZE, limits.FILTERS_MAX, bpf.MMAPABLE),
    "mirrors": (ARRAY, 4, records.MIRROR_SIZE, limits.MIRRORS_MAX, bpf.MMAPABLE),
    "leases": (ARRAY, 4, WORD, limits.MIRRORS_MAX, bpf.MMAPABLE),
    "tunnels": (ARRAY, 4, records.TUNNEL_SIZE, limits.TUNNELS_MAX, bpf.MMAPABLE),
    "egress": (ARRAY, 4, records.EGRESS_SIZE, limits.EGRESS_MAX, bpf.MMAPABLE),
    "paths": (ARRAY, 4, WORD, limits.EGRESS_MAX, bpf.MMAPABLE),
    "budgets": (ARRAY, 4, records.BUDGET_SIZE, limits.BUDGETS_MAX, bpf.MMAPABLE),
    "labels": (ARRAY, 4, WORD, limits.COUNTERS_MAX, bpf.MMAPABLE),
    "relay": (ARRAY, 4, WORD, 1, bpf.MMAPABLE),
    "counters": (PER_CPU_ARRAY, 4, records.COUNTERS_SIZE, limits.COUNTERS_MAX, 0),
    "names": (HASH, 8, limits.NAME_LENGTH, limits.NAMES_MAX, NO_PREALLOC),
    "outers": (HASH, 24, 4, limits.OUTERS_MAX, NO_PREALLOC),
    "buckets": (ARRAY, 4, records.BUCKET_SIZE, limits.BUDGETS_MAX, 0),
    "sequences": (ARRAY, 4, 8, limits.SEQUENCES_MAX, 0),
}


def test_maps_are_what_user_space_expects() -> None:
    assert MAPS.keys() == {*ARRAYS, *TABLES}
    with bpf.Object.open(object_path()) as loaded:
        for name, expected in MAPS.items():
            found = loaded.map(name)
            shape = (found.type, found.key_size, found.value_size, found.max_entries, found.flags)
            found.close()
            assert (name, shape) == (name, expected)


def test_a_hook_is_found_where_the_header_says() -> None:
    hook = Hook(0x01020304, limits.Direction.EGRESS)
    assert hook.word(0x05060708) == 0x01020304_85060708
    assert Hook.of_word(hook.word(0x05060708)) == (hook, 0x05060708, limits.Guard.NONE)
    assert hook.word(0x05060708, limits.Guard.ANALYZER) == 0x01020304_C5060708
    assert Hook.of_word(hook.word(0x05060708, limits.Guard.ANALYZER)) == (hook, 0x05060708, limits.Guard.ANALYZER)
    first = (2 * hook.ifindex + 1) % limits.HOOKS_MAX
    further = [0, 1, 2, 3, 4, 5, 6, 7, *(1021 * n for n in range(1, 9))]
    assert hook.places() == tuple((first + n) % limits.HOOKS_MAX for n in further)
    last = Hook(limits.HOOKS_MAX // 2 - 1, limits.Direction.EGRESS)
    assert last.places()[:2] == (limits.HOOKS_MAX - 1, 0)


@pytest.mark.parametrize("name", ["sniffer", "capture"])
def test_it_compiles_for_the_other_byte_order(name: str, tmp_path: Path) -> None:
    """H6: as s390x would have it, with everything that warns an error. Nobody has run that."""
    headers = f"/usr/include/{platform.machine()}-linux-gnu"
    flags = ["-O2", "-g", "-target", "bpfeb", "-mcpu=v2", "-Wall", "-Wextra", "-Werror", "-I", headers]
    made = tmp_path / "big.o"
    run(_clang(), *flags, "-I", HEADER.parent, "-c", HEADER.parent / f"{name}.bpf.c", "-o", made)
    assert made.read_bytes()[:6] == b"\x7fELF\x02\x02"
