"""The chart, by both Helms, against an API server of its own without nodes: nothing runs, everything is admitted."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.kernel.namespace import private_network
from sniffer.model.mirror import TARGETS_LENGTH
from tests.cluster import schemas
from tests.cluster.api import Api, Document
from tests.cluster.chart import CHART, rendered
from tests.cluster.configs import SERVICE_NETWORK
from tests.cluster.control import PORT, ControlPlane
from tests.cluster.flood import flood
from tests.cluster.host import GATEWAY, make_bridge
from tests.cluster.install import told
from tests.cluster.test_values import VALUES, full, template
from tests.pages import blocks
from tests.topology import wait_until

SNIFFER = str(Path(sys.executable).with_name("sniffer"))
HELMS = ("helm3", "helm4")
ANSWERED_S = 3.0
AT_A_TIME = ["--max-requests-inflight=40", "--max-mutating-requests-inflight=20"]
"""Few enough requests for a test to have them all."""
OF_PODS = ("kubectl rollout status", "helm test", "kubectl wait")
"""What the notes tell one to run, and needs nodes (test_install.py runs it)."""
DEFINITIONS = {"clustertrafficmirrors", "mirrortargets", "sniffernodes", "trafficmirrors"}


@dataclass(frozen=True)
class Server:
    """An API server and the Helms."""

    control: ControlPlane
    api: Api
    kubeconfig: Path

    def helm(self, helm: str, *words: object, check: bool = True) -> str:
        """Runs it to its end; standard output, with `check=False` standard error too."""
        home = str(self.control.home / helm)
        names = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        environment = {**os.environ, **dict.fromkeys(names, home), "KUBECONFIG": str(self.kubeconfig)}
        line = [str(self.control.binaries / helm), *map(str, words)]
        if words[0] == "uninstall":
            line.append("--no-hooks")  # here nothing could run them
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0 or not check, f"{' '.join(line)}\n{done.stdout}{done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def shell(self, helm: str, command: str) -> str:
        """Runs it as somebody who has this Helm, and kubectl; standard output."""
        home = self.control.home / helm
        path = home / "bin"
        path.mkdir(parents=True, exist_ok=True)
        for name, program in (("helm", helm), ("kubectl", "kubectl")):
            (path / name).unlink(missing_ok=True)
            (path / name).symlink_to(self.control.binaries / program)
        names = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "KUBECACHEDIR")
        mine = {**dict.fromkeys(names, str(home)), "KUBECONFIG": str(self.kubeconfig)}
        environment = {**os.environ, **mine, "PATH": f"{path}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def namespace(self, name: str, labels: dict[str, str] | None = None) -> None:
        """Makes it."""
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})

    def create(self, document: Document, **query: str) -> Document:
        """What the API server makes of it; unknown fields are refused."""
        metadata = document["metadata"]
        path = self.api.path(_kind(document), namespace=metadata.get("namespace"), fieldValidation="Strict", **query)
        return self.api.ask("POST", path, document)


def _kind(document: Document) -> str:
    group = document["apiVersion"].rpartition("/")[0]
    return f"{document['kind']}.{group}" if group else document["kind"]


@pytest.fixture(scope="module")
def server(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """etcd, an API server and the controllers, in a network of their own: another cluster may be running."""
    home = tmp_path_factory.mktemp("control")
    with private_network():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        make_bridge()
        control = ControlPlane(home, binaries)
        control.api.line += AT_A_TIME
        kubeconfig = control.kubeconfig("admin", "admin", ["system:masters"])
        try:
            control.start_etcd()
            control.start_api()
            control.wait_api()
            control.start_rest()
            yield Server(control, Api(GATEWAY, PORT, control.authority.certificate, control.admin), kubeconfig)
        finally:
            control.stop()


@pytest.fixture(scope="module")
def schema_files(server: Server, prometheus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("schemas")
    schemas.write(server.api.ask("GET", "/openapi/v2"), directory, prometheus)
    return directory


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("values", [VALUES, full()], ids=["defaults", "everything"])
def test_it_conforms_to_the_schemas(
    binaries: Path, schema_files: Path, tmp_path: Path, helm: str, values: Document
) -> None:
    """Those of Kubernetes, of ours and of Prometheus' operator: no field that nobody knows, none of another kind."""
    made = template(binaries / helm, values, tmp_path)
    assert made.returncode == 0, made.stderr
    kubeconform = binaries / "kubeconform"
    done = schemas.conforms(kubeconform, schema_files, made.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [one["kind"] for one in yaml.safe_load_all(made.stdout) if one]
    number = {"valid": len(kinds), "invalid": 0, "errors": 0, "skipped": 0}
    assert json.loads(done.stdout)["summary"] == number
    for former, latter, words in (
        ("enableServiceLinks: false", "enableServiceLink: false", "enableServiceLink"),
        ("matchingPrecedence: ", "matchingPrecedence: x", "matchingPrecedence"),
        ("includeProtectedNamespaces: true", "includeProtectedNamespace: true", "includeProtectedNamespace"),
    ):
        assert former in made.stdout
        other = schemas.conforms(kubeconform, schema_files, made.stdout.replace(former, latter))
        assert other.returncode == 1
        assert words in other.stdout


@pytest.mark.parametrize("helm", HELMS)
def test_lint(binaries: Path, helm: str) -> None:
    words = [binaries / helm, "lint", "--strict", CHART, "--kube-version", "1.36.0"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_helms_make_the_same(binaries: Path) -> None:
    options = ["--set", "serviceCIDRs={10.96.0.0/16,fd00::/108}", "--set", "agent.metrics=127.0.0.1:9750"]
    [first, second] = [rendered(binaries / helm, *options, hooks=True) for helm in HELMS]
    assert sorted(map(repr, first)) == sorted(map(repr, second))


def test_values_reach_the_pods(binaries: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    options = {
        "image.repository": "example.org/sniffer",
        "image.digest": digest,
        "image.tag": "unused",
        "serviceCIDRs": "{10.96.0.0/16,10.1.0.0/16}",
        "allowedTargetCIDRs": "{10.96.7.7/32}",
        "lease": "5",
        "apiGrace": "97",
        "uninstallPatience": "7",
        "agent.healthPort": "9799",
        "agent.allowKernel": "true",
        "agent.seLinuxOptions.type": "spc_t",
        "netnsPath": "/var/run/docker/netns",
        "controller.replicas": "1",
        "imagePullSecrets[0].name": "registry",
    }
    words = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    made = {(one["kind"], one["metadata"]["name"]): one for one in rendered(binaries / "helm4", *words, hooks=True)}
    agent = made["DaemonSet", "sniffer-agent"]["spec"]["template"]["spec"]
    controller = made["Deployment", "sniffer-controller"]["spec"]
    assert ("PodDisruptionBudget", "sniffer-controller") not in made
    assert controller["replicas"] == 1
    waits = ["--lease=5", "--api-grace=97"]
    cidrs = ["--service-cidrs=10.96.0.0/16,10.1.0.0/16", "--allowed-target-cidrs=10.96.7.7/32"]
    assert agent["containers"][0]["args"] == ["agent", *waits, "--health=127.0.0.1:9799", "--allow-kernel", *cidrs]
    assert agent["containers"][0]["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}
    assert agent["containers"][0]["terminationMessagePolicy"] == "FallbackToLogsOnError"
    for probe in ("livenessProbe", "startupProbe", "readinessProbe"):
        asked = agent["containers"][0][probe]["httpGet"]
        assert (asked["host"], asked["port"]) == ("127.0.0.1", 9799)
    cleanup = made["Job", "sniffer-cleanup"]["spec"]["template"]["spec"]
    assert cleanup["containers"][0]["args"] == ["cleanup", "--cluster", "--exit-zero", "--patience=7"]
    without = rendered(binaries / "helm4", "--set", "uninstallPatience=0", hooks=True)
    assert "sniffer-cleanup" not in {one["metadata"]["name"] for one in without}
    assert controller["template"]["spec"]["containers"][0]["args"][-2:] == cidrs
    for pod in (agent, controller["template"]["spec"], cleanup):
        assert pod["containers"][0]["image"] == f"example.org/sniffer@{digest}"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert {volume["hostPath"]["path"] for volume in agent["volumes"]} == {"/sys/fs/bpf", "/var/run/docker/netns"}


def test_what_stands_around_the_controller(binaries: Path) -> None:
    """Each of it means the controller's pods and no others; what they need to talk is let through."""
    options = ["--set", "monitoring.podMonitor.enabled=true", "--api-versions", "monitoring.coreos.com/v1"]
    options += ["--set-json", 'networkPolicy.metricsFrom=[{"podSelector": {"matchLabels": {"a": "b"}}}]']
    made = {(one["kind"], one["metadata"]["name"]): one for one in rendered(binaries / "helm4", *options)}
    controller, agent = (
        made[kind]["spec"]["template"]
        for kind in (("Deployment", "sniffer-controller"), ("DaemonSet", "sniffer-agent"))
    )
    budget, policy = (made[kind, "sniffer-controller"]["spec"] for kind in ("PodDisruptionBudget", "NetworkPolicy"))
    [preferred] = controller["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    spreads = [*controller["spec"]["topologySpreadConstraints"], preferred["podAffinityTerm"]]
    assert [one["topologyKey"] for one in spreads] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    selectors = [budget["selector"], policy["podSelector"], *(one["labelSelector"] for one in spreads)]
    for selector in selectors:
        wanted = selector["matchLabels"].items()
        assert wanted <= controller["metadata"]["labels"].items()
        assert not wanted <= agent["metadata"]["labels"].items()
    assert budget["maxUnavailable"] == 1

    ports = {one["name"] for one in controller["spec"]["containers"][0]["ports"]}
    health, metrics = policy["ingress"]
    assert ([one["port"] for one in health["ports"]], "from" in health) == (["health"], False)
    assert [one["port"] for one in metrics["ports"]] == ["metrics"]
    assert metrics["from"] == [{"podSelector": {"matchLabels": {"a": "b"}}}]
    assert ports == {"health", "metrics"}
    [out] = policy["egress"]
    assert PORT in {one["port"] for one in out["ports"]}
    assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_the_agent_s_profiles(binaries: Path) -> None:
    """AppArmor's default would deny what is pinned; seccomp's is no hindrance. Two agents are never on one node."""
    [agent] = [one["spec"] for one in rendered(binaries / "helm4") if one["kind"] == "DaemonSet"]
    assert agent["template"]["spec"]["securityContext"] == {
        "seccompProfile": {"type": "RuntimeDefault"},
        "appArmorProfile": {"type": "Unconfined"},
    }
    assert agent["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("agent.tolerance=1", "tolerance"),
        ("imagee.tag=1", "imagee"),
        ("lease=0", "/lease"),
        ("serviceCIDRs={10.96.0.0/33}", "/serviceCIDRs/0"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.digest=sha256:12", "/image/digest"),
        ("netnsPath=run/netns", "/netnsPath"),
        ("agent.maxUnavailable=0", "/agent/maxUnavailable"),
        ("agent.healthPort=0", "/agent/healthPort"),
        ("agent.seLinuxOptions.kind=spc_t", "/agent/seLinuxOptions"),
        ("uninstallPatience=-1", "/uninstallPatience"),
        ("upgradeCRDs=yes", "/upgradeCRDs"),
    ],
)
def test_bad_values(binaries: Path, helm: str, value: str, words: str) -> None:
    line = [str(binaries / helm), "template", str(CHART), "--kube-version", "1.36.0", "--set", value]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode
    assert words in done.stderr


@pytest.mark.parametrize("helm", HELMS)
def test_an_old_kubernetes_is_refused(binaries: Path, helm: str) -> None:
    line = [str(binaries / helm), "template", str(CHART), "--kube-version", "1.31.9"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode
    assert "chart requires kubeVersion: >=1.32.0-0 which is incompatible with Kubernetes v1.31.9" in done.stderr


def test_a_check_for_each_target_there_may_be(binaries: Path) -> None:
    """Without one, a mirror's last target would be anybody's."""
    [policy] = [one for one in rendered(binaries / "helm4") if one["metadata"]["name"] == "sniffer-use-target"][:1]
    assert policy["kind"] == "ValidatingAdmissionPolicy"
    found = [check["expression"] for check in policy["spec"]["validations"]]
    assert len(found) == TARGETS_LENGTH
    assert all(f"targets[{at}]" in expression for at, expression in enumerate(found))


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("level", ["restricted", "baseline"])
def test_a_namespace_that_refuses_the_agent(server: Server, helm: str, level: str) -> None:
    """G30: said at once, with the fix; not by pods that never come."""
    name = f"{level}-{helm}"
    server.namespace(name, {"pod-security.kubernetes.io/enforce": level})
    words = server.helm(helm, "install", "sniffer", CHART, "--namespace", name, check=False)
    assert f'enforces the pod security standard "{level}"' in words
    assert f"kubectl label --overwrite namespace {name} pod-security.kubernetes.io/enforce=privileged" in words
    assert (
        server.api.ask(
            "GET", server.api.path("ServiceAccount", namespace=name, fieldSelector="metadata.name=sniffer-agent")
        )["items"]
        == []
    )


@pytest.mark.parametrize("helm", HELMS)
def test_a_second_release_is_refused(server: Server, helm: str) -> None:
    """Even where Helm was told that it may take what is another's."""
    first, second = f"first-{helm}", f"second-{helm}"
    for name in (first, second):
        server.namespace(name)
    try:
        server.helm(helm, "install", "mine", CHART, "--namespace", first)
        for release, place in (("mine", second), ("yours", first)):
            words = server.helm(helm, "install", release, CHART, "--namespace", place, "--take-ownership", check=False)
            assert f"release mine of namespace {first} is sniffer already, and a cluster has one" in words
            assert f"helm uninstall mine --namespace {first}" in words
        path = server.api.path("ServiceAccount", namespace=second, fieldSelector="metadata.name=sniffer-agent")
        assert server.api.ask("GET", path)["items"] == []
        server.helm(helm, "upgrade", "mine", CHART, "--namespace", first)
    finally:
        server.helm(helm, "uninstall", "mine", "--namespace", first, check=False)
        forget(server)


@pytest.mark.parametrize("helm", HELMS)
def test_a_priority_class_that_is_not_there(server: Server, helm: str) -> None:
    name = f"priority-{helm}"
    server.namespace(name)
    options = ("--namespace", name, "--set", "controller.priorityClassName=urgent")
    words = server.helm(helm, "install", "sniffer", CHART, *options, check=False)
    assert "controller.priorityClassName: given urgent, allowed the name of a PriorityClass" in words


@pytest.mark.parametrize(
    ("served", "words"),
    [
        ([], "does not serve ValidatingAdmissionPolicy"),
        (["admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"], "flowControl.enabled: given true"),
    ],
)
def test_a_cluster_that_lacks_something(binaries: Path, served: list[str], words: str) -> None:
    line = [str(binaries / "helm4"), "template", str(CHART), "--kube-version", "1.36.0"]
    for one in ("v1/Namespace", *served):
        line += ["--api-versions", one]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode
    assert words in done.stderr


def test_agents_have_a_priority_level_of_their_own(server: Server) -> None:
    """By what the API server says of each request: theirs and the controller's, nobody else's. They are answered while
    a tenant's requests have taken all there is for service accounts, and another account's wait.
    """
    server.namespace("level")
    try:
        server.helm("helm4", "install", "sniffer", CHART, "--namespace", "level")
        server.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x", "namespace": "level"}})
        uids = {}
        for kind, name in (
            ("PriorityLevelConfiguration", "sniffer"),
            ("FlowSchema", "sniffer-agent"),
            ("FlowSchema", "sniffer-controller"),
        ):
            uids[kind, name] = server.api.ask("GET", server.api.path(kind, name))["metadata"]["uid"]

        def answer(account: str) -> int:
            """0: none."""
            user = f"system:serviceaccount:level:{account}", ["system:serviceaccounts", "system:authenticated"]
            mirrors = "/apis/sniffer.dev/v1alpha1/trafficmirrors"
            with contextlib.suppress(ConnectionError):
                return server.api.request("GET", mirrors, as_user=user, timeout=ANSWERED_S)[0]
            return 0

        def flow(account: str) -> tuple[str, str]:
            answer(account)
            said = server.api.headers
            return said["X-Kubernetes-PF-FlowSchema-UID"], said["X-Kubernetes-PF-PriorityLevel-UID"]

        level = uids["PriorityLevelConfiguration", "sniffer"]
        for account in ("agent", "controller"):
            wanted = uids["FlowSchema", f"sniffer-{account}"], level
            wait_until(lambda a=account, w=wanted: flow(f"sniffer-{a}") == w, 20, what=f"{account}'s level")
        assert flow("x")[1] != level
        with flood(server.api, "level", "tenant", 150):
            wait_until(lambda: answer("x") in {0, 429}, 20, what="a flood")
            assert [answer(f"sniffer-{account}") for account in ("agent", "controller")] == [200, 200]
        wait_until(lambda: answer("x") == 403, 20, what="the flood's end")
        limited = server.api.ask("GET", server.api.path("PriorityLevelConfiguration", "sniffer"))["spec"]["limited"]
        assert (limited["nominalConcurrencyShares"], limited["limitResponse"]["type"]) == (20, "Queue")
    finally:
        server.helm("helm4", "uninstall", "sniffer", "--namespace", "level", check=False)
        forget(server)


def test_pods_ask_for_no_more_than_they_need(server: Server, binaries: Path) -> None:
    """G30: the controller may run where nothing is allowed; the agent may not, and has three capabilities."""
    server.namespace("nothing-allowed", {"pod-security.kubernetes.io/enforce": "restricted"})
    server.namespace("all-allowed", {"pod-security.kubernetes.io/enforce": "privileged"})
    for one in rendered(binaries / "helm4"):
        if one["kind"] not in {"DaemonSet", "Deployment"}:
            continue
        spec = one["spec"]["template"]["spec"]
        for place in ("nothing-allowed", "all-allowed"):
            account = {"apiVersion": "v1", "kind": "ServiceAccount"}
            server.create(account | {"metadata": {"name": spec["serviceAccountName"], "namespace": place}})
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": place}, "spec": spec}
            # Priorities are for one namespace's quota in some clusters, not a question of security.
            if one["kind"] == "DaemonSet" and place == "nothing-allowed":
                with pytest.raises(AssertionError, match="violates PodSecurity") as refused:
                    server.create(pod, dryRun="All")
                assert "privileged" not in str(refused.value).split("violates PodSecurity")[1].split("host")[0]
            else:
                server.create(pod, dryRun="All")
    for one in rendered(binaries / "helm4", hooks=True):
        if one["metadata"]["name"] == "sniffer-test" and one["kind"] in {"Deployment", "Pod"}:
            spec = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
            metadata = {"name": "test", "namespace": "nothing-allowed"}
            spec = spec | {"serviceAccountName": "sniffer-controller"}  # one that was made above
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            server.create(pod, dryRun="All")
    agent = next(one for one in rendered(binaries / "helm4") if one["kind"] == "DaemonSet")
    [container] = agent["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]},
    }


@pytest.mark.parametrize("helm", HELMS)
def test_definitions_grow_and_never_shrink(server: Server, helm: str, tmp_path: Path) -> None:
    """By an upgrade that needs it, and only by that; a rollback leaves them alone, and so does an older release.

    In the words of the page, from a release that has one value less.
    """
    name = f"crds-{helm}"
    server.namespace(name)
    where = ("--namespace", name)
    older = older_chart(tmp_path)
    job = "name: sniffer-crds\n"
    bring = [SNIFFER, "crds", "--apply", "--kubeconfig", str(server.kubeconfig)]
    try:
        server.helm(helm, "install", "sniffer", older, *where, "--set", "lease=77")
        wait_until(lambda: served(server) >= DEFINITIONS, 20, what="definitions served")
        assert "suspend" not in fields(server)
        [page] = blocks("docs/operations.md", "Upgrade, roll back")
        meant = {"deploy/helm/sniffer": CHART, "sniffer-system": name}
        upgrade = [meant.get(word, word) for word in shlex.split(page.commands[0])[1:]]
        assert upgrade[:3] == ["upgrade", "sniffer", CHART]
        assert job in server.helm(helm, *upgrade, "--dry-run=server")
        assert job not in server.helm(helm, *upgrade, "--dry-run=server", "--set", "upgradeCRDs=false")
        server.helm(helm, *upgrade, "--no-hooks")  # nothing runs here: what the job does is done by hand
        agent = server.api.ask("GET", server.api.path("DaemonSet", "sniffer-agent", name))
        assert "--lease=77" in agent["spec"]["template"]["spec"]["containers"][0]["args"], "what was set stays set"
        assert "suspend" not in fields(server)
        done = subprocess.run(bring, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "mirrortargets.sniffer.dev: brought up to date" in done.stdout
        assert "suspend" in fields(server)
        assert job not in server.helm(helm, *upgrade, "--dry-run=server")
        server.helm(helm, "rollback", "sniffer", "1", *where)
        assert "suspend" in fields(server)
        assert job not in server.helm(helm, "upgrade", "sniffer", older, *where, "--dry-run=server")
        path = server.api.path("CustomResourceDefinition", "mirrortargets.sniffer.dev")
        later = {"metadata": {"annotations": {"sniffer.dev/version": "99.0.0"}}}
        server.api.ask("PATCH", path, later, content_type="application/merge-patch+json")
        again = subprocess.run([*bring, "--json"], capture_output=True, text=True)
        assert json.loads(again.stdout)["mirrortargets.sniffer.dev"] == "as it is, of 99.0.0"
        assert job not in server.helm(helm, *upgrade, "--dry-run=server")
        server.api.request("DELETE", path)
        wait_until(lambda: server.api.request("GET", path)[0] == 404, 30, what="definition gone")
        assert job in server.helm(helm, *upgrade, "--dry-run=server")
        again = subprocess.run([*bring, "--json"], capture_output=True, text=True)
        assert json.loads(again.stdout)["mirrortargets.sniffer.dev"] == "made"
    finally:
        server.helm(helm, "uninstall", "sniffer", *where, check=False)
        forget(server)


@pytest.mark.parametrize("helm", HELMS)
def test_a_life(server: Server, helm: str) -> None:
    """Installed, upgraded, rolled back, uninstalled: the mirrors stay, and are taken up."""
    name = f"life-{helm}"
    server.namespace(name)
    where = ("--namespace", name)
    try:
        said = server.helm(helm, "install", "sniffer", CHART, *where, "--set", "agent.metrics=0.0.0.0:9750")
        certificate = server.api.ask("GET", server.api.path("Secret", "sniffer-metrics", name))["data"]
        assert "kubectl wait --for=condition=Ready" in said
        assert f"helm test sniffer --namespace {name}" in said
        assert f"which are {SERVICE_NETWORK}." in said, "serviceCIDRs is not given, and the cluster knows them"
        wait_until(lambda: served(server) >= DEFINITIONS, 20, what="definitions served")
        for command in told(said, "10.0.9.5", "ada", name):
            if not command.startswith(OF_PODS):
                server.shell(helm, command)
        assert may_use(server, helm, name)
        assert "--service-cidrs" in json.dumps(
            server.api.ask("GET", server.api.path("DaemonSet", "sniffer-agent", name))
        )
        assert statuses(server)

        options = ("--set", "controller.replicas=3", "--set", "agent.metrics=0.0.0.0:9750")
        said = server.helm(helm, "upgrade", "sniffer", CHART, *where, *options)
        assert "Targets that there are: analyzer." in said
        assert "resourceNames: [analyzer]" in said
        # Who trusts it goes on scraping.
        assert server.api.ask("GET", server.api.path("Secret", "sniffer-metrics", name))["data"] == certificate
        assert server.api.ask("GET", server.api.path("Deployment", "sniffer-controller", name))["spec"]["replicas"] == 3
        server.helm(helm, "rollback", "sniffer", "1", *where)

        server.helm(helm, "uninstall", "sniffer", *where)
        assert server.api.ask("GET", server.api.path("TrafficMirror", "web", "default"))["spec"]["filter"]
        status, _ = server.api.request("GET", server.api.path("ClusterRole", "sniffer-agent"))
        assert status == 404
        server.helm(helm, "install", "sniffer", CHART, *where)
        assert server.api.ask("GET", server.api.path("TrafficMirror", "web", "default"))["spec"]["filter"]
        server.helm(helm, "uninstall", "sniffer", *where)
        server.namespace(f"{name}-2")
        elsewhere = ("--namespace", f"{name}-2")
        server.helm(helm, "install", "other", CHART, *elsewhere)
        server.helm(helm, "uninstall", "other", *elsewhere)
    finally:
        for release, place in (("sniffer", name), ("other", f"{name}-2")):
            server.helm(helm, "uninstall", release, "--namespace", place, check=False)
        forget(server)


def may_use(server: Server, helm: str, namespace: str) -> bool:
    """Whether ada may, by what the notes told one to grant her; nobody else, and nowhere else."""
    asked = "kubectl auth can-i use mirrortargets.sniffer.dev/analyzer"
    wait_until(lambda: server.shell(helm, f"{asked} -n {namespace} --as=ada || true") == "yes\n", 10, what="a right")
    others = (f"-n {namespace} --as=eve", "-n default --as=ada")
    return {server.shell(helm, f"{asked} {other} || true") for other in others} == {"no\n"}


def forget(server: Server) -> None:
    """Takes the definitions away, which an uninstall keeps: whose they were is written on them."""
    paths = [server.api.path("CustomResourceDefinition", f"{name}.sniffer.dev") for name in DEFINITIONS]
    for path in paths:
        server.api.request("DELETE", path)
    for path in paths:
        wait_until(lambda path=path: server.api.request("GET", path)[0] == 404, 30, what=f"{path} gone")


def served(server: Server) -> set[str]:
    """Resources of ours that the API server serves."""
    status, answer = server.api.request("GET", "/apis/sniffer.dev/v1alpha1")
    return {one["name"] for one in answer["resources"]} if status == 200 else set()


def statuses(server: Server) -> Sequence[Any]:
    """Of the policies: type checking of expressions has found nothing."""
    path = server.api.path("ValidatingAdmissionPolicy.admissionregistration.k8s.io")

    def checked() -> list[Any]:
        items = [one for one in server.api.ask("GET", path)["items"] if one["metadata"]["name"].startswith("sniffer-")]
        return [one["status"].get("typeChecking") for one in items if one.get("status")]

    found = wait_until(lambda: checked() if len(checked()) == 2 else None, 20, what="type checking")
    assert not any(one and one.get("expressionWarnings") for one in found), json.dumps(found, indent=1)
    return found


def fields(server: Server) -> set[str]:
    """Of a MirrorTarget's spec, in the definition as it is now."""
    one = server.api.ask("GET", server.api.path("CustomResourceDefinition", "mirrortargets.sniffer.dev"))
    schema = one["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return set(schema["properties"]["spec"]["properties"])


def older_chart(directory: Path) -> Path:
    """A copy of a release before, whose MirrorTargets have one field less, and the chart one value."""
    copy = directory / "sniffer"
    subprocess.run(["cp", "-r", CHART, copy], check=True)
    values = yaml.safe_load((copy / "values.yaml").read_text())
    schema = json.loads((copy / "values.schema.json").read_text())
    for place in (values, schema["properties"]):
        del place["helmTest"]
    schema["required"].remove("helmTest")
    (copy / "values.yaml").write_text(yaml.safe_dump(values))
    (copy / "values.schema.json").write_text(json.dumps(schema))
    shutil.rmtree(copy / "templates/tests")
    for path in (copy / "crds").iterdir():
        definition = yaml.safe_load(path.read_text())
        definition["metadata"]["annotations"] = {"sniffer.dev/version": "0.0.9", "sniffer.dev/schema": "former"}
        spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].get("spec", {})
        spec.get("properties", {}).pop("suspend", None)
        path.write_text(yaml.safe_dump(definition))
    return copy
