"""What else than capabilities may forbid bpf(): SELinux, and the kernel's lockdown."""

from pathlib import Path

_ENFORCE = Path("/sys/fs/selinux/enforce")
_CONTEXT = Path("/proc/self/attr/current")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")
_MAY = frozenset({"spc_t", "unconfined_t", "unconfined_service_t", "container_runtime_t", "kernel_t", "init_t"})
"""Types that container-selinux and the reference policy allow bpf()."""
SELINUX_FIX = "chart: agent.seLinuxOptions.type=spc_t; ausearch -m avc -c sniffer shows what was denied"


def selinux() -> tuple[str, bool] | None:
    """The type that this process has, and whether SELinux is known to be permissive. None: SELinux is not on.

    In a container /sys/fs/selinux is mostly not to be seen; the context is.
    """
    parts = _read(_CONTEXT).split(":")
    if len(parts) < 4:  # user:role:type:level; AppArmor has other words there
        return None
    return parts[2], _read(_ENFORCE) == "0"


def may_forbid() -> str | None:
    """Why SELinux may deny bpf() to this process, in words; None: it does not."""
    found = selinux()
    if found is None or found[1] or found[0] in _MAY:
        return None
    return f"SELinux is on, and this runs as {found[0]}"


def lockdown() -> str | None:
    """none, integrity or confidentiality; None: this kernel has none, or it cannot be seen."""
    words = _read(_LOCKDOWN).split()
    return next((word.strip("[]") for word in words if word.startswith("[")), None)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip("\0\n ")
    except OSError:
        return ""
