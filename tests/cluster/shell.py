"""A shell in a cluster with sniffer installed, for people who want to try it: `make cluster`."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster import images, install
from tests.cluster.lab import Cluster
from tests.cluster.pod import Pod

HERE = Path(__file__).parent
_MIRRORS = """\
apiVersion: sniffer.dev/v1alpha1
kind: MirrorTarget
metadata: {name: analyzer}
spec:
  encapsulation: {vxlan: {vni: 4242}}
  endpoints: [{address: 10.200.0.100}]
  allowedNamespaces: {}
---
apiVersion: sniffer.dev/v1alpha1
kind: TrafficMirror
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  filter: tcp port 80
  targetRefs: [{name: analyzer}]
"""
WORDS = """
Two nodes, a pod `web` in the namespace shop (%(web)s) that a pod `client` on the other node asks once a second, and an
analyzer outside of the cluster (10.200.0.100). Try:

  kubectl apply -f mirrors.yaml        mirror what `web` says and hears at port 80
  kubectl wait --for=condition=Ready trafficmirror/web -n shop
  analyzer                             what arrives at the analyzer, as tshark tells it (Ctrl-C ends it)
  kubectl get sniffer -A               targets, mirrors, nodes
  kubectl sniffer explain web -n shop  one mirror on all its nodes, with what was counted there
  kubectl edit trafficmirror web -n shop
  on node1 ip link                     any command on a node; `on analyzer ...` and `on web ...` too
  sniffer lint mirrors.yaml            the command line of this checkout
  helm uninstall sniffer -n sniffer-system   cleans the nodes; the chart is the directory `chart`

`exit` ends the cluster; nothing of it stays.
"""
_RC = """
PS1='cluster \\w\\$ '
on() {
	local where=$1
	shift
	case $where in
	node[0-9]*) nsenter --target "$(<"$HOSTS/$where/boot.pid")" --mount --uts --net -- "$@" ;;
	web) ip netns exec %(netns)s "$@" ;;
	*) ip netns exec "$where" "$@" ;;
	esac
}
helm() {
	helm4 "$@"
}
analyzer() {
	on analyzer tshark -l -n -i eth0 -f 'udp port 4789' 2>/dev/null
}
source <(kubectl completion bash) 2>/dev/null
cat words
"""


def main() -> None:
    """Starts everything, leaves the user to a shell, and ends everything."""
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="cluster-shell-"))
    binaries = Path(_made_by("build"))
    image, archive = _made_by("image").split()
    toolbox = images.toolbox(directory / "toolbox.tar")
    print("Starting a cluster", flush=True)
    with Cluster(binaries, images=[toolbox, Path(archive)]) as cluster:
        print("Installing sniffer", flush=True)
        install.install(cluster, image)
        web = _sample(cluster)
        _write(directory, web)
        print(f"Ready after {time.monotonic() - began:.0f} s")
        mine = {"HOSTS": str(cluster.home)}
        mine |= {f"HELM_{name}_HOME": str(directory / "helm") for name in ("CACHE", "CONFIG", "DATA")}
        environment = cluster.environment() | mine
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        line = ["bash", "--rcfile", str(directory / "rc"), "-i"]
        subprocess.run(line, cwd=directory, env=environment)


def _made_by(script: str) -> str:
    return subprocess.run([HERE / script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _sample(cluster: Cluster) -> Pod:
    """A web server on one node and a client on the other, in a namespace that stays."""
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
    cluster.wait(lambda: cluster.objects("ServiceAccount", "shop"))
    serve = ("httpd", "-f", "-p", "80", "-h", "/www")
    web = cluster.pod("web", "shop", cluster.node(1), labels={"app": "web"}, command=serve)
    ask = f"while sleep 1; do wget -qO- http://{web.address} >/dev/null; done"
    cluster.pod("client", "shop", cluster.node(2), labels={"app": "client"}, command=("sh", "-c", ask))
    return web


def _write(directory: Path, web: Pod) -> None:
    (directory / "mirrors.yaml").write_text(_MIRRORS)
    (directory / "chart").symlink_to(install.CHART)
    (directory / "words").write_text(WORDS % {"web": web.address})
    (directory / "rc").write_text(_RC % {"netns": web.netns})


if __name__ == "__main__":
    main()
