"""What the Prometheus operator makes of the chart's PodMonitors, as it was recorded, for a Prometheus of the tests.

With SNIFFER_OPERATOR, a directory that `tests/cluster/build operator` made, tests/cluster/test_scrape.py records it
anew, by the operator itself. Only the finding of pods is not what a cluster's Prometheus does: it is given to it.
"""

import base64
import copy
import gzip
import re
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import install
from tests.cluster.api import Document
from tests.cluster.daemon import Daemon
from tests.cluster.lab import Cluster

RECORDED = Path(__file__).with_suffix(".yaml")
TOKEN, AUTHORITY = "TOKEN", "/ca.crt"
_NAME = "sniffer"


def resources(cluster: Cluster) -> Document:
    """Their specifications by name, as the API server has them."""
    found = cluster.objects("PodMonitor", install.NAMESPACE)
    return {one["metadata"]["name"]: one["spec"] for one in found}


def record(cluster: Cluster, operator: Path) -> None:
    """Writes what the operator makes of them now. `operator`: a directory with its binary and its definitions."""
    cluster.kubectl("apply", "--server-side", "-f", operator)
    whole = {"podMonitorSelector": {}, "replicas": 0, "serviceAccountName": "default"}
    metadata = {"name": _NAME, "namespace": install.NAMESPACE}
    cluster.wait(lambda: cluster.api.request("GET", "/apis/monitoring.coreos.com/v1/prometheuses")[0] == 200)
    prometheus = {"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": metadata, "spec": whole}
    cluster.apply(prometheus)
    admin = cluster.control.admin
    options = {
        "apiserver": f"https://{cluster.api.host}:{cluster.api.port}",
        "ca-file": cluster.control.authority.certificate,
        "cert-file": admin.certificate,
        "key-file": admin.key,
        "web.listen-address": "127.0.0.1:0",
    }
    line = [operator / "prometheus-operator", *(f"--{name}={value}" for name, value in options.items())]
    daemon = Daemon("prometheus-operator", line, cluster.home / "prometheus-operator.log")
    daemon.start()

    def made() -> list[Any]:
        path = cluster.api.path("Secret", f"prometheus-{_NAME}", install.NAMESPACE)
        status, secret = cluster.api.request("GET", path)
        if status != 200:
            return []
        text = gzip.decompress(base64.b64decode(secret["data"]["prometheus.yaml.gz"])).decode()
        text = text.replace("$(SHARD)", "0")  # as its companion in the pod fills in: of one replica, this
        return yaml.safe_load(text).get("scrape_configs") or []

    try:
        daemon.until(lambda: len(made()) == len(resources(cluster)), 60, "a configuration")
        jobs = made()
    finally:
        daemon.stop()
        cluster.delete("Prometheus", _NAME, install.NAMESPACE)
    for job in jobs:
        job["authorization"]["credentials"] = TOKEN
        job["tls_config"] = {"ca_file": AUTHORITY, "server_name": job["tls_config"]["server_name"]}
    RECORDED.write_text(yaml.safe_dump({"podMonitors": resources(cluster), "scrapeConfigs": jobs}))


def jobs(cluster: Cluster, authority: Path) -> list[Document]:
    """For the configuration of a Prometheus. `authority`: the file with the certificates that it trusts."""
    found: list[Document] = copy.deepcopy(yaml.safe_load(RECORDED.read_text())["scrapeConfigs"])
    token = cluster.get("Secret", "sniffer-scraper", install.NAMESPACE)["data"]["token"]
    for job in found:
        (discovery,) = job.pop("kubernetes_sd_configs")
        assert (discovery["role"], discovery["namespaces"]["names"]) == ("pod", [install.NAMESPACE])
        pods = [one for one in cluster.objects("Pod", install.NAMESPACE) if "deletionTimestamp" not in one["metadata"]]
        job["static_configs"] = [one for pod in pods for one in _discovered(pod)]
        job["authorization"]["credentials"] = base64.b64decode(token).decode()
        job["tls_config"]["ca_file"] = str(authority)
    return found


def _discovered(pod: Document) -> list[Document]:
    """As Prometheus finds pods: a target for each port, with labels of what it knows of it."""
    metadata, spec, status = pod["metadata"], pod["spec"], pod["status"]
    labels = {
        "namespace": metadata["namespace"],
        "pod_name": metadata["name"],
        "pod_uid": metadata["uid"],
        "pod_ip": status.get("podIP", ""),
        "pod_phase": status["phase"],
        "pod_node_name": spec["nodeName"],
        "pod_host_ip": status.get("hostIP", ""),
    }
    for name, value in metadata["labels"].items():
        word = re.sub(r"[^a-zA-Z0-9_]", "_", name)
        labels |= {f"pod_label_{word}": value, f"pod_labelpresent_{word}": "true"}
    targets = []
    for container in spec["containers"]:
        for port in container.get("ports", ()):
            number = str(port["containerPort"])
            of_port = {"name": port.get("name", ""), "number": number, "protocol": port.get("protocol", "TCP")}
            mine = labels | {f"pod_container_port_{name}": value for name, value in of_port.items()}
            mine |= {"pod_container_name": container["name"], "pod_container_image": container["image"]}
            address = f"{status.get('podIP', '')}:{number}"
            described = {f"__meta_kubernetes_{name}": value for name, value in mine.items()}
            targets.append({"targets": [address], "labels": described})
    return targets
