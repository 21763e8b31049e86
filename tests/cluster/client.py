"""What tests ask of the API server and tell it, by name and by document."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.cluster.api import Api, ApiError, Document, User
from tests.cluster.control import ControlPlane
from tests.topology import wait_until

T = TypeVar("T")


class Client:
    """An administrator's hands. `kind` is `Pod`, or `Event.events.k8s.io` where two groups have one of that name."""

    binaries: Path
    home: Path
    control: ControlPlane
    kubeconfig: Path
    api: Api

    def kubectl(self, *words: object, stdin: str | None = None, as_user: User | None = None, check: bool = True) -> str:
        """Runs kubectl and returns its standard output; with `check=False` standard error too, whatever it ends with.

        `as_user`: a name, or (name, groups), taken by impersonation.
        """
        line = [str(self.binaries / "kubectl"), *_impersonating(as_user), *map(str, words)]
        done = subprocess.run(line, input=stdin, capture_output=True, text=True, env=self.environment())
        if check and done.returncode:
            raise AssertionError(f"{' '.join(line)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        """For programs that are to find the cluster: KUBECONFIG, and kubectl and helm in the path."""
        mine = {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.home / "kubectl"),
            "PATH": f"{self.binaries}:{os.environ['PATH']}",
        }
        return {**os.environ, **mine}

    def kubeconfig_of(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig file of any user, by a client certificate that the API server believes."""
        return self.control.kubeconfig(f"user-{secrets.token_hex(4)}", user, groups)

    def apply(self, *documents: Mapping[str, Any] | str) -> list[Document]:
        """Server-side apply of documents, or of YAML text with any number of them; returns what the server made."""
        made: list[Document] = []
        for item in documents:
            for one in yaml.safe_load_all(item) if isinstance(item, str) else [item]:
                path = self.api.path_of(one, fieldManager="tests", force="true")
                made.append(self.api.ask("PATCH", path, one, content_type="application/apply-patch+yaml"))
        return made

    def get(self, kind: str, name: str, namespace: str | None = None) -> Document:
        """One object; ApiError with status 404 where there is none."""
        return self.api.ask("GET", self.api.path(kind, name, namespace))

    def objects(self, kind: str, namespace: str | None = None, **query: str) -> list[Document]:
        """All objects of a kind, of every namespace by default; `query`: labelSelector, fieldSelector."""
        answer = self.api.ask("GET", self.api.path(kind, namespace=namespace, **query))
        items: list[Document] = answer["items"]
        return items

    def patch(self, kind: str, name: str, change: Mapping[str, Any], namespace: str | None = None) -> Document:
        """A JSON merge patch."""
        path = self.api.path(kind, name, namespace)
        return self.api.ask("PATCH", path, change, content_type="application/merge-patch+json")

    def delete(self, kind: str, name: str, namespace: str | None = None, wait: bool = True) -> None:
        """Deletes one object; one that is not there is fine. `wait`: until it is gone."""
        try:
            self.api.ask("DELETE", self.api.path(kind, name, namespace))
        except ApiError as error:
            if error.status != 404:
                raise
            return
        if wait:
            self.gone(kind, name, namespace)

    def gone(self, kind: str, name: str, namespace: str | None = None, uid: str | None = None) -> None:
        """Waits until there is no such object (of this uid)."""

        def absent() -> bool:
            try:
                found = self.get(kind, name, namespace)["metadata"]["uid"]
                return uid is not None and found != uid
            except ApiError as error:
                return error.status == 404

        self.wait(absent, 60, f"{kind} {name} gone")

    def wait(self, condition: Callable[[], T], timeout: float = 30.0, what: str = "") -> T:
        """Asks every tenth of a second until the answer is true, and returns it."""
        return wait_until(condition, timeout, every=0.1, what=what)

    @contextlib.contextmanager
    def namespace(self, name: str | None = None, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A namespace, of a name of its own by default; what is in it is deleted at the end, in the background."""
        name = name or f"test-{secrets.token_hex(3)}"
        metadata = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        # Until it is there no pod is admitted.
        self.wait(lambda: self.objects("ServiceAccount", name, fieldSelector="metadata.name=default"))
        try:
            yield name
        finally:
            self.delete("Namespace", name, wait=False)


def condition(document: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of an object's status is True."""
    conditions = document.get("status", {}).get("conditions", [])
    return any(item["type"] == kind and item["status"] == "True" for item in conditions)


def _impersonating(as_user: User | None) -> list[str]:
    if as_user is None:
        return []
    name, groups = (as_user, ()) if isinstance(as_user, str) else as_user
    return [f"--as={name}", *(f"--as-group={group}" for group in groups)]
