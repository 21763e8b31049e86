"""Which CNI gives pods their networks here, by its configuration or by the interfaces that it makes."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CONFIGURATIONS = Path("/etc/cni/net.d")
_SUFFIXES = {".conf", ".conflist", ".json"}
_INTERFACES = (
    ("cilium_host", "cilium"),
    ("antrea-gw0", "antrea"),
    ("ovn-k8s-mp0", "ovn-kubernetes"),
    ("vxlan.calico", "calico"),
    ("bpfin.cali", "calico"),
    ("cali", "calico"),
    ("flannel", "flannel"),
    ("weave", "weave"),
    ("kube-bridge", "kube-router"),
    ("azv", "azure-vnet"),
    ("eni", "aws-cni"),
    ("gke", "gke"),
    ("lxc", "cilium"),
    ("cni0", "bridge"),
)
"""First letters of names, the telling ones first."""
_ALIASES = {"cilium-cni": "cilium", "calico-node": "calico"}


@dataclass(frozen=True, slots=True)
class Cni:
    """`how`: by what it was found; `plugins`: of the chain, where that is known."""

    name: str
    how: str
    plugins: tuple[str, ...] = ()


def found(interfaces: Iterable[str], directory: Path = CONFIGURATIONS) -> Cni | None:
    """The one in force: runtimes take the first configuration file by name. None: nothing tells of one."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.suffix in _SUFFIXES:
            plugins = _plugins(path)
            if plugins:
                return Cni(_ALIASES.get(plugins[0], plugins[0]), str(path), plugins)
    names = sorted(interfaces)
    for prefix, name in _INTERFACES:
        made = next((one for one in names if one.startswith(prefix)), None)
        if made:
            return Cni(name, f"interface {made}")
    return None


def _plugins(path: Path) -> tuple[str, ...]:
    """The types of a file's plugins, in order; () where it cannot be read."""
    try:
        document = json.loads(path.read_text())
        chain = document.get("plugins", [document])
        return tuple(str(one["type"]) for one in chain)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def remark(cni: Cni, with_tcx: bool, kinds: Iterable[str | None]) -> tuple[str, str] | None:
    """What of it keeps traffic from the tap, and the fix; None: nothing that is known. kinds: of the node's links."""
    if cni.name == "cilium" and "netkit" in kinds:
        fix = "name interfaces of nodes in a ClusterTrafficMirror, or install Cilium with bpf.datapathMode=veth"
        return "its pods have netkit devices instead of veths, which are not found", fix
    if with_tcx:
        return None  # we are at the head of the chain
    if cni.name in ("cilium", "aws-cni"):
        fix = "kernel 6.6 or later (TCX); or with Cilium bpf.tc.priority (bpf-filter-priority) above 1"
        return "its programs decide for good at priority 1 of clsact, and who attaches later runs first", fix
    if "bandwidth" in cni.plugins:
        fix = "kernel 6.6 or later (TCX), or mirror these pods on another node"
        return "its bandwidth plugin puts an `ingress` qdisc on limited pods: their egress cannot be mirrored", fix
    return None
