"""A kernel without `xdp.frags` programs (before 5.18), as far as the agent can tell."""

import hashlib
from pathlib import Path

from sniffer.kernel.programs import object_path


def ringless_object(directory: Path) -> Path:
    """A copy of the object whose ring is refused with EINVAL, here by libbpf for a section of a kind that it does not
    know; $SNIFFER_OBJECT makes an agent load it."""
    name, unknown = b"\0xdp.frags\0", b"\0xdp.nokin\0"
    content = object_path().read_bytes()
    assert name in content
    path = directory / "ringless.bpf.o"
    return with_digest(path, content.replace(name, unknown))


def with_digest(path: Path, content: bytes) -> Path:
    """Writes an object and beside it the digest that its build would have written."""
    path.write_bytes(content)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    return path
