"""A real Prometheus scrapes agents and controllers as the chart's PodMonitors say; who else asks is refused.

On loopback it comes in plain text.
"""

import base64
import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

import sniffer
from sniffer.abi.limits import ABI
from tests.agent import Agent
from tests.cluster import install, mirrors, podmonitors
from tests.cluster.daemon import Daemon
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, ready
from tests.topology import wait_until

FILES = Path(__file__).parents[2] / "deploy/helm/sniffer/files"
PORT, METRICS, SCRAPED = 19090, 9750, "500ms"
OF_TARGET = {"__name__", "instance", "job", "namespace", "pod", "container", "endpoint", "node"}
"""Labels that a Prometheus and the operator's configuration add."""
EXPOSED = ("--set", "monitoring.podMonitor.enabled=true")


class Prometheus(Daemon):
    """Scrapes twice a second; `jobs` as of its configuration. Used by `with`."""

    def __init__(self, binaries: Path, home: Path, jobs: list[Mapping[str, Any]]) -> None:
        self._config = home / "prometheus.yaml"
        scraped = {"scrape_interval": SCRAPED, "scrape_timeout": SCRAPED, "evaluation_interval": "1s"}
        rules = [str(FILES / "alerts.yaml")]
        self._config.write_text(yaml.safe_dump({"global": scraped, "rule_files": rules, "scrape_configs": jobs}))
        line = [binaries / "prometheus", f"--config.file={self._config}", f"--storage.tsdb.path={home / 'tsdb'}"]
        super().__init__("prometheus", [*line, f"--web.listen-address=127.0.0.1:{PORT}"], home / "prometheus.log")

    def __enter__(self) -> Self:
        self.start()
        self.until(self._ready)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ask(self, path: str, **query: str) -> Any:
        """Of its HTTP API; `data` of the answer."""
        url = f"http://127.0.0.1:{PORT}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> dict[tuple[tuple[str, str], ...], float]:
        """What a query gives now: values by their labels, sorted, without those of targets."""
        found = self.ask("query", query=query)["result"]
        labels = [{k: v for k, v in one["metric"].items() if k not in OF_TARGET} for one in found]
        return {tuple(sorted(each.items())): float(one["value"][1]) for each, one in zip(labels, found, strict=True)}

    def targets(self, job: str) -> list[tuple[str, str]]:
        """Health and last error of a job's targets."""
        active = self.ask("targets", state="active")["activeTargets"]
        return [(one["health"], one["lastError"]) for one in active if one["scrapePool"] == job]

    def scraped(self, job: str, count: int) -> None:
        """Waits until this many targets of a job are up, and were scraped so often that there are rates."""
        query = f'sum(up{{job="{job}"}}) == {count} and min(count_over_time(up{{job="{job}"}}[1m])) > 3'
        wait_until(lambda: self.value(query), 20, 0.2, f"{job} scraped\n{self.targets(job)}")

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="module")
def exposed(installed: Cluster, loaded: str, prometheus: Path) -> Cluster:
    """The cluster with sniffer installed, and its metrics served, for Prometheus' operator."""
    installed.apply((prometheus / "podmonitors.yaml").read_text())
    install.install(installed, loaded, *EXPOSED)
    return installed


@pytest.fixture(scope="module")
def namespace(exposed: Cluster) -> Iterator[str]:
    """With an account `stranger`, which may not scrape."""
    with exposed.namespace() as name:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger", "namespace": name}}
        with applied(exposed, account):
            yield name


def jobs_of(cluster: Cluster, namespace: str, home: Path) -> list[Mapping[str, Any]]:
    """Of the chart's PodMonitors; and who comes without a token, with one that may not, and to another name."""
    secret, token = (
        cluster.get("Secret", name, install.NAMESPACE)["data"] for name in ("sniffer-metrics", "sniffer-scraper")
    )
    (home / "ca.crt").write_bytes(base64.b64decode(secret["ca.crt"]))
    (home / "scraper").write_bytes(base64.b64decode(token["token"]))
    (home / "stranger").write_text(cluster.kubectl("create", "token", "stranger", "-n", namespace).strip())

    def job(name: str, token: str | None, server_name: str = "sniffer-metrics") -> dict[str, Any]:
        tls = {"ca_file": str(home / "ca.crt"), "server_name": server_name}
        by = {"authorization": {"credentials_file": str(home / token)}} if token else {}
        to = {"static_configs": [{"targets": [f"{cluster.node(1).address}:{METRICS}"]}]}
        return {"job_name": name, "scheme": "https", "tls_config": tls, **to, **by}

    refused = [job("nobody", None), job("stranger", "stranger"), job("elsewhere", "scraper", "another.example")]
    of_monitors = podmonitors.jobs(cluster, home / "ca.crt")
    # Of what the operator makes only this: a test has less time.
    return [*({**one, "scrape_interval": SCRAPED, "scrape_timeout": SCRAPED} for one in of_monitors), *refused]


