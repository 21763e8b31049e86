"""The real controller, as a process with the rights of its ServiceAccount, and what agents would report to it."""

import contextlib
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.agent import SNIFFER
from tests.cluster.api import Document
from tests.cluster.chart import NAMESPACE
from tests.cluster.lab import Cluster
from tests.topology import start, wait_until

AGENT_LABELS = {"app.kubernetes.io/name": "sniffer", "app.kubernetes.io/component": "agent"}
LEASE = "sniffer-controller"


class Controller:
    """`sniffer controller`, one replica; started by `with`."""

    def __init__(self, cluster: Cluster, directory: Path, name: str, port: int, *arguments: object) -> None:
        self.name, self.port = name, port
        self.log = directory / f"{name}.log"
        self.line = ["controller", "--kubeconfig", _kubeconfig(cluster, directory), "--namespace", NAMESPACE]
        self.line += [
            "--identity",
            name,
            "--metrics",
            f"127.0.0.1:{port}",
            "--service-cidrs",
            "10.96.0.0/16",
            *arguments,
        ]
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is not None:
            print(self.log.read_text(), file=sys.stderr)

    def start(self) -> None:
        """Starts it and waits until it answers its probe."""
        with self.log.open("a") as log:
            self.process = start(SNIFFER, *self.line, stdout=log, stderr=log)
        wait_until(self.healthy, 20, 0.05, "the controller answers")

    def stop(self, by: int = signal.SIGTERM) -> int:
        """Ends it by a signal; its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(by)
        status = self.process.wait(timeout=20)
        self.process = None
        return status

    def healthy(self) -> bool:
        """What its probe says."""
        assert self.process is None or self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """One sample of its metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        head = name + ("{" + ",".join(f'{key}="{labels[key]}"' for key in sorted(labels)) + "} " if labels else " ")
        return float(next(line for line in text.splitlines() if line.startswith(head)).removeprefix(head))

    def written(self) -> int:
        """Whatever it has written since its start, or tried to: statuses, events, the jitter."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            int(float(line.split()[-1])) for line in lines if line.startswith("sniffer_controller_writes_total{")
        )

    def leads(self) -> bool:
        """Whether it says that it writes."""
        return self.metric("sniffer_controller_leader") == 1


def _kubeconfig(cluster: Cluster, directory: Path) -> Path:
    """With a token of the controller's ServiceAccount: what the chart grants is all that it may."""
    path = directory / "controller.kubeconfig"
    if not path.exists():
        token = cluster.kubectl("create", "token", "sniffer-controller", "-n", NAMESPACE, "--duration=2h").strip()
        settings = yaml.safe_load(cluster.kubeconfig.read_text())
        settings["users"] = [{"name": settings["users"][0]["name"], "user": {"token": token}}]
        path.write_text(yaml.safe_dump(settings))
    return path


def holder(cluster: Cluster) -> str:
    """Who the Lease says leads; without what tells two processes of one name apart."""
    lease = cluster.objects("Lease", NAMESPACE, fieldSelector=f"metadata.name={LEASE}")
    return str(lease[0]["spec"].get("holderIdentity") or "").rpartition("_")[0] if lease else ""


@contextlib.contextmanager
def agents(cluster: Cluster) -> Iterator[Mapping[str, str]]:
    """A pod on every node that counts as its agent, though all that it does is be Ready: names by node."""
    names = {node.name: f"agent-{node.name}" for node in cluster.nodes}
    for node in cluster.nodes:
        cluster.pod(names[node.name], NAMESPACE, node, labels=AGENT_LABELS)
    try:
        yield names
    finally:
        for name in names.values():
            cluster.delete("Pod", name, NAMESPACE)


def report(cluster: Cluster, node: str, mirrors: Sequence[Document], **said: Any) -> None:
    """Writes the SnifferNode of a node as its agent would; `said`: state, reason, message of all of these mirrors."""
    rows = [
        {
            "kind": item["kind"],
            "name": item["metadata"]["name"],
            "uid": item["metadata"]["uid"],
            "generation": item["metadata"]["generation"],
            "state": "Programmed",
            **({"namespace": item["metadata"]["namespace"]} if "namespace" in item["metadata"] else {}),
            **said,
        }
        for item in mirrors
    ]
    document = {"apiVersion": "sniffer.dev/v1alpha1", "kind": "SnifferNode", "metadata": {"name": node}}
    cluster.apply(document)
    path = f"{cluster.api.path('SnifferNode', node)}/status?fieldManager=tests&force=true"
    body = {**document, "status": {"state": "Running", "version": "0", "mirrors": rows}}
    cluster.api.ask("PATCH", path, body, content_type="application/apply-patch+yaml")


def condition(document: Document, kind: str = "Ready") -> Document:
    """One condition, with observedGeneration; {} where there is none."""
    listed = document.get("status", {}).get("conditions", ())
    return next((item for item in listed if item["type"] == kind), {})
