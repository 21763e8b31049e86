"""What the chart makes of its values for metrics: nothing by default, no more rights or ports than are asked for."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import Document
from tests.cluster.chart import CHART, NAMESPACE, rendered

WORKLOADS = {"agent": ("DaemonSet", "sniffer-agent"), "controller": ("Deployment", "sniffer-controller")}


def made(binaries: Path, *values: str) -> dict[tuple[str, str], Document]:
    words = [word for value in values for word in ("--set", value)]
    return {(one["kind"], one["metadata"]["name"]): one for one in rendered(binaries / "helm4", *words)}


def container(documents: dict[tuple[str, str], Document], component: str) -> Document:
    (one,) = documents[WORKLOADS[component]]["spec"]["template"]["spec"]["containers"]
    return one


def arguments(documents: dict[tuple[str, str], Document], component: str) -> list[str]:
    return [one for one in container(documents, component)["args"] if one.startswith("--metrics")]


def delegators(documents: dict[tuple[str, str], Document]) -> list[str]:
    """Who may ask the API server about tokens."""
    role = "system:auth-delegator"
    return [one["subjects"][0]["name"] for one in documents.values() if one.get("roleRef", {}).get("name") == role]


def test_nothing_by_default(binaries: Path) -> None:
    documents = made(binaries)
    assert arguments(documents, "agent") == arguments(documents, "controller") == delegators(documents) == []
    assert "ports" not in container(documents, "agent")
    assert [one["name"] for one in container(documents, "controller")["ports"]] == ["health"]
    kinds = {kind for kind, _ in documents}
    assert not kinds & {"PodMonitor", "PrometheusRule", "Secret"}
    assert ("ConfigMap", "sniffer-dashboard") not in documents


@pytest.mark.parametrize("address", ["127.1.2.3:9750", "[::1]:9750"])
def test_loopback(binaries: Path, address: str) -> None:
    documents = made(binaries, f"agent.metrics={address}", "agent.metricsNames=none")
    assert arguments(documents, "agent") == [f"--metrics={address}", "--metrics-names=none"]
    assert delegators(documents) == []
    assert "ports" not in container(documents, "agent")
    assert ("Secret", "sniffer-metrics") not in documents


@pytest.mark.parametrize("address", ["0.0.0.0:9750", "[::]:9750"])
@pytest.mark.parametrize("component", WORKLOADS)
def test_a_network(binaries: Path, component: str, address: str) -> None:
    documents = made(binaries, f"{component}.metrics={address}")
    assert arguments(documents, component)[:2] == [f"--metrics={address}", "--metrics-tls=/etc/sniffer/metrics"]
    assert {"name": "metrics", "containerPort": 9750} in container(documents, component)["ports"]
    assert delegators(documents) == [f"sniffer-{component}"]
    pod = documents[WORKLOADS[component]]["spec"]["template"]["spec"]
    (volume,) = (one for one in pod["volumes"] if one["name"] == "metrics")
    assert volume["secret"]["secretName"] == "sniffer-metrics"
    (other,) = WORKLOADS.keys() - {component}
    assert arguments(documents, other) == []
    rules = documents["ClusterRole", "sniffer-metrics"]["rules"]
    assert rules == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_the_certificate(binaries: Path, tmp_path: Path) -> None:
    documents = made(binaries, "agent.metrics=0.0.0.0:9750", "monitoring.tlsServerName=metrics.example")
    for name, text in documents["Secret", "sniffer-metrics"]["data"].items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    words = ["openssl", "verify", "-purpose", "sslserver", "-verify_hostname", "metrics.example", "-CAfile"]
    files = [tmp_path / "ca.crt", tmp_path / "tls.crt"]
    subprocess.run([*words, *files], check=True, capture_output=True)
    given = made(binaries, "agent.metrics=0.0.0.0:9750", "monitoring.tlsSecretName=mine")
    assert ("Secret", "sniffer-metrics") not in given
    volumes = given[WORKLOADS["agent"]]["spec"]["template"]["spec"]["volumes"]
    assert [one["secret"]["secretName"] for one in volumes if "secret" in one] == ["mine"]


def test_pod_monitors(binaries: Path) -> None:
    """One value: ports, certificate, rights, and a token that may do nothing but scrape."""
    documents = made(binaries, "monitoring.podMonitor.enabled=true", "monitoring.podMonitor.labels.release=prometheus")
    assert sorted(delegators(documents)) == ["sniffer-agent", "sniffer-controller"]
    for component in WORKLOADS:
        assert arguments(documents, component)[0] == "--metrics=0.0.0.0:9750"
        monitor = documents["PodMonitor", f"sniffer-{component}"]
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        labels = documents[WORKLOADS[component]]["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": "sniffer-metrics", "key": "ca.crt"}
        token = documents["Secret", endpoint["authorization"]["credentials"]["name"]]
        assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "sniffer-scraper"}
    bound = [one for one in documents.values() if one.get("subjects", [{}])[0].get("name") == "sniffer-scraper"]
    assert [one["roleRef"]["name"] for one in bound] == ["sniffer-metrics"]


@pytest.mark.parametrize(("helm", "component"), [("helm3", "agent"), ("helm4", "controller")])
def test_pod_monitors_of_loopback_are_refused(binaries: Path, helm: str, component: str) -> None:
    values = f"monitoring.podMonitor.enabled=true,{component}.metrics=127.0.0.1:9750"
    line = [binaries / helm, "template", "sniffer", CHART, "--kube-version", "1.36.0", "--set", values]
    done = subprocess.run([*map(str, line), "--namespace", NAMESPACE], capture_output=True, text=True)
    assert done.returncode
    words = f"{component}.metrics: given 127.0.0.1:9750 with monitoring.podMonitor.enabled, allowed an address"
    assert words in done.stderr


def test_rules_and_dashboard_are_the_files(binaries: Path) -> None:
    """With braces of theirs that are none of Helm's."""
    documents = made(binaries, "monitoring.prometheusRule.enabled=true", "monitoring.dashboard.enabled=true")
    rules = yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    assert documents["PrometheusRule", "sniffer"]["spec"] == rules
    shown = documents["ConfigMap", "sniffer-dashboard"]["data"]["sniffer.json"]
    assert json.loads(shown) == json.loads((CHART / "files/dashboard.json").read_text())
