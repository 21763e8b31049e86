"""The API server: requests with JSON in and out, and streams of watch events. No typed models: they cost ten times the
memory. The kubernetes library finds the server, its CA and our credentials; its connection pool is used directly.
"""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self
from urllib.parse import urlencode

import urllib3
from kubernetes import config
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

import sniffer
from sniffer.cluster.stream import Stream
from sniffer.errors import ApiError, InputError, MachineError

Parameters = Mapping[str, str | int | bool]

NOTHING: Parameters = MappingProxyType({})

CONNECT_S = 3.0
DEAD_S = 15
"""After so long a peer that is gone is noticed, though nothing is sent."""
POOL = 32
READY_S = 0.9
MESSAGE_LENGTH = 500

_JSON = "application/json"
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json;q=0.1"
_PATCHES = {"merge": "application/merge-patch+json", "apply": "application/apply-patch+yaml"}

# Three probes, 5 s apart; what was sent and is not acknowledged has as long.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_S * 1000),
]


class Client:
    """One API server. Threads may share it.

    Every request raises ApiError.
    """

    def __init__(self, load: Callable[[Configuration], None]) -> None:
        """load: fills a configuration; it is called again when the server no longer takes our credentials."""
        self._load = load
        self._configuration = Configuration()
        self._configuration.socket_options = _SOCKET_OPTIONS
        self._configuration.connection_pool_maxsize = POOL
        load(self._configuration)
        self.host: str = self._configuration.host
        """URL."""
        self._pool: urllib3.PoolManager = RESTClientObject(self._configuration).pool_manager
        self._pool.connection_pool_kw["ssl_context"] = _tls(self._configuration.verify_ssl)
        self._lock = threading.Lock()
        self._readiness = threading.Lock()
        self._ready = (0.0, False)

    @classmethod
    def load(cls, kubeconfig: Path | None) -> Self:
        """kubeconfig: None is the pod that this runs in. InputError: no such file, or not a kubeconfig; MachineError:
        not in a pod.
        """
        if kubeconfig is None:
            try:
                return cls(lambda configuration: config.load_incluster_config(client_configuration=configuration))
            except (ConfigException, OSError) as error:
                fix = "run it in a pod with a ServiceAccount, or give --kubeconfig FILE"
                raise MachineError(f"there is no API server to be found here ({error})", fix) from None
        try:
            return cls(lambda c: config.load_kube_config(str(kubeconfig), client_configuration=c, persist_config=False))
        except (ConfigException, OSError, ValueError, TypeError) as error:
            raise InputError(f"--kubeconfig: given {kubeconfig}, allowed a kubeconfig file ({error})") from None

    def close(self) -> None:
        """Closes idle connections."""
        self._pool.clear()

    def get(
        self, path: str, parameters: Parameters = NOTHING, metadata_only: bool = False, timeout_s: float = 10
    ) -> dict[str, Any]:
        """An object, or a list. metadata_only: apiVersion, kind and metadata."""
        accept = _METADATA.format(_list(path)) if metadata_only else _JSON
        return self._answer("GET", path, parameters, accept=accept, timeout_s=timeout_s)

    def create(self, path: str, body: Mapping[str, Any], timeout_s: float = 10) -> dict[str, Any]:
        """path: of the collection."""
        return self._answer("POST", path, {"fieldManager": "sniffer"}, body, timeout_s=timeout_s)

    def replace(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """ApiError Conflict: the object is no longer of the body's metadata.resourceVersion."""
        return self._answer("PUT", path, {"fieldManager": "sniffer"}, body)

    def patch(
        self,
        path: str,
        body: Mapping[str, Any],
        kind: Literal["merge", "apply"] = "merge",
        field_manager: str = "sniffer",
        force: bool = True,
    ) -> dict[str, Any]:
        """apply: server-side apply; force takes fields over from other managers."""
        parameters: dict[str, str | bool] = {"fieldManager": field_manager}
        if kind == "apply":
            parameters["force"] = force
        return self._answer("PATCH", path, parameters, body, content_type=_PATCHES[kind])

    def delete(self, path: str) -> dict[str, Any]:
        """The object, or a Status."""
        return self._answer("DELETE", path, NOTHING)

    def watch(
        self, path: str, parameters: Parameters = NOTHING, metadata_only: bool = False, timeout_s: float = 90
    ) -> Stream:
        """timeout_s: how long the server may say nothing at all before the watch counts as dead."""
        accept = _METADATA.format("") if metadata_only else _JSON
        response = self._request("GET", path, {**parameters, "watch": True}, accept=accept, timeout_s=timeout_s)
        if response.status != 200:
            raise _error(response)
        return Stream(response)

    def ready(self) -> bool:
        """Whether the server says that it is; asked once a second at most, however many threads want to know."""
        with self._readiness:
            asked_s, answer = self._ready
            if time.monotonic() - asked_s > READY_S:
                try:
                    answer = _read(self._request("GET", "/readyz", NOTHING, timeout_s=1.5)).status == 200
                except ApiError:
                    answer = False
                self._ready = (time.monotonic(), answer)
            return answer

    def _answer(
        self,
        method: str,
        path: str,
        parameters: Parameters,
        body: Mapping[str, Any] | None = None,
        accept: str = _JSON,
        content_type: str = _JSON,
        timeout_s: float = 10,
    ) -> dict[str, Any]:
        response = _read(self._request(method, path, parameters, body, accept, content_type, timeout_s))
        if not 200 <= response.status < 300:
            raise _error(response)
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(0, "Malformed", f"{path}: the answer is not a JSON object")
        return answer

    def _request(
        self,
        method: str,
        path: str,
        parameters: Parameters,
        body: Mapping[str, Any] | None = None,
        accept: str = _JSON,
        content_type: str = _JSON,
        timeout_s: float = 10,
    ) -> urllib3.BaseHTTPResponse:
        """With fresh credentials once more, where the server takes ours no longer."""
        headers = {"Accept": accept, "User-Agent": f"sniffer/{sniffer.__version__}"}
        if body is not None:
            headers["Content-Type"] = content_type
        query = urlencode({k: str(v).lower() if isinstance(v, bool) else v for k, v in parameters.items()})
        url = f"{self.host}{path}?{query}" if query else f"{self.host}{path}"
        payload = None if body is None else json.dumps(body).encode()
        for renew in (False, True):
            try:
                response = self._pool.request(
                    method,
                    url,
                    body=payload,
                    headers={**headers, **self._credentials(renew)},
                    timeout=urllib3.Timeout(connect=CONNECT_S, read=timeout_s),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
            except (HTTPError, OSError) as error:
                raise _no_answer(self.host, error) from error
            if response.status != 401 or renew:
                break
            _read(response)
        return response

    def _credentials(self, renew: bool) -> dict[str, str]:
        """A token's file is read again by the library every minute, and here when it has to be."""
        with self._lock:
            try:
                if renew:
                    self._load(self._configuration)
                settings = self._configuration.auth_settings().values()
            except (ConfigException, OSError, ValueError, TypeError) as error:
                raise ApiError(0, "NoCredentials", f"the credentials cannot be read: {error}") from error
        return {item["key"]: item["value"] for item in settings if item["in"] == "header" and item["value"]}


def _tls(verify: bool) -> ssl.SSLContext:
    """As kubectl judges certificates: Python 3.13 else refuses authorities without a key usage, which clusters have."""
    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = verify
    return context


def _list(path: str) -> str:
    """`List` for the path of a collection, "" for that of an object."""
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    return "" if len(rest) == 2 else "List"


def _read(response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    """The whole body, into `data`; its connection is free again."""
    try:
        response.data  # noqa: B018
    except (HTTPError, OSError) as error:
        response.close()
        raise ApiError(0, "NoAnswer", f"the answer broke off: {error}") from error
    return response


def _error(response: urllib3.BaseHTTPResponse) -> ApiError:
    text = _read(response).data.decode(errors="replace")
    try:
        status = json.loads(text)
        reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = "", text.strip()
    reason = reason or str(response.reason or "Unknown")
    message = message.partition(": RBAC: ")[0]  # roles that are not there yet, in another order every time
    return ApiError(response.status, reason, message[:MESSAGE_LENGTH] or reason, _seconds(response))


def _seconds(response: urllib3.BaseHTTPResponse) -> float | None:
    """Retry-After, where it is a number: the API server says no dates."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _no_answer(host: str, error: Exception) -> ApiError:
    text = str(error).partition("): ")[2] or str(error)  # the library names its connection first
    return ApiError(0, "NoAnswer", f"the API server at {host} does not answer: {text}"[:MESSAGE_LENGTH])
