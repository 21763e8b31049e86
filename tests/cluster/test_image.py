"""The image: what is in it, what is not, and that it runs on a node as it is."""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster import pod
from tests.cluster.api import Document
from tests.cluster.lab import Cluster

MEGABYTE = 1_000_000
NOT_WANTED = re.compile(
    r"(^|/)(bin/(clang|gcc|cc|ld|make|pip[0-9.]*)(-[0-9]+)?|libLLVM[^/]*|requirements\.lock|tests)$"
)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


def test_it_is_small_and_has_no_compiler(image: tuple[str, Path]) -> None:
    name, archive = image
    assert archive.stat().st_size <= 250 * MEGABYTE
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or pytest.fail("no manifest"))[0]
        assert manifest["RepoTags"] == [name]
        files = [file for layer in manifest["Layers"] for file in _files(tar, layer)]
    assert any(re.search(r"/sniffer/kernel/sniffer\.bpf\.o$", file) for file in files)
    assert not [file for file in files if NOT_WANTED.search(file)]


def _files(archive: tarfile.TarFile, layer: str) -> list[str]:
    with tarfile.open(fileobj=archive.extractfile(layer)) as tar:
        return [entry.name for entry in tar if not entry.isdir()]


def _run(cluster: Cluster, namespace: str, image: str, name: str, words: Sequence[str], **security: object) -> str:
    """What the image's entry point prints for these words."""
    document: Document = pod.document(name, namespace, image=image, restartPolicy="Never")
    (container,) = document["spec"]["containers"]
    del container["command"]
    container |= {"args": list(words), "securityContext": {"readOnlyRootFilesystem": True, **security}}
    cluster.apply(document)
    ended = {"Succeeded", "Failed"}
    cluster.wait(lambda: cluster.get("Pod", name, namespace)["status"].get("phase") in ended, 60, f"{name} ended")
    return cluster.kubectl("logs", "-n", namespace, name)


def test_the_entry_point_is_sniffer(cluster: Cluster, namespace: str, loaded: str) -> None:
    assert re.fullmatch(r"(sniffer )?\d+\.\d+\.\d+\S*\n", _run(cluster, namespace, loaded, "version", ["--version"]))


def test_filters_compile_there(cluster: Cluster, namespace: str, loaded: str) -> None:
    """libpcap is there, and so are the names of services."""
    words = ["explain", "--filter", "tcp port http", "--json"]
    options = {"runAsUser": 65532, "capabilities": {"drop": ["ALL"]}}
    assert json.loads(_run(cluster, namespace, loaded, "explain", words, **options))["instructions"] > 10


def test_programs_load_there(cluster: Cluster, namespace: str, loaded: str) -> None:
    """libbpf is there and new enough, and what the image was built of is what the kernel takes."""
    document = pod.document("agent", namespace, image=loaded, hostNetwork=True)
    (container,) = document["spec"]["containers"]
    del container["command"]
    container["args"] = ["agent", "--manifests", "/tmp", "--node", "n1"]
    container["securityContext"] = {
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"]},
        "appArmorProfile": {"type": "Unconfined"},
    }
    container["volumeMounts"] = [{"name": "bpffs", "mountPath": "/sys/fs/bpf"}]
    document["spec"]["volumes"] = [{"name": "bpffs", "hostPath": {"path": "/sys/fs/bpf"}}]
    cluster.apply(document)
    (agent,) = cluster.running(["agent"], namespace)
    cluster.wait(lambda: list(agent.node.path("/sys/fs/bpf/sniffer").glob("abi-*/programs/*")), what="programs pinned")
    status = json.loads(agent.exec("sniffer", "status", "--json"))
    assert status["agent"]["state"] == "running"
    agent.delete()
    agent.node.run("rm", "-r", "/sys/fs/bpf/sniffer")
