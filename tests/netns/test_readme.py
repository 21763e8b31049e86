"""What the README's section "Use it" says, in one shell, on a machine that has the interfaces which it names."""

import json
import os
import subprocess
from pathlib import Path

from tests.agent import SNIFFER
from tests.pages import blocks

PAGE, SECTION = "README.md", "Use it"
MACHINE = """
mount -t tmpfs tmpfs /run
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mkdir -p etc && mount -t tmpfs tmpfs etc && cp -r /etc/. etc && mount --bind etc /etc && mkdir -p /etc/sniffer
ip link set lo up
ip netns add analyzer
ip link add eth0 type veth peer name ana0 netns analyzer
ip address add 10.0.9.1/24 dev eth0
ip link set eth0 up
ip -n analyzer address add 10.0.9.5/24 dev ana0
ip -n analyzer link set ana0 up
"""


def test_use_it(tmp_path: Path) -> None:
    """The agent with this very YAML mirrors, and reaches the analyzer."""
    (commands, yaml, _) = blocks(PAGE, SECTION)
    (tmp_path / "web.yaml").write_text(yaml.text)
    script = commands.script.replace("sniffer doctor", "sniffer doctor || test $? = 1")
    lines = [MACHINE, "cp web.yaml /etc/sniffer/", "{", script, "} &", "trap 'kill %1; wait' EXIT"]
    lines += ["until sniffer status --json >status.json && grep -q Programmed status.json; do sleep 0.2; done"]
    command = [
        "unshare",
        "--pid",
        "--net",
        "--mount",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "bash",
        "-euo",
        "pipefail",
    ]
    environment = {**os.environ, "PATH": f"{SNIFFER.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "-c", "\n".join(lines)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "status.json").read_text())["mirrors"]
    assert {row["name"]: (row["state"], row["interfaces"]) for row in rows} == {
        name: ("Programmed", ["eth0"]) for name in ("web", "rest")
    }
    assert {end["state"] for row in rows for to in row["targets"] for end in to["endpoints"]} == {"reachable"}
