"""Telling the machine's own network services to leave the relay alone: by files below /run, which a reboot forgets.

NetworkManager goes by a udev property of the device (NM_UNMANAGED), systemd-networkd by the first .network file that
matches (systemd.network(5): Unmanaged=). Where a service is not there, nothing is written.
"""

from pathlib import Path

from sniffer.kernel.relay import RX, TX

_NAMES = (TX, RX)
_FILES = {
    Path("/run/udev/rules.d/85-sniffer.rules"): (
        Path("/run/udev"),
        "".join(f'SUBSYSTEM=="net", ENV{{INTERFACE}}=="{name}", ENV{{NM_UNMANAGED}}="1"\n' for name in _NAMES),
    ),
    Path("/run/systemd/network/00-sniffer.network"): (
        Path("/run/systemd/netif"),
        f"[Match]\nName={' '.join(_NAMES)}\n\n[Link]\nUnmanaged=yes\n",
    ),
}


def mark() -> None:
    """Writes the files that are missing. A directory that cannot be written (a container's) is left alone."""
    for path, (service, text) in _FILES.items():
        if service.is_dir() and not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            except OSError:
                continue


def unmark() -> list[str]:
    """Removes them; what was removed, in words."""
    removed = [str(path) for path in _FILES if path.exists()]
    for path in _FILES:
        path.unlink(missing_ok=True)
    return removed
