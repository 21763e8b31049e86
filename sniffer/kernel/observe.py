"""What the kernel holds of ours, as a State."""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from sniffer.abi.limits import HOOK_STAMPS, Direction
from sniffer.abi.records import (
    BudgetRecord,
    EgressRecord,
    Hook,
    MirrorRecord,
    NameKey,
    OuterKey,
    Program,
    TunnelRecord,
    unpack_list,
    unpack_name,
    unpack_program,
)
from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf, clsact, relay, tcx
from sniffer.kernel.netlink import Device, Netlink
from sniffer.kernel.pins import Maps, Pins
from sniffer.plan.facts import Mechanism, Relay
from sniffer.plan.state import Attachment, State

Record = TypeVar("Record")


def observe(
    maps: Maps,
    pins: Pins,
    netlink: Netlink,
    pair: Relay | None,
    attachments: Mapping[Hook, Attachment] | None = None,
) -> State:
    """Reads everything back. attachments: what is known of them; None: they are read too, which takes longest."""
    hook_words = _words(maps, "hooks").values()
    words = [Hook.of_word(word) for word in hook_words]
    hooks = {hook: number for hook, number, _ in words}
    tunnels = dict(_records(maps, "tunnels", TunnelRecord.unpack))
    candidates = set(hooks)
    if pair:
        candidates |= set(relay_hooks(pair))
    return State(
        hooks=hooks,
        guards={hook: guard for hook, _, guard in words if guard},
        stamps=frozenset(Hook.of_word(word)[0] for word in hook_words if word & HOOK_STAMPS),
        outers=frozenset(OuterKey.unpack(key) for key, _ in maps.outers.items()),
        lists=dict(_records(maps, "lists", unpack_list)),
        filters=dict(_filters(maps)),
        mirrors={n: record for n, record in _records(maps, "mirrors", MirrorRecord.unpack) if record.tunnels},
        leases=_words(maps, "leases"),
        tunnels={n: record for n, record in tunnels.items() if record.endpoints},
        generations={n: record.generation for n, record in tunnels.items() if not record.endpoints},
        egress={n: record for n, record in _records(maps, "egress", EgressRecord.unpack) if record.template},
        paths=_words(maps, "paths"),
        budgets={n: record for n, record in _records(maps, "budgets", BudgetRecord.unpack) if record.owner},
        labels=_words(maps, "labels"),
        names={NameKey.unpack(key): unpack_name(text) for key, text in maps.names.items()},
        attachments=_attachments(pins, netlink, candidates) if attachments is None else attachments,
        relay=pair,
        relay_word=bpf.load_word(maps.memory["relay"], 0),
    )


def relay_alias(pins: Pins) -> str:
    """The mark on the relay's links."""
    return f"sniffer relay of {pins.root}"


def relay_of(netlink: Netlink, pins: Pins, devices: Iterable[Device] | None = None) -> Relay | None:
    """The relay as it is. MachineError: links of others have its names. devices: see relay.observe."""
    found = relay.observe(netlink, relay_alias(pins), devices)
    return replace(found[0], faults=found[1]) if found else None


def own_relay_of(netlink: Netlink, pins: Pins) -> Relay | None:
    """The same for those who only read or remove: what is not ours is none of their business."""
    try:
        return relay_of(netlink, pins)
    except MachineError:
        return None


def relay_hooks(pair: Relay) -> tuple[Hook, ...]:
    """Where the relay's own programs sit."""
    return Hook(pair.sender, Direction.EGRESS), Hook(pair.receiver, Direction.INGRESS)


def _records(maps: Maps, name: str, unpack: Callable[[bytes], Record]) -> Iterator[tuple[int, Record]]:
    """The elements that are not all zero."""
    stride, size, blob = maps.stride[name], maps.size[name], maps.memory[name][:]
    empty = bytes(size)
    for number in range(len(blob) // stride):
        record = blob[number * stride : number * stride + size]
        if record != empty:
            yield number, unpack(record)


def _filters(maps: Maps) -> Iterator[tuple[int, Program]]:
    """A filter in use begins with an instruction that is not zero."""
    stride, memory = maps.stride["filters"], maps.memory["filters"]
    for number in range(len(memory) // stride):
        if memory[number * stride] or memory[number * stride + 1]:
            yield number, unpack_program(maps.record("filters", number))


def _words(maps: Maps, name: str) -> dict[int, int]:
    memory = maps.memory[name]
    return {number: word for number, (word,) in enumerate(struct.iter_unpack("=Q", memory[:])) if word}


def _attachments(pins: Pins, netlink: Netlink, hooks: Iterable[Hook]) -> dict[Hook, Attachment]:
    """Three system calls for each TCX link, and a dump of qdiscs that waits for the kernel's one lock of links."""
    return dict((*_filters_attached(netlink, hooks), *_links(pins)))


def _links(pins: Pins) -> Iterator[tuple[Hook, Attachment]]:
    for hook in pins.linked():
        fd = bpf.get_pinned(pins.link(hook))
        try:
            link = tcx.link_of(fd)
        finally:
            os.close(fd)
        alive = link.ifindex == hook.ifindex
        yield hook, Attachment(Mechanism.TCX, link.program if alive else 0)


def _filters_attached(netlink: Netlink, hooks: Iterable[Hook]) -> Iterator[tuple[Hook, Attachment]]:
    qdiscs = netlink.ingress_qdiscs()
    for hook in (hook for hook in hooks if hook.ifindex in qdiscs):
        try:
            found = clsact.filters(netlink, hook.ifindex, hook.direction, qdiscs)
        except KernelError:
            continue  # the interface is gone
        for one in found:
            if one.ours and one.prog_id:
                yield hook, Attachment(Mechanism.CLSACT, one.prog_id)
