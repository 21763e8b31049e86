"""Devices that stamp the packets they send with the time of it, in hardware (IEEE 1588): ethtool's words, by ioctl."""

import array
import fcntl
import socket
import struct
from collections.abc import Iterable

from sniffer.plan.facts import Link

_SIOCETHTOOL = 0x8946  # <linux/sockios.h>
_ETHTOOL_GET_TS_INFO = 0x41  # <linux/ethtool.h>
_SOF_TIMESTAMPING_TX_HARDWARE = 1  # <linux/net_tstamp.h>
_INFO = struct.Struct("=IIiI3II3I")  # struct ethtool_ts_info: cmd, so_timestamping, phc_index, tx_types, ...
_VIRTUAL = frozenset({"veth", "dummy", "bridge", "vxlan", "geneve", "gretap", "tun", "wireguard"})
"""Kinds that are not asked: there may be a thousand of them."""


class Stamps:
    """Asks each device once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], bool] = {}

    def of(self, links: Iterable[Link]) -> frozenset[int]:
        """Those of the links that stamp, by ifindex."""
        asked = [link for link in links if link.kind not in _VIRTUAL]
        self._known = {
            key: self._known[key] if key in self._known else has_hardware_stamps(link.name)
            for link in asked
            for key in [(link.index, link.name)]
        }
        return frozenset(index for (index, _), stamps in self._known.items() if stamps)


def has_hardware_stamps(device: str) -> bool:
    """Whether it can; False for one that is not there, or has no such words."""
    buffer = array.array("B", _INFO.pack(_ETHTOOL_GET_TS_INFO, *[0] * 10))
    address, _ = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sP16x", device.encode(), address))
        except OSError:
            return False
    return stamps_of(buffer.tobytes())


def stamps_of(info: bytes) -> bool:
    """Whether a struct ethtool_ts_info speaks of stamps by hardware on the way out."""
    return bool(_INFO.unpack(info)[1] & _SOF_TIMESTAMPING_TX_HARDWARE)
