"""The files by which the programs of the cluster are told what to do."""

import json
import os
from pathlib import Path
from typing import Any

SERVICE_NETWORK = "10.96.0.0/16"
POD_NETWORK = "10.244.0.0/16"
API_SERVICE = "10.96.0.1"
TOOLBOX = "localhost/toolbox:1"
PODS_PER_NODE = 250

LEASE_S = 20
"""Of a node: it renews four times in that while, and is NotReady when it has not for as long."""

_CONTAINERD = """\
version = 2
root = "{home}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "warn"
[plugins."io.containerd.internal.v1.opt"]
  path = "{home}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    discard_unpacked_layers = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{home}/cni"
"""

# Whom the API server's log speaks of: tests' users, and service accounts that are not the control plane's own.
_QUIET_USERS = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"]
_QUIET_GROUPS = ["system:nodes", "system:masters", "system:serviceaccounts:kube-system"]


def environment(**more: str) -> dict[str, str]:
    """What a daemon sees of ours: nothing that could lead it elsewhere."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin:/usr/bin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", "TMPDIR": os.environ.get("TMPDIR", "/tmp")} | more


def cni_plugins() -> Path:
    """Where the CNI plugins of this machine lie; AssertionError where there are none."""
    for path in map(Path, ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")):
        if (path / "bridge").exists():
            return path
    raise AssertionError("needs the CNI plugins (package containernetworking-plugins)")


def write_node(home: Path, name: str, pod_network: str, ca: Path, cgroup_root: str) -> None:
    """The configuration of containerd, CNI and kubelet of one node."""
    text = _CONTAINERD.format(home=home, pause=TOOLBOX, plugins=cni_plugins())
    (home / "containerd.toml").write_text(text)
    (home / "cni").mkdir()
    (home / "pki").mkdir()
    _write(home / "cni" / "10-test.conflist", _cni(home, pod_network))
    _write(home / "kubelet.yaml", _kubelet(home, ca, cgroup_root))


def write_kube_proxy(home: Path, kubeconfig: Path) -> None:
    """kube-proxy's: nftables, and no sysctl of conntrack touched."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nodePortAddresses": ["primary"],
    }
    _write(home / "kube-proxy.yaml", document)


def write_audit_policy(path: Path) -> None:
    """What the API server writes of requests: a line each, without bodies, of those that tests ask about."""
    rules = [
        {"level": "None", "users": _QUIET_USERS},
        {"level": "None", "userGroups": _QUIET_GROUPS},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*"]},
        {"level": "Metadata"},
    ]
    document = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    _write(path, document)


def _cni(home: Path, pod_network: str) -> dict[str, Any]:
    ipam = {
        "type": "host-local",
        "dataDir": str(home / "ipam"),
        "ranges": [[{"subnet": pod_network}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "test", "plugins": [bridge]}


def _kubelet(home: Path, ca: Path, cgroup_root: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # The disk is memory and the machine is shared: nobody is evicted, no image collected, no disk measured.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "maxPods": PODS_PER_NODE,
        "nodeLeaseDurationSeconds": LEASE_S,
        "resolvConf": "",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": str(home / "volume-plugins"),
        "logging": {"verbosity": 0},
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1))
