"""A real Prometheus scrapes agents and controllers: by token, as it is refused, and in plain text on loopback."""

import base64
import json
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
from tests.cluster import install, mirrors
from tests.cluster.daemon import Daemon
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import applied, ready
from tests.topology import wait_until

FILES = Path(__file__).parents[2] / "deploy/helm/sniffer/files"
PORT, METRICS = 19090, 9750
EXPOSED = ("--set", f"agent.metrics=0.0.0.0:{METRICS}", "--set", f"controller.metrics=0.0.0.0:{METRICS}")


class Prometheus(Daemon):
    """Scrapes twice a second; `jobs` as of its configuration. Used by `with`."""

    def __init__(self, binaries: Path, home: Path, jobs: list[Mapping[str, Any]]) -> None:
        self._config = home / "prometheus.yaml"
        scraped = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}
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
        labels = [{k: v for k, v in one["metric"].items() if k not in {"instance", "job", "__name__"}} for one in found]
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
def exposed(installed: Cluster, loaded: str) -> Cluster:
    """The cluster with sniffer installed, and its metrics served."""
    agent = installed.get("DaemonSet", "sniffer-agent", install.NAMESPACE)["spec"]["template"]["spec"]["containers"][0]
    if f"--metrics=0.0.0.0:{METRICS}" not in agent["args"]:
        install.install(installed, loaded, *EXPOSED)
    return installed


@pytest.fixture(scope="module")
def namespace(exposed: Cluster) -> Iterator[str]:
    """With two accounts: `prometheus` may scrape, `stranger` may not."""
    with exposed.namespace() as name:
        accounts = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": one, "namespace": name}}
            for one in ("prometheus", "stranger")
        ]
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sniffer-metrics"},
            "subjects": [{"kind": "ServiceAccount", "name": "prometheus", "namespace": name}],
        }
        with applied(exposed, *accounts, binding):
            yield name


def jobs_of(cluster: Cluster, namespace: str, home: Path) -> list[Mapping[str, Any]]:
    """As of the chart's PodMonitors; and who comes without a token, with one that may not, and to another name."""
    secret = cluster.get("Secret", "sniffer-metrics", install.NAMESPACE)["data"]
    (home / "ca.crt").write_bytes(base64.b64decode(secret["ca.crt"]))
    for name in ("prometheus", "stranger"):
        (home / name).write_text(cluster.kubectl("create", "token", name, "-n", namespace).strip())
    controllers = cluster.objects(
        "Pod",
        install.NAMESPACE,
        labelSelector="app.kubernetes.io/component=controller",
        fieldSelector="status.phase=Running",
    )
    agents = [f"{node.address}:{METRICS}" for node in cluster.nodes]

    def job(name: str, targets: list[str], token: str | None, server_name: str = "sniffer-metrics") -> dict[str, Any]:
        tls = {"ca_file": str(home / "ca.crt"), "server_name": server_name}
        by = {"authorization": {"credentials_file": str(home / token)}} if token else {}
        return {"job_name": name, "scheme": "https", "tls_config": tls, "static_configs": [{"targets": targets}], **by}

    return [
        job("sniffer-agent", agents, "prometheus"),
        job("sniffer-controller", [f"{one['status']['podIP']}:{METRICS}" for one in controllers], "prometheus"),
        job("nobody", agents[:1], None),
        job("stranger", agents[:1], "stranger"),
        job("elsewhere", agents[:1], "prometheus", "another.example"),
    ]


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
