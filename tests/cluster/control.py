"""The control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and who may do what."""

import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import configs
from tests.cluster.daemon import Daemon, stop_all
from tests.cluster.host import GATEWAY
from tests.cluster.pki import Authority, kubeconfig

PORT = 6443
_ETCD = "http://127.0.0.1:2379"
_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
_ADDRESSES = (GATEWAY, configs.API_SERVICE, "127.0.0.1")


class ControlPlane:
    """Its programs run in the network namespace of the run itself. `api`, `etcd` and the rest are `Daemon`s."""

    def __init__(self, home: Path, binaries: Path) -> None:
        self.home, self.binaries = home, binaries
        self.authority = Authority(home / "pki")
        self.admin = self.authority.client("admin", ["system:masters"])
        self.audit_log = home / "audit.log"
        self._snapshots = 0
        self.etcd = self._daemon("etcd", *self._etcd_options())
        self.api = self._daemon("kube-apiserver", *self._api_options())
        self.controllers = self._daemon("kube-controller-manager", *self._controller_options())
        self.scheduler = self._daemon("kube-scheduler", *self._client_options("kube-scheduler"))

    def kubeconfig(self, name: str, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig file for a user of these groups."""
        credentials = self.authority.client(user, groups)
        path = self.home / f"{name}.kubeconfig"
        return kubeconfig(path, f"https://{GATEWAY}:{PORT}", self.authority.certificate, credentials)

    def start_etcd(self) -> None:
        """Starts etcd and waits for nothing."""
        self.etcd.start()

    def start_api(self) -> None:
        """Starts the API server and waits for nothing."""
        self.api.start()

    def wait_api(self) -> None:
        """Waits until the API server says that it is ready."""
        self.api.until(self._ready)

    def start_rest(self) -> None:
        """Starts controllers and scheduler."""
        self.controllers.start()
        self.scheduler.start()

    def stop(self) -> None:
        """Stops everything; the API server is not given the minute that it would like."""
        stop_all([self.controllers, self.scheduler])
        self.api.kill()
        self.etcd.kill()

    def snapshot(self) -> Path:
        """A copy of etcd's directory, taken while it holds still."""
        self._snapshots += 1
        copy = self.home / f"snapshot-{self._snapshots}"
        self.etcd.pause()
        try:
            shutil.copytree(self._state, copy)
        finally:
            self.etcd.resume()
        return copy

    def restore(self, snapshot: Path) -> None:
        """Puts a copy back and restarts whatever has seen a later state."""
        stop_all([self.controllers, self.scheduler])
        self.api.kill()
        self.etcd.kill()
        shutil.rmtree(self._state)
        shutil.copytree(snapshot, self._state)
        self.start_etcd()
        self.start_api()
        self.wait_api()
        self.start_rest()

    @property
    def _state(self) -> Path:
        return self.home / "etcd"

    def _ready(self) -> bool:
        tls = ssl.create_default_context(cafile=str(self.authority.certificate))
        tls.load_cert_chain(self.admin.certificate, self.admin.key)
        try:
            with urllib.request.urlopen(f"https://{GATEWAY}:{PORT}/readyz", context=tls, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # refused, or not ready yet (HTTPError is one)
            return False

    def _daemon(self, name: str, *options: str) -> Daemon:
        environment = configs.environment(HOME=str(self.home))
        return Daemon(name, [self.binaries / name, *options], self.home / f"{name}.log", None, environment)

    def _etcd_options(self) -> list[str]:
        # No fsync: what a crash of this machine would lose, nobody misses.
        urls = [f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}"]
        peers = ["--listen-peer-urls=http://127.0.0.1:2380"]
        return [f"--data-dir={self._state}", "--unsafe-no-fsync", "--log-level=error", *urls, *peers]

    def _api_options(self) -> list[str]:
        alternatives = [*(f"IP:{address}" for address in _ADDRESSES), *(f"DNS:{name}" for name in _NAMES)]
        serving = self.authority.server("kube-apiserver", alternatives)
        kubelet = self.authority.client("kube-apiserver-kubelet-client", ["system:masters"])
        policy = self.home / "audit.yaml"
        configs.write_audit_policy(policy)
        self._signing = self.authority.signing_key("service-accounts")
        return [
            f"--etcd-servers={_ETCD}",
            f"--advertise-address={GATEWAY}",
            f"--secure-port={PORT}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self._signing}",
            f"--service-account-key-file={self._signing}",
            f"--service-cluster-ip-range={configs.SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
            "--default-not-ready-toleration-seconds=30",
            "--default-unreachable-toleration-seconds=30",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
        ]

    def _client_options(self, name: str) -> list[str]:
        file = self.kubeconfig(name, f"system:{name}")
        rates = ["--kube-api-qps=200", "--kube-api-burst=400"]
        return [f"--kubeconfig={file}", "--leader-elect=false", "--profiling=false", *rates]

    def _controller_options(self) -> list[str]:
        return [
            *self._client_options("kube-controller-manager"),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self._signing}",
            f"--root-ca-file={self.authority.certificate}",
            "--node-monitor-period=2s",
            f"--node-monitor-grace-period={configs.LEASE_S}s",
        ]
