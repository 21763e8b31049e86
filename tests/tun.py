"""Devices that a file descriptor is the other end of."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from tests.topology import set_sysctl, up

TUN, TAP, NAPI, NAPI_FRAGS, VNET_HDR = 0x1, 0x2, 0x10, 0x20, 0x4000  # IFF_* of <linux/if_tun.h>
_NO_INFO = 0x1000
_TUNSETIFF = 0x400454CA


@contextmanager
def tun(name: str, flags: int) -> Iterator[int]:
    """A tun or tap device, up; what is written to its descriptor arrives on it, one frame a write."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags | _NO_INFO))
        set_sysctl(f"net.ipv6.conf.{name}.disable_ipv6", 1)
        up(name)
        yield descriptor
    finally:
        os.close(descriptor)
