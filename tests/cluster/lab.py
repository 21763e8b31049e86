"""A real Kubernetes cluster in the namespaces that `scripts/isolated` made: gone with them.

    etcd, kube-apiserver, controller-manager, scheduler: here, the API at 10.200.0.1:6443
        │ lab0, 10.200.0.0/24: a bridge
        ├── node1 10.200.0.11   kubelet, kube-proxy (nftables), containerd, CNI bridge cni0 10.244.1.0/24
        ├── node2 10.200.0.12   ...                                                         10.244.2.0/24
        └── analyzer 10.200.0.100

RBAC, Node authorisation, NodeRestriction, bound tokens of service accounts. Services 10.96.0.0/16. IPv4. No DNS.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml

from tests.cluster import pod
from tests.cluster.api import Api, ApiError, Document, User
from tests.cluster.cgroups import Groups
from tests.cluster.control import ControlPlane
from tests.cluster.host import GATEWAY, Host, make_bridge, remove_bridge
from tests.cluster.node import Node
from tests.cluster.pod import Pod
from tests.topology import wait_until

T = TypeVar("T")
READY_S = 90.0
"""On a machine that does nothing else it takes five."""


class Cluster:
    """Started by `start` or `with`; every process, link, mount and control group of it ends with `close`.

    `binaries`: the directory that `tests/cluster/build` names. `images`: archives that every node imports.
    """

    def __init__(self, binaries: Path, nodes: int = 2, images: Sequence[Path] = ()) -> None:
        self.binaries = binaries
        self.home = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.nodes: list[Node] = []
        self.analyzer = Host("analyzer", "10.200.0.100")
        self._images = list(images)
        self._count = nodes
        self._groups = Groups()
        self._hosts: list[Host] = []
        self.control = ControlPlane(self.home, binaries)
        self.kubeconfig = self.control.kubeconfig("admin", "admin", ["system:masters"])
        """Of an administrator, for kubectl, helm and clients."""
        self.api = Api(GATEWAY, 6443, self.control.authority.certificate, self.control.admin)
        """The same administrator without a process: see `Api.request` and `Api.ask`."""

    @property
    def group(self) -> str:
        """The name of its control group, in every hierarchy."""
        return self._groups.name

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The cluster as a whole

    def start(self) -> None:
        """Starts everything and returns when all nodes are Ready."""
        make_bridge()
        self.add_host(self.analyzer)
        self.control.start_etcd()
        self.control.start_api()
        added = [self._make_node() for _ in range(self._count)]
        for node in added:
            node.start()
        self._route()
        self.control.wait_api()
        self.control.start_rest()
        for node in added:
            node.join()
        self.wait_ready()

    def close(self) -> None:
        """Ends all of it."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.halt, self.nodes))
        self.control.stop()
        for host in self._hosts:
            host.unplug()
        remove_bridge()
        self._groups.remove()
        for entry in Path("/run/netns").glob("pod-*"):
            entry.unlink()
        shutil.rmtree(self.home, ignore_errors=True)

    def wait_ready(self, *nodes: Node, timeout: float = READY_S) -> None:
        """Waits until these nodes, by default all, are Ready."""
        wanted = {node.name for node in nodes or self.nodes}

        def ready() -> bool:
            for node in self.nodes:
                for daemon in (node.containerd, node.kubelet, node.kube_proxy):
                    assert daemon.running or node.name not in wanted, f"{daemon.name} ended\n{daemon.tail()}"
            return wanted <= {item["metadata"]["name"] for item in self.objects("Node") if condition(item, "Ready")}

        try:
            self.wait(ready, timeout, f"nodes Ready: {sorted(wanted)}")
        except AssertionError as error:
            tails = [node.kubelet.tail() for node in self.nodes if node.name in wanted]
            raise AssertionError("\n".join([str(error), *tails])) from None

    # Machines

    def node(self, number: int) -> Node:
        """The node of this number, from 1."""
        return self.node_named(f"node{number}")

    def node_named(self, name: str) -> Node:
        """The node of this name."""
        return next(node for node in self.nodes if node.name == name)

    def add_node(self) -> Node:
        """One more node; returns when it is Ready."""
        node = self._make_node()
        node.start()
        self._route()
        node.join()
        self.wait_ready(node)
        return node

    def remove_node(self, node: Node) -> None:
        """Takes a node away for good: power off, and its Node deleted."""
        node.halt()
        self.nodes.remove(node)
        self.delete("Node", node.name)

    def boot(self, node: Node) -> None:
        """Switches a node on that was stopped; returns when it is Ready again."""
        node.start()
        self._route()
        node.join()
        self.wait_ready(node)

    def add_host(self, host: Host) -> Host:
        """Plugs in one more host: `Host("analyzer2", "10.200.0.101")`."""
        host.plug()
        self._hosts.append(host)
        return host

    def load(self, archive: Path) -> None:
        """Imports an image into every node, those to come included."""
        self._images.append(archive)
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(Node.load, archive=archive), self.nodes))

    # Resources

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

    def pod(self, name: str, namespace: str, node: Node | None = None, **options: Any) -> Pod:
        """A pod that runs, of the toolbox image unless told otherwise; `options`: see `tests.cluster.pod.document`."""
        return self.pods([name], namespace, node, **options)[0]

    def pods(
        self, names: Sequence[str], namespace: str, node: Node | None = None, timeout: float = READY_S, **options: Any
    ) -> list[Pod]:
        """Many pods at once, all alike; returns when all of them run and are ready."""
        made = [pod.document(name, namespace, node and node.name, **options) for name in names]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: self.api.ask("POST", self.api.path("Pod", namespace=namespace), one), made))
        return self.running(names, namespace, timeout)

    def running(self, names: Sequence[str], namespace: str, timeout: float = READY_S) -> list[Pod]:
        """Waits until these pods run and are ready."""
        found: dict[str, Document] = {}

        def ready() -> bool:
            listed = {item["metadata"]["name"]: item for item in self.objects("Pod", namespace)}
            found.update({name: listed[name] for name in names if name in listed})
            return len(found) == len(names) and all(_runs(item) for item in found.values())

        try:
            self.wait(ready, timeout, f"pods Running in {namespace}")
        except AssertionError as error:
            late = [name for name in names if name not in found or not _runs(found[name])]
            words = self.kubectl("describe", "pod", "-n", namespace, *late[:1], check=False) if late else ""
            raise AssertionError(f"{error}: {late}\n{words}") from None
        return [Pod(self, found[name]) for name in names]

    # What can go wrong

    def stop_api(self) -> None:
        """kill -9 of the API server: connections break, new ones are refused."""
        self.control.api.kill()

    def start_api(self) -> None:
        """Starts it again; returns when it is ready."""
        self.control.start_api()
        self.control.wait_api()

    @contextlib.contextmanager
    def pause_api(self) -> Iterator[None]:
        """Meanwhile the API server is stopped by a signal: connections are half open, nobody answers."""
        self.control.api.pause()
        try:
            yield
        finally:
            self.control.api.resume()

    def snapshot(self) -> Path:
        """A copy of etcd's state, for `restore`."""
        return self.control.snapshot()

    def restore(self, snapshot: Path) -> None:
        """Sets the cluster back to a snapshot, by the book: with the API server, then what watches it, restarted.

        Pods are not touched by this; of what is not a node's own, only the state of the API server is back.
        """
        self.control.restore(snapshot)
        for node in self.nodes:
            if node.kubelet.running:
                node.kubelet.restart()
                node.kube_proxy.restart()

    def audit(self) -> list[Document]:
        """Requests that the API server has answered so far, but the control plane's, the nodes' and administrators'."""
        lines = self.control.audit_log.read_text().splitlines() if self.control.audit_log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def _make_node(self) -> Node:
        number = max((node.number for node in self.nodes), default=0) + 1
        name = f"node{number}"
        kubeconfigs = {
            "kubelet": self.control.kubeconfig(f"kubelet-{name}", f"system:node:{name}", ["system:nodes"]),
            "kube-proxy": self.control.kubeconfig("kube-proxy", "system:kube-proxy"),
        }
        ca = self.control.authority.certificate
        node = Node(number, self.home / name, self.binaries, self._groups, kubeconfigs, ca)
        node.images = list(self._images)
        self.nodes.append(node)
        return node

    def _route(self) -> None:
        """Every host knows the way to every node's pods."""
        for host in (None, *self._hosts, *self.nodes):
            for node in self.nodes:
                if host is not node:
                    words = ("ip", "route", "replace", node.pod_network, "via", node.address)
                    (host.run if host else _here)(*words, check=False)


def _here(*words: object, check: bool) -> None:
    subprocess.run([str(word) for word in words], check=check, capture_output=True)


def condition(document: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition of an object's status is True."""
    conditions = document.get("status", {}).get("conditions", [])
    return any(item["type"] == kind and item["status"] == "True" for item in conditions)


def _runs(document: Document) -> bool:
    status = document.get("status", {})
    if status.get("phase") in {"Failed", "Succeeded"}:
        raise AssertionError(f"{document['metadata']['name']} has ended: {status}")
    return status.get("phase") == "Running" and condition(document, "Ready") and bool(status.get("podIP"))


def _impersonating(as_user: User | None) -> list[str]:
    if as_user is None:
        return []
    name, groups = (as_user, ()) if isinstance(as_user, str) else as_user
    return [f"--as={name}", *(f"--as-group={group}" for group in groups)]
