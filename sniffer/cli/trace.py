"""`sniffer trace`: where the kernel drops copies that are on their way to the uplink, and why it says it does.

Copies that a program drops are counted by reason, and `sniffer status` shows them. What happens to a copy after it left
the programs - in a queue discipline, a firewall, for want of a neighbour - only the kernel knows; its tracepoint
skb:kfree_skb tells. It is a BCC program, for an image of its own: BCC brings a compiler. Neither kprobes nor the
kernel's headers are needed: where fields lie is in the kernel's BTF.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sniffer.abi.limits import MARK_COPY, MARK_COPY_MASK
from sniffer.cli.progress import progress
from sniffer.errors import MachineError
from sniffer.kernel import capabilities
from sniffer.kernel.btf import Btf

_PROGRAM = Path(__file__).with_name("trace.bpf.c")
_NEEDS = "use the image's target `trace` (docker build --target trace .), or Debian's python3-bpfcc"
_TYPES = "#pragma once\n" + "".join(
    f"typedef {sign} {word} {letter}{bits}, __{letter}{bits};\n"
    for bits, word in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
    for sign, letter in (("signed", "s"), ("unsigned", "u"))
)
_TYPES += "typedef u16 __be16, __sum16; typedef u32 __be32, __wsum; typedef u64 __be64, __aligned_u64;\n"
_TYPES += "typedef unsigned long size_t, uintptr_t;\n"
_VERSION = "#define KERNEL_VERSION(a, b, c) ((a) << 16 | (b) << 8 | (c))\n"
_VERSION += "#define LINUX_VERSION_CODE KERNEL_VERSION(5, 10, 0)\n"
_HEADERS = {
    **dict.fromkeys(("asm/page.h", "linux/bpf_common.h", "linux/log2.h"), ""),
    **dict.fromkeys(("uapi/linux/bpf.h", "uapi/linux/if_packet.h"), ""),
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    "linux/types.h": _TYPES,
    "linux/version.h": _VERSION,
}
"""The little of the kernel's source that BCC includes by itself, as far as it uses it: types, and the oldest kernel we
ask for."""
_REASON = "SKB_DROP_REASON_"


@dataclass(frozen=True, slots=True)
class Loss:
    """`place`: the kernel's function; `device`: where the copy was; `reason`: the kernel's word, None before 5.17."""

    place: str
    device: str
    reason: str | None
    packets: int


def trace(seconds: float, *, as_json: bool) -> int:
    """Prints the losses of so many seconds, or until Ctrl-C: 0 none, 1 some. MachineError: BCC or BTF is missing."""
    bcc, btf = _bcc(), Btf()
    reasons = _reasons(btf)
    text = _program(btf, reasons is not None)
    with _headers(), progress("compiling the program"):
        try:
            program = bcc.BPF(text=text, cflags=["-w"])
        except Exception as error:
            lacking = capabilities.missing()
            fix = f"{', '.join(lacking)} missing: run as root" if lacking else "see what BCC said above"
            raise MachineError(f"the program could not be loaded: {error}", fix) from error
    print(f"watching for {seconds:g} s", file=sys.stderr)
    with suppress(KeyboardInterrupt):
        time.sleep(seconds)
    losses = sorted(_losses(bcc, program, reasons), key=lambda one: -one.packets)
    if as_json:
        print(json.dumps([asdict(one) for one in losses], indent=2))
    elif not losses:
        print("The kernel dropped no copy on its way to the uplink.")
    for one in [] if as_json else losses:
        print(f"{one.packets:8} {one.device:16} {one.place:32} {one.reason or 'this kernel gives no reason'}")
    return 1 if losses else 0


def _bcc() -> ModuleType:
    try:
        import bcc
    except ImportError as error:
        raise MachineError(f"no BCC here ({error})", _NEEDS) from None
    if not hasattr(bcc, "BPF"):
        raise MachineError("the package `bcc` here is another, of the same name", _NEEDS)
    module: ModuleType = bcc
    return module


def _reasons(btf: Btf) -> dict[int, str] | None:
    """The kernel's words; None where it has none, before 5.17."""
    try:
        return {number: name.removeprefix(_REASON) for number, name in btf.enum("skb_drop_reason").items()}
    except MachineError:
        return None


def _program(btf: Btf, has_reasons: bool) -> str:
    """The source, with the numbers of this kernel."""
    numbers = {
        "MARK_COPY": MARK_COPY,
        "MARK_COPY_MASK": MARK_COPY_MASK,
        "OFFSET_MARK": btf.offset("sk_buff", "mark"),
        "OFFSET_DEV": btf.offset("sk_buff", "dev"),
        "OFFSET_IFINDEX": btf.offset("net_device", "ifindex"),
        "OFFSET_NET": btf.offset("net_device", "nd_net"),
        "OFFSET_NETNS": btf.offset("net", "ns") + btf.offset("ns_common", "inum"),
        "NETNS": Path("/proc/self/ns/net").stat().st_ino,
        "HAS_REASONS": int(has_reasons),
    }
    return "".join(f"#define {name} {value}\n" for name, value in numbers.items()) + _PROGRAM.read_text()


@contextmanager
def _headers() -> Iterator[None]:
    """Lets BCC find these instead of a kernel's, which few nodes have."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        for name, text in _HEADERS.items():
            path = Path(place, "include", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        os.environ["BCC_KERNEL_SOURCE"] = place
        yield


def _losses(bcc: ModuleType, program: Any, reasons: dict[int, str] | None) -> Iterator[Loss]:
    for key, packets in program["losses"].items():
        place = bcc.BPF.ksym(key.place).decode(errors="replace")
        reason = reasons.get(key.reason, str(key.reason)) if reasons else None
        yield Loss(place, _device(key.ifindex), reason, packets.value)


def _device(ifindex: int) -> str:
    import socket

    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"ifindex {ifindex}" if ifindex else "none"
