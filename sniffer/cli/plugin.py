"""`sniffer plugin`: the kubectl plugin as one file that needs nothing but Python."""

import io
import os
import sys
import zipfile
from pathlib import Path

import sniffer
from sniffer.errors import InputError

_ROOT = Path(sniffer.__file__).parent
_PARTS = ("__init__.py", "errors.py", "model/__init__.py", "model/problem.py", "plugin/*.py")
"""What the plugin is made of: the standard library and these."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("sniffer: this plugin needs Python 3.11 or later, python3 is " + sys.version.split()[0])
from sniffer.plugin.main import main

main()
"""


def write() -> None:
    """Writes it to standard output. InputError: that is a terminal."""
    if sys.stdout.isatty():
        raise InputError("standard output: given a terminal, allowed a file, as in `> /usr/local/bin/kubectl-sniffer`")
    with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as output:
        output.write(archive())


def archive() -> bytes:
    """A zip archive that Python runs (PEP 441); the same sources make the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for part in _PARTS for path in _ROOT.glob(part)):
            _add(packed, f"sniffer/{path.relative_to(_ROOT)}", path.read_text())
        _add(packed, "__main__.py", _MAIN)
    return _SHEBANG + content.getvalue()


def _add(packed: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    packed.writestr(entry, text)
