"""Rate limits as the programs know them."""

from hashlib import blake2b

from sniffer.abi.records import BudgetRecord
from sniffer.model.identity import Identity
from sniffer.model.limit import RateLimit

LONGEST_FRAME = 65535
"""Bytes; of super-packets only, some are longer."""
DEFAULT_BURST = 50
"""Without another word the burst is this part of the rate."""


def budget(limit: RateLimit | None, owner: Identity, snap_length: int) -> BudgetRecord | None:
    """What a mirror or a target may send. snap_length: bytes of a frame that count at most; 0: all."""
    if limit is None:
        return None
    packets, kilobits = limit.packets_per_second or 0, limit.kilobits_per_second or 0
    longest = min(snap_length or LONGEST_FRAME, LONGEST_FRAME)
    return BudgetRecord(
        owner=_number(owner),
        packets_per_second=packets,
        burst_packets=limit.burst_packets or (max(packets // DEFAULT_BURST, 1) if packets else 0),
        kilobits_per_second=kilobits,
        burst_bits=(limit.burst_kilobits or 0) * 1000
        or (max(kilobits * 1000 // DEFAULT_BURST, 8 * longest) if kilobits else 0),
    )


def _number(owner: Identity) -> int:
    """The same for the same owner, whoever asks; never 0."""
    text = f"{owner.kind}/{owner.namespace or ''}/{owner.name}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) or 1
