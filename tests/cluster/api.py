"""A plain client of the API server: what tests ask of it a hundred times, without a process each time."""

import http.client
import json
import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.cluster.pki import Credentials

Document = dict[str, Any]
User = str | tuple[str, Sequence[str]]
"""A user's name, alone or with groups."""


class ApiError(AssertionError):
    """What the API server refused. `status` is the HTTP status, `reason` Kubernetes' word for it."""

    def __init__(self, status: int, answer: Document, about: str) -> None:
        self.status, self.reason = status, str(answer.get("reason", ""))
        self.message = str(answer.get("message", answer))
        super().__init__(f"{about}: {status} {self.reason}: {self.message}")


class Api:
    """An administrator's connection, one to a thread, opened again when the server has closed it."""

    def __init__(self, host: str, port: int, authority: Path, credentials: Credentials) -> None:
        self.host, self.port = host, port
        self.tls = ssl.create_default_context(cafile=str(authority))
        self.tls.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 in a pod does
        self.tls.load_cert_chain(credentials.certificate, credentials.key)
        self._local = threading.local()
        self._resources: dict[str, tuple[str, bool]] = {}

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        as_user: User | None = None,
        timeout: float = 15.0,
    ) -> tuple[int, Document]:
        """One request; the answer is the HTTP status and the document. OSError when the server cannot be reached.

        `as_user`: who the server is to take us for, by impersonation.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type}
        connection = self._connection(timeout)
        try:
            connection.putrequest(method, path)
            content = None if body is None else json.dumps(body).encode()
            if content is not None:
                headers["Content-Length"] = str(len(content))
            for name, value in [*headers.items(), *_impersonation(as_user)]:
                connection.putheader(name, value)
            connection.endheaders(content)
            response = connection.getresponse()
            text = response.read()
            self._local.headers = response.headers
        except (OSError, http.client.HTTPException) as error:
            self._forget()
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        return response.status, _document(text)

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Document:
        """`request`, once more on a connection that was closed meanwhile; ApiError for whatever is not success."""
        try:
            status, answer = self.request(method, path, body, **options)
        except ConnectionError:
            status, answer = self.request(method, path, body, **options)
        if status >= 300:
            raise ApiError(status, answer, f"{method} {path}")
        return answer

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the last answer that this thread had."""
        headers: Mapping[str, str] = self._local.headers
        return headers

    def path(self, kind: str, name: str | None = None, namespace: str | None = None, **query: str) -> str:
        """Where a resource lives. `kind`: `Pod`, or with its group where two have one name: `Event.events.k8s.io`."""
        prefix, namespaced = self._resource(kind)
        base, plural = prefix.rsplit("/", 1)
        where = f"/namespaces/{namespace or 'default'}" if namespaced and (namespace or name) else ""
        tail = f"/{quote(name)}" if name else ""
        return f"{base}{where}/{plural}{tail}" + (f"?{urlencode(query)}" if query else "")

    def path_of(self, document: Mapping[str, Any], **query: str) -> str:
        """Where this document lives."""
        group = document["apiVersion"].rpartition("/")[0]
        kind = f"{document['kind']}.{group}" if group else document["kind"]
        metadata = document["metadata"]
        return self.path(kind, metadata["name"], metadata.get("namespace"), **query)

    def _connection(self, timeout: float) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=timeout)
            self._local.connection = connection
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def _forget(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _resource(self, kind: str) -> tuple[str, bool]:
        if kind not in self._resources:
            self._discover()
        if kind not in self._resources:
            raise AssertionError(f"the API server knows no kind {kind}")
        return self._resources[kind]

    def _discover(self) -> None:
        """Asks for every kind there is: the preferred version of each group."""
        groups = self.ask("GET", "/apis")["groups"]
        preferred = {group["name"]: f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups}
        for group, base in [("", "/api/v1"), *preferred.items()]:
            for resource in self.ask("GET", base)["resources"]:
                if "/" in resource["name"]:
                    continue
                found = (f"{base}/{resource['name']}", resource["namespaced"])
                self._resources.setdefault(resource["kind"], found)
                self._resources[f"{resource['kind']}.{group}"] = found


def _impersonation(as_user: User | None) -> list[tuple[str, str]]:
    if as_user is None:
        return []
    name, groups = (as_user, ()) if isinstance(as_user, str) else as_user
    return [("Impersonate-User", name), *(("Impersonate-Group", group) for group in groups)]


def _document(text: bytes) -> Document:
    try:
        answer = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return answer if isinstance(answer, dict) else {"message": answer}