def test_pod_monitors_are_those_of_the_record(exposed: Cluster) -> None:
    """Else what the operator made of them says nothing: tests/cluster/podmonitors.py records it anew."""
    if "SNIFFER_OPERATOR" in os.environ:
        podmonitors.record(exposed, Path(os.environ["SNIFFER_OPERATOR"]))
    recorded = yaml.safe_load(podmonitors.RECORDED.read_text())
    assert recorded["podMonitors"] == podmonitors.resources(exposed)
    assert len(recorded["scrapeConfigs"]) == 2


@pytest.fixture(scope="module")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where an agent without a cluster serves in plain text, to whoever is on the node, as the tests are."""
    address = "127.0.0.1:19750"
    agent = Agent(tmp_path_factory.mktemp("agent"), Path("/sys/fs/bpf/scraped"), "--metrics", address)
    agent.spawn()
    try:
        yield address
    finally:
        agent.stop()
        agent.cleanup()


def test_a_prometheus(exposed: Cluster, namespace: str, loopback: str, prometheus: Path, tmp_path: Path) -> None:
    """What it has is what agents count; the dashboard's queries find something; who is nobody gets nothing."""
    web = exposed.pod("web", namespace, exposed.node(1), labels={"app": "web"})
    client = exposed.pod("client", namespace, exposed.node(2))
    to, of = mirrors.target("scraped"), mirrors.mirror("scraped", namespace, ["scraped"], {"app": "web"}, filter="icmp")
    plain = {"job_name": "plain", "static_configs": [{"targets": [loopback]}]}
    jobs = [*jobs_of(exposed, namespace, tmp_path), plain]
    with applied(exposed, to, of), Prometheus(prometheus, tmp_path, jobs) as scraping:
        ready(exposed, "TrafficMirror", "scraped", namespace)
        scraping.scraped("sniffer-agent", 2)
        scraping.scraped("sniffer-controller", 2)
        scraping.scraped("plain", 1)
        client.run("ping", "-c", 10, "-i", 0.02, web.address)
        mine = f'{{mirror="scraped", mirror_namespace="{namespace}"}}'
        counted = wait_until(
            lambda: scraping.value(f"sum(sniffer_mirror_matched_frames_total{mine}) == 20"),
            10,
            0.2,
            "20 frames counted",
        )
        assert counted
        assert scraping.value(f'sum(sniffer_mirror_frames_total{{outcome="sent", {mine[1:]}) == 20')
        assert scraping.value(f'sum(sniffer_mirrors{{state="Programmed", {mine[1:]}) == 1')
        assert scraping.value('sum(sniffer_hooks{state="attached"}) == 2')
        assert scraping.value('sniffer_endpoints{target="scraped", address="10.200.0.100", state="reachable"} == 1')
        assert scraping.value("sum(sniffer_controller_leader) == 1")
        assert scraping.value("max(time() - sniffer_agent_api_last_contact_timestamp_seconds) < 90")
        assert scraping.value("min(sniffer_agent_source_fresh) == 1")
        assert scraping.value('sum(sniffer_pins_readable{job="plain"}) == 1')
        builds = scraping.value("sniffer_build_info")
        labels = [
            {"abi": str(ABI), "version": sniffer.__version__, "component": one} for one in ("agent", "controller")
        ]
        assert builds == {tuple(sorted(one.items())): 1 for one in labels}
        nodes = scraping.ask("query", query='count by (node, namespace) (up{job="sniffer-agent"})')["result"]
        places = {(one["metric"]["node"], one["metric"]["namespace"]) for one in nodes}
        assert places == {(node.name, install.NAMESPACE) for node in exposed.nodes}
        for panel in json.loads((FILES / "dashboard.json").read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = (
                    target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$mirror", ".*")
                )
                assert scraping.value(query), (panel["title"], query)
        groups = scraping.ask("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
        assert not scraping.value('ALERTS{alertstate="firing", alertname!="SnifferAgentsAbsent"}')
        assert [("401" in error) for _, error in scraping.targets("nobody")] == [True]
        assert [("403" in error) for _, error in scraping.targets("stranger")] == [True]
        assert ["not another.example" in error for _, error in scraping.targets("elsewhere")] == [True]
