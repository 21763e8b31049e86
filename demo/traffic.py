"""The production side: what runs in the pod and in its client. `python -m demo.traffic serve | ask`.

Both ends are ordinary: http.server, urllib, UDP sockets, ping(8) and the kernel's own ARP. `ask` goes on until its
standard input ends, then finishes its round and prints what it asked for and what was answered, as JSON.
"""

import contextlib
import json
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

POD = "10.1.0.20"
PAGES = {"/": b"<h1>hello</h1>\n", "/catalogue": b"an article of the catalogue\n" * 700}
"""A page of one frame, and one of 19,600 bytes: full frames, whose copies exceed the underlay's MTU."""
NAMES = ("shop.example", "pay.example", "static.example")
PAUSE_S = 0.04
TIMEOUT_S = 10


class Shop(BaseHTTPRequestHandler):
    """Answers GET with a page."""

    def do_GET(self) -> None:
        page = PAGES[self.path]
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *words: object) -> None:
        """Says nothing: the demo talks."""


def serve() -> None:
    """HTTP at port 80 and DNS at port 53 of the pod; prints a line when both listen."""
    web = ThreadingHTTPServer((POD, 80), Shop)
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind((POD, 53))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    print("listening", flush=True)
    while True:
        query, client = names.recvfrom(512)
        names.sendto(answer(query), client)


def question(number: int, name: str) -> bytes:
    """A DNS query for an A record, RFC 1035."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)


def answer(query: bytes) -> bytes:
    """The answer to any such query: 192.0.2.80."""
    record = struct.pack("!HHHIH4s", 0xC00C, 1, 1, 60, 4, socket.inet_aton("192.0.2.80"))
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + query[12:] + record


def get(number: int) -> bool:
    """One HTTP request, each third of the large page."""
    path = "/catalogue" if number % 3 == 2 else "/"
    with urllib.request.urlopen(f"http://{POD}{path}", timeout=TIMEOUT_S) as reply:
        return bool(reply.read() == PAGES[path])


def resolve(number: int) -> bool:
    """One DNS query."""
    query = question(random.randrange(1 << 16), NAMES[number % len(NAMES)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
        names.settimeout(TIMEOUT_S)
        names.sendto(query, (POD, 53))
        return names.recv(512) == answer(query)


def ping(number: int) -> bool:
    """One echo request, each third of full size."""
    size = 1472 if number % 3 == 1 else 56
    line = ["ping", "-q", "-c", "1", "-W", str(TIMEOUT_S), "-s", str(size), POD]
    return subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode == 0


def forget(_number: int) -> bool:
    """Forgets the pod's MAC address, so that the next packet is preceded by ARP."""
    return subprocess.run(["ip", "neighbour", "flush", "dev", "eth0"], check=False).returncode == 0


def ask() -> None:
    """Rounds of everything until standard input ends."""
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    acts: dict[str, Callable[[int], bool]] = {"ARP": forget, "DNS": resolve, "HTTP": get, "ICMP": ping}
    number = 0
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        for kind, act in acts.items():
            asked[kind] += 1
            with contextlib.suppress(OSError):  # asked and not answered: the demo says so
                answered[kind] += act(number)
        number += 1
    print(json.dumps({"asked": asked, "answered": answered}))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the demo's to handle
    {"serve": serve, "ask": ask}[sys.argv[1]]()
