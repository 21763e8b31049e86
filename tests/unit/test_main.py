"""The console script."""

import signal
import subprocess
import sys

INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "sniffer.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from sniffer.__main__ import main
main()
"""


def test_ctrl_c_while_modules_are_loaded() -> None:
    """No traceback: that takes half a second, and many times that on a busy machine."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "sniffer", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
