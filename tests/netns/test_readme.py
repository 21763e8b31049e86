"""What the README's section "Use it" says, in one shell, on a machine that has the interfaces which it names; and what
`--help` of the commands shows."""

import json
import subprocess
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tests.pages import alone, blocks, clone, examples

PAGE, SECTION = "README.md", "Use it"
MACHINE = """
mount -t tmpfs tmpfs /run && mkdir -p "$PWD" && mount -c --bind . "$PWD" && cd "$PWD"
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


INTERRUPTED = """
interrupted() {
    set -m; bash -c "$1" >"$2" 2>&1 & local job=$!; set +m
    until grep -q capturing "$2"; do kill -0 $job; sleep 0.1; done
    ping -c 3 -i 0.1 10.0.9.5 >ping.txt; curl -s -m 1 http://10.0.9.5:443/ || true
    sleep 0.5; kill -INT -- -$job; wait $job
}
"""
"""Runs a command, in a process group of its own, until Ctrl-C; meanwhile there is traffic on eth0."""
COPIED = "(until ping -c 1 10.0.9.5 >/dev/null && test -s wireshark.txt; do sleep 0.2; done)"


def test_use_it(tmp_path: Path) -> None:
    """The agent with this very YAML mirrors, and reaches the analyzer; so the other commands have something to tell."""
    (commands, yaml, _) = blocks(PAGE, SECTION)
    clone(tmp_path)
    (tmp_path / "web.yaml").write_text(yaml.text)
    (tmp_path / "mirrors.yaml").write_text(yaml.text)
    wrpcap(str(tmp_path / "trace.pcap"), [Ether() / IP() / TCP(dport=port) for port in (80, 443)])
    executable(tmp_path / "programs/wireshark", '[ "$*" = "-k -i -" ] && exec tshark -n -i - -c 5 >wireshark.txt')
    executable(tmp_path / "programs/sudo", 'exec "$@"')
    script = commands.script.replace("sniffer doctor", "sniffer doctor || test $? = 1")
    lines = [MACHINE, "cp web.yaml /etc/sniffer/", alone(PAGE, "ethtool -K DEV").replace("DEV", "eth0")]
    lines += [
        "{",
        script,
        "} >agent.txt 2>&1 &",
        "trap 'kill %1; wait' EXIT",
        "PATH=$PWD/programs:$PWD/.venv/bin:$PATH",
    ]
    lines += ["until sniffer status --json >status.json && grep -q Programmed status.json; do sleep 0.2; done"]
    lines += [INTERRUPTED, *map(example, examples()), "cp ping.txt pinged.txt"]
    lines += [f"interrupted '{alone('docs/plugin.md', 'sniffer capture --interface')}' frames.txt"]
    lines += [f"echo 'ip -o link' | {alone('CONTRIBUTING.md', 'sudo scripts/isolated bash')} >links.txt"]
    command = ["unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc", "bash"]
    done = subprocess.run(
        [*command, "-euo", "pipefail", "-c", "\n".join(lines)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "status.json").read_text())["mirrors"]
    assert {row["name"]: (row["state"], row["interfaces"]) for row in rows} == {
        name: ("Programmed", ["eth0"]) for name in ("web", "rest")
    }
    assert {end["state"] for row in rows for to in row["targets"] for end in to["endpoints"]} == {"reachable"}
    assert '{"name":"rest","state":"Programmed","dropped":' in done.stdout.replace(" ", "").replace("\n", "")
    assert "1 of 2 frames" in done.stdout
    for name, words in (("capture.txt", "443 "), ("wireshark.txt", "10.0.9.5"), ("frames.txt", "Echo (ping) request")):
        assert words in (tmp_path / name).read_text(), name
    assert "eth0" not in (tmp_path / "links.txt").read_text()
    assert "lo:" in (tmp_path / "links.txt").read_text()


def example(line: str) -> str:
    """A line of `--help`, for that shell; what is about a cluster is run in one (tests/cluster/test_docs.py)."""
    if "kube" in line or line == alone("docs/how-to/lost-copies.md", "sniffer trace"):
        return ""
    if "sniffer agent" in line:
        return f"pgrep -f '{line}' >/dev/null  # the page has started it"
    if "sniffer capture" in line:
        return f'interrupted "{line}" capture.txt'
    if "sniffer recv" in line:
        return f'{COPIED} & copied=$!\nip netns exec analyzer bash -c "{line}"; wait $copied'
    return line


def executable(path: Path, line: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
