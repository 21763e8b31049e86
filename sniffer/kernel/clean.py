"""Taking everything of ours off a node, whatever state it is in."""

import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from sniffer.abi.limits import Direction
from sniffer.errors import MachineError
from sniffer.kernel import clsact, relay, unmanaged, watchdog
from sniffer.kernel.apply import Kernel
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.observe import observe, own_relay_of, relay_alias, relay_of
from sniffer.kernel.pins import Lock, Maps, Pins
from sniffer.plan.diff import removal


def clean(root: Path) -> list[str]:
    """What was removed, in words. Taps first, then the relay, then the pins. MachineError: an agent is running."""
    pins = Pins(root)
    if not root.is_dir():
        return drop_orphans(pins) + _relay(pins)
    lock = Lock(pins)
    try:
        return clear(pins)
    finally:
        lock.release()


def clear(pins: Pins) -> list[str]:
    """As `clean`, by who has the lock."""
    removed = _hooks(pins) + drop_orphans(pins) + _relay(pins)
    if pins.root.is_dir():
        pins.remove()
        removed.append(f"pins at {pins.root}")
    return removed


def _hooks(pins: Pins) -> list[str]:
    netlink = Netlink()
    try:
        if not pins.exists():
            return []
        with Maps(pins, writable=True) as maps:
            state = observe(maps, pins, netlink, own_relay_of(netlink, pins))
            names = {link.index: link.name for link in netlink.links()}
            Kernel(maps, pins, netlink, {}).apply(removal(state))
            return [
                f"tap on {names.get(h.ifindex, f'ifindex {h.ifindex}')} {h.direction.name.lower()}"
                for h in sorted(state.attachments)
            ]
    finally:
        netlink.close()


def drop_former(pins: Pins, ours: Collection[int]) -> list[str]:
    """Detaches and unpins what agents of other ABIs left: their links end with the pins, filters are told by programs
    that are not `ours` (ids). What was removed, in words.
    """
    homes = pins.former()
    if not homes:
        return []
    for home in homes:
        shutil.rmtree(home)
    with Netlink() as netlink:
        found = [hook for hook in clsact.marked(netlink, ours) if clsact.delete(netlink, *hook)]
    return [*(f"pins at {home}" for home in homes), *_orphans(found)]


def drop_orphans(pins: Pins) -> list[str]:
    """Removes the filters with our mark that no map leads to any more: pins were lost; and those of live captures whose
    process is dead. What was removed, in words.
    """
    with Netlink() as netlink:
        dead = watchdog.sweep(netlink)
        try:
            relay_of(netlink, pins)
        except MachineError:
            return dead  # another sniffer is here, and they may be its own
        found = [hook for hook in clsact.marked(netlink) if clsact.delete(netlink, *hook)]
    return [*dead, *_orphans(found)]


def _orphans(found: Iterable[tuple[int, Direction]]) -> list[str]:
    return [f"orphan on ifindex {ifindex} {direction.name.lower()}" for ifindex, direction in found]


def _relay(pins: Pins) -> list[str]:
    netlink = Netlink()
    try:
        removed = []
        with suppress(MachineError):  # it is another's
            removed = ["relay"] if relay.delete(netlink, relay_alias(pins)) else []
        return removed + unmanaged.unmark()
    finally:
        netlink.close()
