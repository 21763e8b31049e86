"""Why a packet that arrived yields no frame."""

from enum import StrEnum


class Refusal(StrEnum):
    """Each is counted by its name in what `sniffer recv` says at its end."""

    OUTER_HEADER = "outer_header"
    """The outer IP or UDP header is cut or contradicts itself."""
    OUTER_CHECKSUM = "outer_checksum"
    """Of the outer IPv4 header, of UDP or of GRE."""
    NOT_ASKED = "not_asked"
    """Another port, protocol or kind of tunnel than those asked for."""
    TUNNEL_HEADER = "tunnel_header"
    """Cut, of another version, or with flags that the standard forbids."""
    NOT_ETHERNET = "not_ethernet"
    """A tunnel of something else than Ethernet frames."""
    CONTROL = "control"
    """A GENEVE control message: not a frame (RFC 8926, 3.4)."""
    CRITICAL_OPTION = "critical_option"
    """A GENEVE option that nobody here knows and that must not be passed over (RFC 8926, 3.5)."""
    SHORT_FRAME = "short_frame"
    """Less than an Ethernet header inside."""
