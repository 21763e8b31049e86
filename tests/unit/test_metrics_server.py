"""Who is served what: plain on loopback, elsewhere by TLS and by token; refusals say what would be allowed."""

import contextlib
import http.client
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from sniffer.cluster.access import Decision
from sniffer.errors import InputError, MachineError
from sniffer.metrics import server
from sniffer.metrics.server import Place, guarded, parse, serve


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    certificate(directory, "sniffer-metrics")
    return directory


def certificate(directory: Path, name: str) -> None:
    words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}".split()
    files = ["-keyout", directory / "tls.key", "-out", directory / "tls.crt", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(["openssl", *words, *files], check=True, capture_output=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(fault: str | None = None, **fields: object) -> Iterator[int]:
    registry = CollectorRegistry(auto_describe=False)
    Gauge("seven", "A number.", registry=registry).set(7)
    port = free_port()
    serve("--metrics", Place("127.0.0.1", port, **fields), registry, {"/healthz": lambda: fault})  # type: ignore[arg-type]
    yield port


def ask(port: int, path: str = "/metrics", tls: Path | None = None, name: str = "", **headers: str) -> tuple[int, str]:
    if tls:
        context = ssl.create_default_context(cafile=str(tls / "tls.crt"))
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
        connection.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), 5), server_hostname=name or "sniffer-metrics"
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)  # type: ignore[assignment]
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def by_token(token: str) -> Decision:
    return {"": Decision.UNAUTHENTICATED, "good": Decision.ALLOWED}.get(token, Decision.FORBIDDEN)


@pytest.mark.parametrize("address", ["127.0.0.1:9750", "127.9.9.9:1", "localhost:9750", "[::1]:65535"])
def test_loopback_is_plain(address: str) -> None:
    place = guarded("--metrics", address, None, None)
    assert place.tls is None
    assert place.host in {"127.0.0.1", "127.9.9.9", "::1"}


@pytest.mark.parametrize("address", ["0.0.0.0:9750", "10.9.0.1:9750", "[::]:9750", "[fd00::1]:1"])
def test_the_world_is_not_served_in_plain(address: str, tls: Path) -> None:
    with pytest.raises(InputError, match="--metrics-tls DIR: HTTPS, and the API server is asked who scrapes"):
        guarded("--metrics", address, None, lambda: by_token)
    with pytest.raises(InputError, match="where an API server can be asked"):
        guarded("--metrics", address, tls, None)
    assert guarded("--metrics", address, tls, lambda: by_token).reviewer is by_token


@pytest.mark.parametrize(
    "address",
    ["nonsense", "127.0.0.1", ":9750", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:٣", "::1:9750", "[127.0.0.1]:9"],
)
def test_no_address(address: str) -> None:
    with pytest.raises(InputError, match=r"allowed ADDRESS:PORT as in 127.0.0.1:9750"):
        parse("--metrics", address)


def test_no_name_is_looked_up() -> None:
    with pytest.raises(InputError):
        parse("--metrics", "metrics.example.org:9750")


def test_no_certificate(tmp_path: Path, tls: Path) -> None:
    for words in ("No such file", "PEM"):
        with pytest.raises(InputError, match=f"{words}.*allowed a directory with tls.crt and tls.key"):
            guarded("--metrics", "0.0.0.0:9750", tmp_path, lambda: by_token)
        (tmp_path / "tls.crt").write_text("no certificate")
        (tmp_path / "tls.key").write_text("no key")


def test_plain() -> None:
    with serving() as port:
        status, text = ask(port)
        assert (status, text.splitlines()[-1]) == (200, "seven 7.0")
        assert ask(port, "/healthz") == (200, "ok\n")
        assert ask(port, "/else")[0] == 404


def test_a_loop_that_stands_still() -> None:
    with serving(fault="the loop stands still") as port:
        assert ask(port, "/healthz") == (503, "the loop stands still\n")
        assert ask(port)[0] == 200


def test_health_alone() -> None:
    port = free_port()
    serve("--health", Place("127.0.0.1", port), None)
    assert ask(port, "/healthz")[0] == 200
    assert ask(port)[0] == 404


def test_by_token(tls: Path) -> None:
    """G22: series name pods' mirrors."""
    with serving(tls=tls, reviewer=by_token) as port:
        assert ask(port, tls=tls, Authorization="Bearer good")[0] == 200
        assert ask(port, tls=tls, Authorization="bearer  good")[0] == 200
        assert ask(port, tls=tls, Authorization="Bearer bad")[0] == 403
        assert ask(port, tls=tls, Authorization="Basic good")[0] == 401
        assert ask(port, tls=tls)[0] == 401
        assert ask(port, "/healthz", tls=tls)[0] == 200
        with pytest.raises(OSError, match="Hostname mismatch"):
            ask(port, tls=tls, name="another")
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(port)


def test_a_certificate_is_renewed(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    with serving(tls=tmp_path) as port:
        assert ask(port, tls=tmp_path, name="first")[0] == 200
        certificate(tmp_path, "second")
        assert ask(port, tls=tmp_path, name="second")[0] == 200
        (tmp_path / "tls.crt").write_text("broken")
        with pytest.raises(OSError, match=r"NO_CERTIFICATE_OR_CRL_FOUND|PEM"):
            ask(port, tls=tmp_path)


@pytest.mark.parametrize("secure", [False, True])
def test_callers_that_say_nothing(tls: Path, secure: bool) -> None:
    """They have all places, and take what is free again; who has something to say is served at once. The
    oldest are left, of whoever has most."""
    files = tls if secure else None
    with serving(tls=files) as port, contextlib.ExitStack() as stack:

        def mute(source: str, count: int) -> list[socket.socket]:
            made = [socket.create_connection(("127.0.0.1", port), 5, (source, 0)) for _ in range(count)]
            return [stack.enter_context(one) for one in made]

        few, many = mute("127.0.0.9", 2), mute("127.0.0.1", server.CONNECTIONS_LIMIT)
        for _ in range(3):
            assert ask(port, "/healthz", tls=files) == (200, "ok\n")
            assert many.pop(0).recv(1) == b""  # left
        mute("127.0.0.1", 3 * server.CONNECTIONS_LIMIT)
        assert ask(port, tls=files)[0] == 200
        for one in few:
            one.settimeout(0)
            with pytest.raises(BlockingIOError):
                one.recv(1)


def test_a_port_that_is_taken() -> None:
    with serving() as port, pytest.raises(MachineError, match="cannot be served: Address already in use"):
        serve("--metrics", Place("127.0.0.1", port), None)
