"""What the analyzer makes of what arrives: decoders that share nothing with the data path.

`decode` reads outer frames with tshark (its own reassembly, its own idea of where the inner frame lies);
`kernel_vxlan` receives with the kernel's own vxlan device. Test both before trusting either: test_receivers.py.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.packets import reaches_hooks
from tests.topology import run, set_sysctl
from tests.wire import Capture, write_pcap

LUA = Path(__file__).with_name("inner.lua")


@dataclass(frozen=True, slots=True)
class Received:
    """One inner Ethernet frame and the outer headers that it came in.

    `kind`: vxlan, gre, geneve, erspan. `key`: VNI, session or GRE key, None for GRE without one. `outer_length`: the
    longest outer frame of it (one fragment, then), Ethernet header included. `number`: place among the captured frames,
    of the last fragment. `flags`: the tunnel header's (VXLAN: 16 bits, GRE: flags and version). Of GRE the ports are
    None. `words`: what else the tunnel's header says, by tshark's names.
    """

    frame: bytes
    kind: str
    key: int | None
    number: int
    source_port: int | None
    ip_id: int
    ttl: int
    dscp: int
    do_not_fragment: bool
    udp_checksum: int | None
    flags: int
    fragments: int
    outer_length: int
    words: Mapping[str, str] = field(default_factory=dict)

    def number_of(self, word: str) -> int:
        """One of `words` as a number, as tshark prints it."""
        return int(self.words[word], 0)


def decode(frames: Iterable[bytes], vxlan_port: int = 4789, geneve_port: int = 6081) -> list[Received]:
    """Hands outer frames to tshark and returns the inner ones in the order in which they became whole."""
    outer = list(frames)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "outer.pcap")
        write_pcap(path, outer)
        lines = _tshark(path, f"udp.port=={vxlan_port},vxlan", f"udp.port=={geneve_port},geneve")
    seen: dict[tuple[bytes, bytes], list[int]] = {}
    received, position = [], 0
    for line in lines:
        number = int(line[0]) - 1
        for index in range(position, number + 1):
            seen.setdefault(_packet(outer[index]), []).append(len(outer[index]))
        position = number + 1
        lengths = seen.pop(_packet(outer[number]))
        received.append(_received(line, number, lengths))
    return received


def inner_frames(frames: Iterable[bytes], vxlan_port: int = 4789) -> list[bytes]:
    """Only the inner frames of `decode`."""
    return [item.frame for item in decode(frames, vxlan_port)]


def _tshark(path: Path, *decode_as: str) -> list[list[str]]:
    options = ["-n", "-q", "-X", f"lua_script:{LUA}"] + [word for rule in decode_as for word in ("-d", rule)]
    preferences = (
        "-o",
        "ip.defragment:TRUE",
        "-o",
        "ipv6.defragment:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
        "-o",
        "udp.check_checksum:TRUE",
        "-o",
        "tcp.desegment_tcp_streams:FALSE",
    )
    line = ["tshark", "-r", str(path), *options, *preferences]
    environment = os.environ | {"HOME": str(path.parent), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "lua" not in done.stderr.lower(), done.stderr
    return [words for row in done.stdout.splitlines() if len(words := row.split(" ")) == 14]


def _packet(outer: bytes) -> tuple[bytes, bytes]:
    """What the fragments of one outer packet share: addresses, protocol, and their identification."""
    start = 18 if outer[12:14] == b"\x81\x00" else 14
    if outer[start - 2 : start] == b"\x86\xdd":
        fragment = outer[start + 6] == 44
        return outer[start + 8 : start + 40], outer[start + 44 : start + 48] if fragment else outer[
            start + 4 : start + 6
        ]
    return outer[start + 12 : start + 20] + outer[start + 9 : start + 10], outer[start + 4 : start + 6]


def _received(words: list[str], number: int, lengths: list[int]) -> Received:
    _, kind, key, _, port, identification, ttl, dscp, _, df, checksum, flags, more, octets = words
    return Received(
        frame=bytes.fromhex(octets),
        kind=kind,
        key=None if key == "-" else int(key, 0),
        number=number,
        source_port=None if port == "-" else int(port, 0),
        ip_id=0 if identification == "-" else int(identification, 0),
        ttl=int(ttl, 0),
        dscp=int(dscp, 0),
        do_not_fragment=df in {"true", "1", "True"},
        udp_checksum=None if checksum == "-" else int(checksum, 0),
        flags=0 if flags == "-" else int(flags, 0),
        fragments=len(lengths),
        outer_length=max(lengths),
        words=dict(word.split("=", 1) for word in more.split(",") if "=" in word),
    )


def kernel_takes(frame: bytes) -> bool:
    """Whether the kernel's vxlan device delivers an inner frame at all: in what claims to be IP it wants a whole
    header (skb_inet_may_pull), and a tag that is cut is no frame to it."""
    shortest = {b"\x08\x00": 34, b"\x86\xdd": 54}
    return reaches_hooks(frame) and len(frame) >= shortest.get(frame[12:14], 15)


@contextmanager
def kernel_vxlan(
    vni: int = 4242, port: int = 4789, netns: str = "ana", local: str = "10.9.0.2", zero_checksums: bool = False
) -> Iterator[Capture]:
    """The kernel's vxlan device in the analyzer's namespace; what it decapsulates is in the capture.

    It is strict where tshark is not: see `kernel_takes`; it also drops frames whose source is its own MAC and reserved
    flags, and never sees another VNI. `zero_checksums`: it takes those over IPv6, too.
    """
    device = f"vx{vni}"
    where = f"id {vni} dstport {port} local {local} dev eth0".split()
    options = ("nolearning", "noudpcsum", "udp6zerocsumrx" if zero_checksums else "noudp6zerocsumrx")
    run("ip", "link", "add", device, "mtu", 9000, "type", "vxlan", *where, *options, netns=netns)
    try:
        set_sysctl(f"net.ipv6.conf.{device}.disable_ipv6", 1, netns)
        # Enough for a burst of fragments in disorder; the default suffices for a few hundred packets.
        for name, value in (("ipfrag_high_thresh", 256 << 20), ("ipfrag_max_dist", 0)):
            set_sysctl(f"net.ipv4.{name}", value, netns)
        run("ip", "link", "set", device, "up", netns=netns)
        with Capture(device, netns) as capture:
            yield capture
    finally:
        run("ip", "link", "delete", device, netns=netns)
