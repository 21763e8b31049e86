"""The tutorial, from the first command to the last, in one shell; and again with what it teaches broken."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.pages import clone, script

PAGE = "docs/tutorial.md"
APT_GET = '#!/bin/sh\nexec /usr/bin/apt-get -o Debug::NoLocking=1 --no-upgrade --no-download "$@"\n'
"""Without a network: it takes what is installed, and knows no other name."""
MACHINE = """
mount -t tmpfs tmpfs /run && mkdir -p "$PWD" && mount -c --bind . "$PWD" && cd "$PWD"
mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && ip link set lo up
"""


def follow(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs commands, and ends at the first that fails."""
    commands = f"set -euo pipefail\n{text}"
    clone(directory)
    programs = directory / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text(APT_GET)
    (programs / "apt-get").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    # Namespaces of its own: whatever a broken page leaves behind goes with them.
    command = ["unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]
    return subprocess.run(
        [*command, MACHINE + commands],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def alerts(directory: Path) -> list[dict[str, object]]:
    lines = (directory / "suricata/eve.json").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event_type"] == "alert"]


def test_the_tutorial(tmp_path: Path) -> None:
    done = follow(script(PAGE), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<h1>shop</h1>" in done.stdout
    (alert,) = alerts(tmp_path)  # the second request was after the edit
    assert (alert["src_ip"], alert["dest_ip"]) == ("10.1.0.1", "10.1.0.20")


@pytest.mark.timeout(60)
def test_a_page_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    wrong = script(PAGE).replace("vni: 4242", "vni: 16777216")
    done = follow(wrong, tmp_path)
    assert done.returncode == 1
    assert "spec.encapsulation.vxlan.vni: given 16777216" in done.stdout + done.stderr
