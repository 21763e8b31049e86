"""What a process may do, out of /proc/<pid>/status."""

from pathlib import Path

import pytest

from sniffer.kernel.capabilities import effective, missing

BPF, NET_ADMIN, PERFMON, SYS_ADMIN = 1 << 39, 1 << 12, 1 << 38, 1 << 21


@pytest.mark.parametrize(
    ("mask", "lacking"),
    [
        (0, ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")),
        (BPF | NET_ADMIN, ("CAP_PERFMON",)),
        (BPF | PERFMON, ("CAP_NET_ADMIN",)),
        (BPF | NET_ADMIN | PERFMON, ()),
        (SYS_ADMIN, ("CAP_NET_ADMIN",)),
        (SYS_ADMIN | NET_ADMIN, ()),
        ((1 << 41) - 1, ()),
    ],
)
def test_missing(tmp_path: Path, mask: int, lacking: tuple[str, ...]) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tx\nCapPrm:\t{(1 << 41) - 1:016x}\nCapEff:\t{mask:016x}\n")
    assert missing(effective(status)) == lacking
