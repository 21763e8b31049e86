"""Pages that a person in front of a cluster follows: each YAML is applied, each command run, in order."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pages
from tests.agent import SNIFFER
from tests.cluster import install
from tests.cluster.api import ApiError
from tests.cluster.following import BIN, asked, environment, follow, own_programs
from tests.cluster.install import NAMESPACE
from tests.cluster.lab import Cluster
from tests.cluster.mirrors import mirror
from tests.cluster.pod import Pod
from tests.topology import run
from tests.traffic import blast

TARGETS = "kubectl delete mirrortarget --all --ignore-not-found"
MIRRORS = "kubectl delete trafficmirror --all -n shop; kubectl delete clustertrafficmirror --all"
SHOWN = "kubectl sniffer capture web-0 -n shop | wireshark -k -i -"
EVERYTHING = """
apiVersion: sniffer.dev/v1alpha1
kind: ClusterTrafficMirror
metadata: {name: all}
spec:
  namespaceSelector: {matchLabels: {team: shop}}
  targetRefs: [{name: web}]
"""


def script(cluster: Cluster, page: str, heading: str = "") -> str:
    """A page, or what stands below one of its headings; its analyzer is one that there is."""
    return pages.script(page, heading).replace("10.0.9.5", cluster.analyzer.address)


@pytest.fixture(scope="module")
def web(installed: Cluster) -> Iterator[Pod]:
    """What the pages speak of: two namespaces, a pod, and somebody who asks it."""
    with installed.namespace("shop", {"team": "shop"}), installed.namespace("payments", {"team": "shop"}):
        serve = ("httpd", "-f", "-p", "443", "-h", "/www")
        pod = installed.pod("web-0", "shop", labels={"app": "web"}, command=serve)
        with asked(pod):
            yield pod
        pod.delete(grace_s=0)


@pytest.fixture
def shop(installed: Cluster, web: Pod, tmp_path: Path) -> Iterator[Cluster]:
    yield installed
    follow(installed, f"{MIRRORS}; {TARGETS}", tmp_path)


def test_the_readme_and_how_tos(shop: Cluster, tmp_path: Path) -> None:
    """G3, G17: a quota holds, and rules by which nobody forges copies."""
    said = follow(shop, script(shop, "README.md", "In a cluster"), tmp_path).stdout
    assert "trafficmirror.sniffer.dev/web condition met" in said
    assert_captured(tmp_path / "wireshark.txt", "443")
    said = follow(shop, script(shop, "docs/conditions.md"), tmp_path).stdout
    assert "condition met" in said
    assert "Normal" in said
    follow(shop, f"{MIRRORS}; {TARGETS}", tmp_path)
    told = follow(shop, script(shop, "docs/how-to/tenancy.md"), tmp_path).stdout
    assert [line for line in told.splitlines() if line in ("yes", "no")] == ["yes", "yes", "no"]
    assert_quota(shop, "shop", 5)
    assert_only_nodes_reach(shop, tmp_path)
    follow(shop, script(shop, "docs/api.md", "Rights"), tmp_path)
    follow(shop, script(shop, "docs/how-to/limits.md"), tmp_path)
    follow(shop, f"kubectl wait --for=condition=Ready trafficmirror/headers -n shop; {MIRRORS}; {TARGETS}", tmp_path)
    # Its image is not here: tests/cluster/test_trace.py runs it.
    pod = script(shop, "docs/how-to/lost-copies.md").replace("kubectl apply", "kubectl apply --dry-run=server")
    assert "pod/sniffer-trace created (server dry run)" in follow(shop, pod, tmp_path).stdout


def test_the_plugins_page(shop: Cluster, tmp_path: Path) -> None:
    """From the image's own file on the PATH to a pod in Wireshark's list; by the real tshark, until Ctrl-C."""
    page = "docs/plugin.md"
    with own_programs(tmp_path / "usr"):
        follow(shop, script(shop, page, "Install"), tmp_path)
        assert follow(shop, "type -P kubectl-sniffer", tmp_path).stdout == f"{BIN / 'kubectl-sniffer'}\n"
        completed = follow(shop, "kubectl __complete sniffer capture -n shop w", tmp_path).stdout
        assert completed.splitlines() == ["web-0", ":4"]
        commands = script(shop, page, "Commands")
        template = commands.splitlines()[0]
        follow(shop, f"{template} | kubectl apply -f -", tmp_path)
        follow(shop, "kubectl wait --for=condition=Ready trafficmirror/web -n shop", tmp_path)
        said = follow(shop, commands, tmp_path).stdout
        assert "kind: TrafficMirror" in said
        assert "Programmed" in said
        assert_captured(tmp_path / "wireshark.txt", "443", "53")
        told = run("tshark", "-r", tmp_path / "dns.pcapng", "-T", "fields", "-e", "udp.dstport").split()
        assert set(told) == {"53"}
        *before, live = script(shop, page, "Wireshark").splitlines()
        said = follow(shop, "\n".join(before), tmp_path).stdout
        assert "sniffer:shop/web-0" in said
        until_interrupted(shop, live, tmp_path)
        shop.apply(EVERYTHING)
        lines = [
            f"timeout -s INT 3 {line} || test $? = 124" if line.endswith(" -f") else f"{line} || test $? = 1"
            for line in plugin_examples(shop, tmp_path)
        ]
        at_once = [f"({line}) & all+=($!)" for line in lines]
        follow(shop, "\n".join([*at_once, 'for one in "${all[@]}"; do wait $one; done']), tmp_path)


def plugin_examples(cluster: Cluster, directory: Path) -> list[str]:
    """What `--help` of the plugin and of each of its commands shows, but for what the page has shown."""
    said = follow(cluster, "kubectl sniffer --help", directory).stdout
    names = re.findall(r"^    ([a-z-]+)(?: |$)", said, re.MULTILINE)
    said += follow(cluster, f"for name in {' '.join(names)}; do kubectl sniffer $name --help; done", directory).stdout
    assert said.count("examples:\n") == len(names) + 1 > 6
    found = re.findall(r"^  (kubectl sniffer .*)$", said, re.MULTILINE)
    assert len(found) > len(names)
    return sorted({line.replace("10.0.9.5", cluster.analyzer.address) for line in found} - {SHOWN})


def assert_captured(file: Path, *ports: str) -> None:
    """By Wireshark, from its standard input: five frames, of these ports."""
    lines = file.read_text().splitlines()
    file.unlink()
    assert len(lines) == 5
    assert all(set(ports) & set(line.replace(",", " ").split()) for line in lines), lines


def until_interrupted(cluster: Cluster, line: str, directory: Path) -> None:
    """A program that shows packets at port 443, until Ctrl-C."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {line}"],
        env=environment(cluster, directory),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    assert process.stdout
    shown = iter(process.stdout.readline, "")
    try:
        packets = [next(one for one in shown if re.search(r"443 (→|->)|(→|->) 443", one)) for _ in range(3)]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(20)
    assert len(packets) == 3
    assert process.returncode == 0


