"""No filter makes libpcap ask a name server: watched on the name server's socket."""

import json
import random
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from sniffer import pcap
from sniffer.errors import FilterError
from tests.filters import FILTERS

TEXTS = 100_000
NAMES = ["zeek", "www.example.com", "\\tcp", "fe80", "10.0.0.1.5", "a-b", "1:2", "default-gw.", "ethernet", "zz9"]
ADDRESSES = ["10.0.0.1", "10.1", "fe80::1", "80", "5-9", "aa:bb:cc:dd:ee:ff", "10.0.0.0/8", "domain", "0x10", "$5"]
OPERANDS = NAMES + ADDRESSES
CHARACTERS = "0123456789abcdefx:.-$\\ \n_[]()/ghostnerp&|!="


def random_filter(chance: random.Random, depth: int = 0) -> str:
    """Mostly right, with names in every place that the grammar has."""
    kind = chance.random()
    if depth > 3 or kind < 0.4:
        protocol = chance.choice(["", "", "tcp ", "ip ", "ip6 ", "ether ", "arp ", "wlan "])
        direction = chance.choice(["", "", "src ", "dst ", "src or dst ", "addr1 "])
        what = chance.choice(["host ", "net ", "port ", "portrange ", "proto ", "protochain ", "gateway ", ""])
        return protocol + direction + what + chance.choice(OPERANDS)
    if kind < 0.5:
        return chance.choice(OPERANDS)
    if kind < 0.6:
        return f"not {random_filter(chance, depth + 1)}"
    if kind < 0.75:
        return f"({random_filter(chance, depth + 1)})"
    if kind < 0.8:
        return chance.choice(["vlan", "mpls 5", "tcp[0] = 1", "len > 5", "5 = len", "broadcast", "llc i", "on eth0"])
    return f"{random_filter(chance, depth + 1)} {chance.choice(['and', 'or'])} {random_filter(chance, depth + 1)}"


def scrambled(text: str, chance: random.Random) -> str:
    if text and chance.random() < 0.2:
        at = chance.randrange(len(text))
        return text[:at] + chance.choice(CHARACTERS) + text[at + chance.randint(0, 1) :]
    return text


def watch() -> dict[str, int]:
    """Runs inside of namespaces of its own, where 127.0.0.1 is the only name server."""
    questions: list[bytes] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            question, asker = server.recvfrom(4096)
            questions.append(question)
            server.sendto(question[:2] + b"\x81\x83" + question[4:], asker)  # NXDOMAIN

    threading.Thread(target=answer, daemon=True).start()
    # libpcap left to itself does ask: for hosts, and here for networks too.
    asked = []
    for text in ("host seen.example", "net seen"):
        before = len(questions)
        with suppress(FilterError):
            pcap._compiled(text, optimise=False)
        asked.append(len(questions) - before)
    before = len(questions)
    chance = random.Random(7)
    compiled = 0
    for number in range(TEXTS):
        text = FILTERS[number] if number < len(FILTERS) else scrambled(random_filter(chance), chance)
        with suppress(FilterError):
            pcap.compile(text)
            compiled += 1
    return {"hosts": asked[0], "networks": asked[1], "compiled": compiled, "leaked": len(questions) - before}


def test_no_filter_asks_a_name_server(tmp_path: Path) -> None:
    """I7: host names are refused before libpcap can look them up."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (tmp_path / "nsswitch.conf").write_text(
        "hosts: files dns\nnetworks: files dns\nservices: files\nprotocols: files\n"
    )
    script = f"""
        ip link set lo up
        for file in resolv.conf nsswitch.conf; do
            # glibc asks 127.0.0.1 where there is no resolv.conf.
            ! test -e /etc/$file || mount --bind {tmp_path}/$file /etc/$file
        done
        exec {sys.executable} -m tests.netns.test_filter_names
    """
    inside = ["unshare", "--net", "--mount", "sh", "-euc", script]
    run = subprocess.run(inside, capture_output=True, text=True, timeout=240, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["hosts"] > 0, "the watch itself sees nothing"
    assert found["networks"] > 0, "the watch itself sees nothing"
    assert found["compiled"] > TEXTS / 40, "too few filters came as far as libpcap"
    assert found["leaked"] == 0


if __name__ == "__main__":
    print(json.dumps(watch()))
