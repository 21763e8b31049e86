"""The kernel's types as kernel/btf.py reads them, against what a compiler makes of the same BTF."""

import subprocess
from pathlib import Path

import pytest

from sniffer.errors import MachineError
from sniffer.kernel.btf import KERNEL, Btf
from tests.topology import run

FIELDS = (("sk_buff", "mark"), ("sk_buff", "dev"), ("sk_buff", "cb"), ("net_device", "ifindex"), ("net_device", "mtu"))


def test_fields_and_enums_are_where_a_compiler_finds_them(tmp_path: Path) -> None:
    """`mark` lies in a nameless struct of a nameless union."""
    btf = Btf()
    (tmp_path / "vmlinux.h").write_text(run("bpftool", "btf", "dump", "file", KERNEL, "format", "c"))
    checks = [f"__builtin_offsetof(struct {one}, {field}) == {btf.offset(one, field)}" for one, field in FIELDS]
    checks += [f"{name} == {number}" for number, name in btf.enum("skb_drop_reason").items()]
    assert len(checks) > 50
    lines = ['#include "vmlinux.h"', *(f'_Static_assert({one}, "");' for one in checks)]
    (tmp_path / "checks.c").write_text("\n".join(lines))
    compilers = ("clang-19", "clang-18", "clang")
    clang = next(one for one in compilers if subprocess.run(["which", one], capture_output=True).returncode == 0)
    run(clang, "-target", "bpf", "-g", "-w", "-fsyntax-only", tmp_path / "checks.c")


def test_what_is_not_there(tmp_path: Path) -> None:
    btf = Btf()
    for structure, field, words in (
        ("sk_buff", "nothing", "has no nothing"),
        ("nothing", "mark", "has no type nothing"),
    ):
        with pytest.raises(MachineError, match=words):
            btf.offset(structure, field)
    with pytest.raises(MachineError, match="no type nothing"):
        btf.enum("nothing")
    (tmp_path / "short").write_bytes(b"\x9f")
    (tmp_path / "other").write_bytes(bytes(40))
    for name, words in (("missing", "no types of the kernel"), ("short", "no types of"), ("other", "is no BTF")):
        with pytest.raises(MachineError, match=words):
            Btf(tmp_path / name)
