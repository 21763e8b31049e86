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
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.cluster import pod
from tests.cluster.api import Api, Document
from tests.cluster.cgroups import Groups
from tests.cluster.client import Client, condition
from tests.cluster.control import ControlPlane
from tests.cluster.host import GATEWAY, Host, make_bridge, remove_bridge
from tests.cluster.node import Node
from tests.cluster.pod import Pod

T = TypeVar("T")
READY_S = 90.0
"""On a machine that does nothing else it takes five."""


class Cluster(Client):
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
        """Waits until these nodes, by default all, are Ready, and said so after they last booted."""
        wanted = {node.name for node in nodes or self.nodes}

        def ready() -> bool:
            for node in self.nodes:
                for daemon in (node.containerd, node.kubelet, node.kube_proxy):
                    assert daemon.running or node.name not in wanted, f"{daemon.name} ended\n{daemon.tail()}"
            said = {item["metadata"]["name"] for item in self.objects("Node") if condition(item, "Ready")}
            return wanted <= said & self._renewed()

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
        shutil.rmtree(node.home, ignore_errors=True)  # another may have its number

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

    # Pods

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

    def _renewed(self) -> set[str]:
        """Names of the nodes whose kubelet has spoken since it was started."""
        leases = {item["metadata"]["name"]: item["spec"] for item in self.objects("Lease", "kube-node-lease")}
        times = {name: datetime.fromisoformat(spec["renewTime"]).timestamp() for name, spec in leases.items()}
        return {node.name for node in self.nodes if times.get(node.name, 0.0) >= node.joined}

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


def _runs(document: Document) -> bool:
    status = document.get("status", {})
    if status.get("phase") in {"Failed", "Succeeded"}:
        raise AssertionError(f"{document['metadata']['name']} has ended: {status}")
    return status.get("phase") == "Running" and condition(document, "Ready") and bool(status.get("podIP"))
