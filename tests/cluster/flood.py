"""Somebody who asks more of an API server than it can do at a time."""

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator

from tests.cluster.api import Api, Document

_SILENCE_S = 30


@contextlib.contextmanager
def flood(api: Api, namespace: str, account: str, count: int) -> Iterator[None]:
    """Meanwhile so many requests of a service account are under way, and none of them ends.

    Each is to create an object that a webhook is asked about, which does not answer: what a request takes of the API
    server it keeps.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=count) as silent, contextlib.ExitStack() as open_:
        for one in (_right(namespace, account), _webhook(namespace, silent.getsockname()[1])):
            api.ask("POST", api.path(one["kind"], namespace=one["metadata"].get("namespace")), one)
            open_.callback(api.request, "DELETE", api.path_of(one))
        body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "flood-"}})
        head = [
            f"POST {api.path('ConfigMap', namespace=namespace)} HTTP/1.1",
            f"Host: {api.host}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Impersonate-User: system:serviceaccount:{namespace}:{account}",
            "Impersonate-Group: system:serviceaccounts",
            "Impersonate-Group: system:authenticated",
        ]
        for _ in range(count):
            connection = open_.enter_context(_connection(api))
            connection.sendall("\r\n".join([*head, "", body]).encode())
        yield


def _connection(api: Api) -> ssl.SSLSocket:
    plain = socket.create_connection((api.host, api.port), timeout=10)
    return api.tls.wrap_socket(plain, server_hostname=api.host)


def _right(namespace: str, account: str) -> Document:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": account, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }


def _webhook(namespace: str, port: int) -> Document:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "silent"},
        "webhooks": [
            {
                "name": "silent.example.org",
                "clientConfig": {"url": f"https://127.0.0.1:{port}/"},
                "rules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
                ],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "sideEffects": "None",
                "timeoutSeconds": _SILENCE_S,
                "admissionReviewVersions": ["v1"],
            }
        ],
    }
