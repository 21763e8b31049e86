"""The image of the test pods: busybox, and nothing else. Of it are the sandboxes too."""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from pathlib import Path

from tests.cluster.configs import TOOLBOX

_FILES = {"etc/passwd": "root:x:0:0:root:/:/bin/sh\n", "etc/group": "root:x:0:\n", "www/index.html": "toolbox\n"}
_DIRECTORIES = ("bin", "etc", "proc", "sys", "dev", "run", "tmp", "www")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def toolbox(path: Path, busybox: Path = Path("/bin/busybox")) -> Path:
    """Writes the archive of `localhost/toolbox:1`: sh, nc, wget, httpd (`/www`), ping, sleep...

    AssertionError without a static busybox.
    """
    assert busybox.exists(), "needs busybox (package busybox-static)"
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in _DIRECTORIES:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(entry)
        _add(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        for name, text in _FILES.items():
            _add(tar, name, text.encode())
        for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    # As a sandbox it has nothing to do, as a container it runs what the pod says.
    return _archive(path, TOOLBOX, layer.getvalue(), ["sleep", "1000000000"])


def _archive(path: Path, name: str, layer: bytes, command: list[str]) -> Path:
    machine = os.uname().machine
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": platform.system().lower(),
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
    }
    words = json.dumps(config).encode()
    manifest = [{"Config": f"{_digest(words)}.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _add(tar, f"{_digest(words)}.json", words)
        _add(tar, "layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return path


def _add(tar: tarfile.TarFile, name: str, octets: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(octets), mode
    tar.addfile(entry, io.BytesIO(octets))


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()