TOLD = ("alerts", "api", "fields", "operations", "security", "status", "values")


def test_commands_among_words(shop: Cluster, web: Pod, tmp_path: Path) -> None:
    """Of each page: with kubectl, or on the node, or at the analyzer."""
    follow(shop, script(shop, "README.md", "In a cluster").split("kubectl edit")[0], tmp_path)
    follow(shop, f"{pages.alone('README.md', 'kubectl get mirrortargets')} | sniffer lint -", tmp_path)
    selector = {"labelSelector": "app.kubernetes.io/component=agent", "fieldSelector": f"spec.nodeName={web.node.name}"}
    [agent] = shop.objects("Pod", NAMESPACE, **selector)
    ids = json.loads(web.node.run("bpftool", "--json", "prog", "show"))
    names = {"AGENT": agent["metadata"]["name"], "TARGET": "zeek", "ADDRESS": shop.analyzer.address}
    names |= {"N": str(ids[0]["id"]), "FILE...": "mirror.yaml"}
    mirror = [block.text for block in pages.blocks("README.md", "In a cluster") if block.language == "yaml"]
    (tmp_path / "mirror.yaml").write_text("---\n".join(mirror))
    for page in TOLD:
        for line in pages.inline(f"docs/{page}.md"):
            words = " ".join(names.get(word, word) for word in line.split())
            if "--previous" in words:
                words = f"({words} 2>&1 || true) | grep 'previous terminated container'  # it never ended"
            if line.startswith(("kubectl", "sniffer lint")):
                follow(shop, words, tmp_path)
            elif line.startswith("ss"):
                assert "State" in shop.analyzer.run(*words.split())
            else:
                assert web.node.run(*words.replace("sniffer", str(SNIFFER), 1).split()), line
    shop.wait(lambda: not [one for one in shop.objects("Pod", NAMESPACE) if one["metadata"]["name"] == names["AGENT"]])
    install.wait(shop)


def test_what_help_shows(shop: Cluster, tmp_path: Path) -> None:
    """Of what is about a cluster; tests/netns/test_readme.py has the rest."""
    lines = [line for line in pages.examples() if "kube" in line]
    assert len(lines) == 5
    for line in lines:
        if "cleanup" in line:
            assert line == pages.blocks("docs/operations.md", "Clean without an uninstall")[0].text.strip()
        elif line.startswith("sniffer controller"):
            follow(shop, f"timeout -s INT 3 {line} || test $? = 124", tmp_path)
        else:
            follow(shop, f"{line} || test $? = 1", tmp_path)
    assert (tmp_path / "kubectl-sniffer").read_bytes().startswith(b"#!")


def assert_quota(cluster: Cluster, namespace: str, count: int) -> None:
    """G3: one more mirror than the page allows is refused, by the page's quota; which is no more after this."""
    mirrors = [mirror(f"m{number}", namespace, ["zeek"]) for number in range(count + 1)]
    cluster.apply(*mirrors[:count])
    with pytest.raises(ApiError, match=r"exceeded quota: mirrors"):
        cluster.apply(mirrors[count])
    for one in mirrors[:count]:
        cluster.delete("TrafficMirror", one["metadata"]["name"], namespace)
    cluster.delete("ResourceQuota", "mirrors", namespace)


def assert_only_nodes_reach(cluster: Cluster, directory: Path) -> None:
    """G17: by the page's rules the analyzer drops what a pod forges, and takes what a node sends."""
    (block,) = (one for one in pages.blocks("docs/how-to/tenancy.md") if one.language == "nft")
    rules = directory / "analyzer.nft"
    rules.write_text(block.text.replace("10.0.8.0/22", "10.200.0.0/24"))
    (pod,) = cluster.running(["web-0"], "shop")
    try:
        cluster.analyzer.run("nft", "-f", rules)
        blast(netns=pod.netns, dst=cluster.analyzer.address, port=4789, size=200, rate=1000, count=10)
        cluster.node(1).run("bash", "-c", f"echo copy >/dev/udp/{cluster.analyzer.address}/4789")
        assert "counter packets 10 " in cluster.analyzer.run("nft", "list", "table", "inet", "analyzer")
    finally:
        cluster.analyzer.run("nft", "delete", "table", "inet", "analyzer")
