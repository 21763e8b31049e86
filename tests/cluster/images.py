"""The image of the test pods: busybox, and nothing else. Of it are the sandboxes too."""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from tests.cluster.configs import TOOLBOX

_FILES = {"etc/passwd": "root:x:0:0:root:/:/bin/sh\n", "etc/group": "root:x:0:\n", "www/index.html": "toolbox\n"}
_DIRECTORIES = ("bin", "etc", "proc", "sys", "dev", "run", "tmp", "www")
_OCI = "application/vnd.oci.image"
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


def path_of(archive: Path, tail: str) -> str:
    """The one file of an image whose path ends so."""
    with tarfile.open(archive) as whole:
        found = set()
        for layer in json.load(_content(whole, "manifest.json"))[0]["Layers"]:
            with tarfile.open(fileobj=_content(whole, layer)) as tar:
                found |= {name for name in tar.getnames() if name.endswith(tail)}
    [path] = found
    return path


def amended(archive: Path, path: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Writes the archive (OCI) of an image `name` that is another one's but for these files, by path from /.

    It holds what is new, and can be imported only where the other one was.
    """
    with tarfile.open(archive) as former:
        manifest = json.load(_content(former, "manifest.json"))[0]
        config = json.load(_content(former, manifest["Config"]))
        sizes = [former.getmember(layer).size for layer in manifest["Layers"]]
    added = io.BytesIO()
    with tarfile.open(fileobj=added, mode="w") as tar:
        for file, octets in files.items():
            _add(tar, file.lstrip("/"), octets)
    sizes.append(len(added.getvalue()))
    digests = config["rootfs"]["diff_ids"]
    digests.append(f"sha256:{_digest(added.getvalue())}")
    config.pop("history", None)
    words = json.dumps(config).encode()
    described = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _blob("config.v1+json", words),
        "layers": [
            {"mediaType": f"{_OCI}.layer.v1.tar", "digest": digest, "size": size}
            for digest, size in zip(digests, sizes, strict=True)
        ],
    }
    whole = json.dumps(described).encode()
    named = {**_blob("manifest.v1+json", whole), "annotations": {"io.containerd.image.name": name}}
    with tarfile.open(path, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [named]}).encode())
        for blob in (added.getvalue(), words, whole):
            _add(tar, f"blobs/sha256/{_digest(blob)}", blob)
    return path


def _blob(kind: str, octets: bytes) -> dict[str, str | int]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{_digest(octets)}", "size": len(octets)}


def _content(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tar.extractfile(name)
    assert file, f"{name} is no file"
    return file


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
