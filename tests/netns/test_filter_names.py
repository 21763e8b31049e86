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

TEXTS = 60_000
NAMES = ["zeek", "www.example.com", "\\tcp", "fe80", "10.0.0.1.5", "a-b", "1:2", "default-gw.", "ethernet", "zz9"]
ADDRESSES = ["10.0.0.1", "10.1", "fe80::1", "10.0.0.0/8"]
PORTS = ["80", "domain", "0x10"]
# What a primitive begins with, and what may follow it.
PRIMITIVES = {
    "host": ADDRESSES,
    "ip src": ADDRESSES,
    "arp dst host": ADDRESSES,
    "src or dst net": ADDRESSES,
    "net": ADDRESSES,
    "ether host": ["aa:bb:cc:dd:ee:ff", "aabb.ccdd.eeff", "$5"],
    "port": PORTS,
    "tcp src port": PORTS,
    "portrange": [*PORTS, "5-9", "domain-http"],
    "ip proto": ["\\tcp", "udp", "6"],
    "ip6 protochain": ["\\tcp", "6"],
    "gateway": ["10.0.0.1"],
    "wlan addr1": ["aa:bb:cc:dd:ee:ff"],
}
ALONE = ["vlan", "mpls 5", "tcp[0] = 1", "len > 5", "5 = len", "ether broadcast", "llc i", "on eth0", "tcp", "less 60"]
CHARACTERS = "0123456789abcdefx:.-$\\ \n_[]()/ghostnerp&|!="


def random_filter(chance: random.Random, depth: int = 0) -> str:
    """Mostly right, with names in every place that the grammar has."""
    terms = [_term(chance, depth) for _ in range(chance.randint(1, 4))]
    return "".join(f"{term} {chance.choice(['and', 'or'])} " for term in terms[:-1]) + terms[-1]


def _term(chance: random.Random, depth: int) -> str:
    prefix = "not " if chance.random() < 0.15 else ""
    kind = chance.random()
    if kind < 0.45:
        start, operands = chance.choice(list(PRIMITIVES.items()))
        return f"{prefix}{start} {chance.choice(NAMES if chance.random() < 0.1 else operands)}"
    if kind < 0.7:
        return prefix + chance.choice(chance.choice([NAMES, ADDRESSES, PORTS]))
    if kind < 0.8 or depth > 2:
        return prefix + chance.choice(ALONE)
    start = chance.choice(["", "", *PRIMITIVES])
    return f"{prefix}{start} ({random_filter(chance, depth + 1)})"


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
