"""How much of what matches is copied: sampling and rates. Nothing is coerced; `Allowed` has the words of an error."""

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from sniffer.model.base import Allowed, Cel, Model, one_of, refused

ONE_IN_MAX = 1 << 31
RATE_MAX = 100_000_000
"""Packets, and kilobits, in a second: more than a node can copy."""
BURST_S = 3600
"""What a burst may be at most: so many seconds of its rate."""


class SamplingUnit(StrEnum):
    """What one in so many is chosen of."""

    FLOW = "Flow"
    PACKET = "Packet"


class Sampling(Model):
    """One in so many of the frames that match."""

    one_in: Annotated[int, Field(ge=1, le=ONE_IN_MAX), Allowed(f"1..{ONE_IN_MAX}")]
    """One in so many is copied; 1: every one."""
    per: Annotated[SamplingUnit, Field(strict=False), one_of(SamplingUnit)] = SamplingUnit.FLOW
    """Flow: all of a flow, in both directions and on every node, or nothing of it; Packet: each frame by chance."""


Rate = Annotated[int, Field(ge=1, le=RATE_MAX), Allowed(f"1..{RATE_MAX}")]
Burst = Annotated[int, Field(ge=1, le=RATE_MAX * BURST_S), Allowed(f"1..{RATE_MAX * BURST_S}")]

_A_RATE = "packetsPerSecond, kilobitsPerSecond, or both"
_PACKETS_BURST = f"burstPackets beside packetsPerSecond, and at most {BURST_S} times it"
_KILOBITS_BURST = f"burstKilobits beside kilobitsPerSecond, and at most {BURST_S} times it"


def _burst_rule(rate: str, burst: str) -> str:
    return f"!has(self.{burst}) || (has(self.{rate}) && self.{burst} <= {BURST_S} * self.{rate})"


class RateLimit(Model):
    """A rate, and what may pass at once when nothing has for a while. What is more is dropped and counted."""

    cel: ClassVar[tuple[Cel, ...]] = (
        Cel("has(self.packetsPerSecond) || has(self.kilobitsPerSecond)", _A_RATE),
        Cel(_burst_rule("packetsPerSecond", "burstPackets"), _PACKETS_BURST),
        Cel(_burst_rule("kilobitsPerSecond", "burstKilobits"), _KILOBITS_BURST),
    )

    packets_per_second: Rate | None = None
    """Frames as they match: a super-packet is one."""
    burst_packets: Burst | None = None
    """Default: a fiftieth of the rate, at least 1."""
    kilobits_per_second: Rate | None = None
    """Bits of the copies (1 kilobit: 1000 bits), cut to the snap length, without outer headers."""
    burst_kilobits: Burst | None = None
    """Default: a fiftieth of the rate, at least one longest frame. A longer frame passes when nothing of it is used."""

    @model_validator(mode="after")
    def _bursts(self) -> Self:
        if self.packets_per_second is None and self.kilobits_per_second is None:
            raise refused("neither packetsPerSecond nor kilobitsPerSecond", _A_RATE)
        _check_burst("Packets", self.burst_packets, self.packets_per_second, _PACKETS_BURST)
        _check_burst("Kilobits", self.burst_kilobits, self.kilobits_per_second, _KILOBITS_BURST)
        return self


def _check_burst(unit: str, burst: int | None, rate: int | None, allowed: str) -> None:
    if burst is None:
        return
    if rate is None:
        raise refused(f"burst{unit} {burst} without a rate", allowed)
    if burst > BURST_S * rate:
        raise refused(f"burst{unit} {burst} at a rate of {rate}", allowed)
