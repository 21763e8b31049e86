"""Keys, certificates and kubeconfigs of one cluster, by openssl."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.topology import run

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
_DAYS = 2


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key and its certificate, as files."""

    key: Path
    certificate: Path


class Authority:
    """The cluster's certificate authority; `directory` is its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        files = ("-keyout", self._key, "-out", self.certificate)
        usage = ("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign")
        run("openssl", "req", "-x509", *_EC, *files, "-subj", "/CN=sniffer test CA", "-days", _DAYS, *usage)
        self._made: dict[tuple[str, tuple[str, ...]], Credentials] = {}

    def server(self, name: str, alternatives: Sequence[str]) -> Credentials:
        """A server's certificate; `alternatives` as openssl writes them: `IP:10.0.0.1`, `DNS:kubernetes`."""
        names = ",".join(alternatives)
        return self._issue(name, f"/CN={name}", "serverAuth", f"subjectAltName={names}")

    def client(self, user: str, groups: Sequence[str] = ()) -> Credentials:
        """A client's certificate: the API server takes it for this user of these groups. Made once for each."""
        who = (user, tuple(groups))
        if who not in self._made:
            subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
            self._made[who] = self._issue(f"client-{len(self._made)}", subject, "clientAuth")
        return self._made[who]

    def signing_key(self, name: str) -> Path:
        """An RSA key, to sign tokens of service accounts with."""
        path = self.directory / f"{name}.key"
        run("openssl", "genrsa", "-out", path, 2048)
        return path

    def _issue(self, name: str, subject: str, usage: str, *more: str) -> Credentials:
        made = Credentials(self.directory / f"{name}.key", self.directory / f"{name}.crt")
        issuer = ("-CA", self.certificate, "-CAkey", self._key, "-days", _DAYS)
        files = ("-keyout", made.key, "-out", made.certificate)
        extensions = (
            "keyUsage=critical,digitalSignature",
            f"extendedKeyUsage={usage}",
            "basicConstraints=critical,CA:FALSE",
        )
        options = [word for extension in (*extensions, *more) for word in ("-addext", extension)]
        run("openssl", "req", "-x509", *_EC, *issuer, *files, "-subj", subject, *options)
        return made


def kubeconfig(path: Path, server: str, authority: Path, credentials: Credentials) -> Path:
    """Writes a kubeconfig that needs no other file (JSON is YAML)."""

    def content(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    user = {
        "client-certificate-data": content(credentials.certificate),
        "client-key-data": content(credentials.key),
    }
    cluster = {"server": server, "certificate-authority-data": content(authority)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path
