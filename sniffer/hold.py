"""What an agent holds of its node: lock, programs, maps. Taken at the start, given back when told to clean."""

import os
from pathlib import Path

from sniffer.errors import SnifferError
from sniffer.kernel import bpf, programs
from sniffer.kernel.clean import clear, drop_former, drop_orphans
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.observe import relay_of
from sniffer.kernel.pins import Lock, Pins
from sniffer.node import Node
from sniffer.plan.facts import Mechanism


class Hold:
    """Whoever gives nothing back leaves everything attached, for the next to take over."""

    def __init__(self, pins: Pins, mechanism: Mechanism | None, lease_s: float, netns: Path) -> None:
        """Takes the lock and loads, or takes over, programs and maps. MachineError."""
        self._pins = pins
        with Netlink() as netlink:
            relay_of(netlink, pins)  # another sniffer's relay: nothing is made of what would be of no use
        pins.create()
        self._lock = Lock(pins)
        try:
            if not (pins.exists() or pins.former()):
                drop_orphans(pins)
            self._programs = programs.load(pins)
            self.node: Node | None = Node(pins, mechanism, lease_s, self._programs, netns)
            """None: it is given back, or on its way."""
        except SnifferError:
            pins.forget()
            raise

    def is_whole(self) -> bool:
        """Whether what we hold is what others find: somebody may have removed the pins, or mounted over them."""
        return self._lock.holds(self._pins)

    def succeeds(self) -> bool:
        """Whether an agent of another ABI has left what may still be at work here."""
        return bool(self._pins.former())

    def settle(self) -> list[str]:
        """Ends what former agents left, now that ours is attached; what that was, in words."""
        programs.drop_others(self._pins)
        ours = {bpf.program_of(fd).id for fd in self._programs.values()}
        return drop_former(self._pins, ours)

    def give_back(self) -> list[str]:
        """Removes everything that is ours from the node; what that was, in words. After an error, call it again."""
        if self.node:
            self.node.close()
            for fd in self._programs.values():
                os.close(fd)
            self.node = None
        removed = clear(self._pins)
        self.release()
        return removed

    def release(self) -> None:
        """Gives back the lock alone."""
        self._lock.release()
