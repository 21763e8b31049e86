"""A pod that runs, and its network namespace as tests reach it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.configs import TOOLBOX
from tests.cluster.node import Node
from tests.topology import offloads, run, start, wait_until
from tests.wire import Capture

if TYPE_CHECKING:
    from tests.cluster.lab import Cluster

# Ends at once when told to: process 1 of a container has no default for SIGTERM.
IDLE = ("sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait")


class Pod:
    """A running pod. `run`, `popen`, `capture` act in its network namespace with this machine's tools; `exec` inside.

    `netns` names that namespace as `tests.topology.run(netns=...)`, `tests.wire` and `ip netns exec` take it; for a
    pod of the host's network it is the node's.
    """

    def __init__(self, cluster: "Cluster", document: Mapping[str, Any]) -> None:
        metadata = document["metadata"]
        self.name, self.namespace, self.uid = metadata["name"], metadata["namespace"], metadata["uid"]
        self.address: str = document["status"]["podIP"]
        self.node: Node = cluster.node_named(document["spec"]["nodeName"])
        self.host_network: bool = document["spec"].get("hostNetwork", False)
        self._cluster = cluster
        self._netns: str | None = None

    @property
    def netns(self) -> str:
        """The name of its network namespace; found at the first use."""
        if self.host_network:
            return self.node.netns
        if self._netns is None:
            self._netns = self._find_netns()
        return self._netns

    @property
    def pids(self) -> list[int]:
        """Its processes, those of the sandbox too."""
        return self.node.pids(f"**/*{self.uid}*/**")

    @property
    def netns_file(self) -> Path:
        """The entry of its network namespace below `/run/netns` of its node, as a path that tests can open."""
        return Path("/run/netns", self.netns).readlink()

    def run(self, *words: object, check: bool = True, stdin: str | None = None) -> str:
        """Runs a command of this machine in the pod's network namespace and returns its standard output."""
        return run(*words, netns=self.netns, check=check, stdin=stdin)

    def popen(self, *words: object, **options: object) -> "subprocess.Popen[str]":
        """Starts a command of this machine in the pod's network namespace and leaves it running."""
        return start(*words, netns=self.netns, **options)

    def exec(self, *words: object, container: str | None = None) -> str:
        """Runs a command in a container of the pod, by `kubectl exec`."""
        options = ("-c", container) if container else ()
        return self._cluster.kubectl("exec", "-n", self.namespace, self.name, *options, "--", *words)

    def logs(self, *options: object) -> str:
        """`kubectl logs`."""
        return self._cluster.kubectl("logs", "-n", self.namespace, self.name, *options)

    def reaches(self, address: str, timeout: float = 30.0) -> None:
        """Waits for an answer from there: where an address is used again, neighbours look for its last holder."""
        words = ("ping", "-c", 1, "-W", 1, "-s", 1472, address)
        wait_until(
            lambda: "1 received" in self.run(*words, check=False), timeout, what=f"{self.name} reaches {address}"
        )

    def capture(self, device: str = "eth0", outgoing: bool = False) -> Capture:
        """Every frame that the pod receives (`outgoing`: and sends), for use with `with`."""
        return Capture(device, self.netns, outgoing)

    def offloads(self, on: bool) -> None:
        """Switches the offloads of its `eth0`: off, it sends finished checksums and no super-packets."""
        offloads("eth0", on, netns=self.netns)

    @property
    def link(self) -> str:
        """The name of its link on the node: the other end of its `eth0`."""
        assert not self.host_network, f"{self.name} has the host's network"
        (mine,) = json.loads(self.run("ip", "--json", "link", "show", "eth0"))
        links = json.loads(self.node.run("ip", "--json", "link"))
        return next(link["ifname"] for link in links if link["ifindex"] == mine["link_index"])

    def get(self) -> dict[str, Any]:
        """What the API server has of it now."""
        return self._cluster.get("Pod", self.name, self.namespace)

    def delete(self, grace_s: int | None = None, wait: bool = True) -> None:
        """Deletes it. `wait`: until the kubelet has taken it away."""
        query = {} if grace_s is None else {"gracePeriodSeconds": str(grace_s)}
        api = self._cluster.api
        api.ask("DELETE", api.path("Pod", self.name, self.namespace, **query))
        if wait:
            self._cluster.gone("Pod", self.name, self.namespace, uid=self.uid)
        with contextlib.suppress(FileNotFoundError):
            Path("/run/netns", f"pod-{self.uid}").unlink()

    def _find_netns(self) -> str:
        """Links `/run/netns/pod-UID` to the node's entry: by name everywhere, and no reference that keeps it alive."""
        path = wait_until(self._entry, what=f"the network namespace of {self.name}")
        name = f"pod-{self.uid}"
        link = Path("/run/netns", name)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return name

    def _entry(self) -> Path | None:
        for pid in self.pids:
            with contextlib.suppress(OSError):
                inode = Path(f"/proc/{pid}/ns/net").stat().st_ino
                for entry in os.scandir(self.node.path("/run/netns")):
                    if Path(entry.path).stat().st_ino == inode:
                        return Path(entry.path)
        return None


def document(
    name: str,
    namespace: str,
    node: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    host_network: bool = False,
    command: Sequence[str] | None = None,
    image: str = TOOLBOX,
    **spec: Any,
) -> dict[str, Any]:
    """A Pod of one container from an image that nodes have; `spec` adds to the pod's spec or replaces."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": list(command or IDLE),
    }
    whole: dict[str, Any] = {
        "containers": [container],
        "terminationGracePeriodSeconds": 1,
        "hostNetwork": host_network,
        "dnsPolicy": "Default",
        # Any node, also one that is not Ready, where it was asked for by name: as a DaemonSet's pods are placed.
        **({"nodeName": node} if node else {}),
    }
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": dict(labels or {}),
        "annotations": dict(annotations or {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole | spec}
