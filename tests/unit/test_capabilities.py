"""What a process may do, out of /proc/<pid>/status; and what else may forbid it, out of /sys."""

import errno
import re
from pathlib import Path

import pytest

from sniffer.errors import KernelError
from sniffer.kernel import capabilities, policy, preflight, programs
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


@pytest.mark.parametrize(
    ("context", "enforce", "result", "words"),
    [
        ("system_u:system_r:container_t:s0:c1,c2\0", "1", "warn", "SELinux is on, and this runs as container_t"),
        ("system_u:system_r:container_t:s0:c1,c2\0", None, "warn", "SELinux is on, and this runs as container_t"),
        ("system_u:system_r:container_t:s0\0", "0", "ok", "permissive; this runs as container_t"),
        ("system_u:system_r:spc_t:s0\0", "1", "ok", "on; this runs as spc_t"),
        ("unconfined\n", None, "ok", "off"),
        ("cri-containerd.apparmor.d (enforce)\n", None, "ok", "off"),
        (None, None, "ok", "off"),
    ],
)
def test_selinux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: str | None, enforce: str | None, result: str, words: str
) -> None:
    """G27: a doctor's line with its fix; and where bpf() is refused although no capability is missing, the suspect."""
    for name, text in (("_CONTEXT", context), ("_ENFORCE", enforce)):
        if text is not None:
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(policy, name, tmp_path / name)
    (found,) = preflight._selinux()
    assert (found.result, found.text[: len(words)]) == (result, words)
    assert ("agent.seLinuxOptions" in found.fix) == (result == "warn")
    monkeypatch.setattr(capabilities, "missing", tuple)
    for number in (errno.EPERM, errno.EACCES):
        said = str(programs.refusal(KernelError("load", number)))
        assert (f"; {words}; " in said and "agent.seLinuxOptions" in said) == (result == "warn")
    assert "SELinux" not in str(programs.refusal(KernelError("load", errno.EINVAL)))


@pytest.mark.parametrize(
    ("text", "result", "words"),
    [
        ("none integrity [confidentiality]\n", "warn", "confidentiality: "),
        ("none [integrity] confidentiality\n", "ok", "integrity"),
        ("[none] integrity confidentiality\n", "ok", "none"),
        (None, "ok", "none, or not to be seen"),
    ],
)
def test_lockdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, result: str, words: str) -> None:
    """G28: no program of ours reads the kernel's memory but that of `sniffer trace`."""
    if text is not None:
        (tmp_path / "lockdown").write_text(text)
    monkeypatch.setattr(policy, "_LOCKDOWN", tmp_path / "lockdown")
    (found,) = preflight._lockdown()
    assert (found.result, found.text[: len(words)]) == (result, words)
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "bpf").glob("*.[ch]"))
    assert "bpf_redirect_neigh(" in sources
    assert not re.search(r"bpf_(probe_read|trace_printk|printk)", sources)
