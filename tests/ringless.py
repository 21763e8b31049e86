"""A kernel without `xdp.frags` programs (before 5.18), as far as the agent can tell."""

from pathlib import Path

from sniffer.kernel.programs import object_path


def ringless_object(directory: Path) -> Path:
    """A copy of the object whose ring is refused with EINVAL, here by libbpf for a section of a kind that it does not
    know; $SNIFFER_OBJECT makes an agent load it."""
    name, unknown = b"\0xdp.frags\0", b"\0xdp.nokin\0"
    content = object_path().read_bytes()
    assert name in content
    path = directory / "ringless.bpf.o"
    path.write_bytes(content.replace(name, unknown))
    return path
