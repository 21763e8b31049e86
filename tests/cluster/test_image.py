"""The image: what is in it, what is not, and that it runs on a node as it is."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

from tests.cluster import pod
from tests.cluster.api import Document
from tests.cluster.lab import Cluster

MEGABYTE = 1_000_000
NOT_WANTED = re.compile(
    r"(^|/)(bin/(clang|gcc|cc|ld|make|pip[0-9.]*)(-[0-9]+)?|libLLVM[^/]*|requirements\.lock|tests)$"
)
DOCKERFILE = (Path(__file__).parents[2] / "Dockerfile").read_text()
SBOM = r"^opt/sniffer/sbom\.spdx\.json$"


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@dataclass(frozen=True, slots=True)
class Contents:
    """Of an image, from its archive: all files of all layers."""

    tags: list[str]
    config: Document
    files: dict[str, bytes | None]
    """By path; None where it is a link."""

    def find(self, pattern: str) -> list[str]:
        return [file for file in self.files if re.search(pattern, file)]

    def text(self, pattern: str) -> str:
        [path] = self.find(pattern)
        return (self.files[path] or b"").decode()


def contents(archive: Path) -> Contents:
    files: dict[str, bytes | None] = {}
    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            return (tar.extractfile(name) or pytest.fail(f"no {name}")).read()

        manifest = json.loads(read("manifest.json"))[0]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(read(layer))) as inner:
                for entry in inner:
                    if not entry.isdir():
                        file = inner.extractfile(entry) if entry.isreg() else None
                        files[entry.name] = file.read() if file else None
        return Contents(manifest["RepoTags"], json.loads(read(manifest["Config"])), files)


def test_its_base_is_named_by_digest() -> None:
    """And every stage is of it, or of another stage; a name alone would be another image next month."""
    bases = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 1
    assert re.fullmatch(r"debian:\S+@sha256:[0-9a-f]{64}", bases[0])
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    assert len(stages) == len(re.findall(r"^FROM", DOCKERFILE, re.MULTILINE))
    assert {of for of, _ in stages} <= {"${BASE}", "scratch", *(name for _, name in stages)}


@pytest.fixture(scope="module")
def inside(image: tuple[str, Path]) -> Contents:
    return contents(image[1])


def test_it_is_small_and_has_no_compiler(image: tuple[str, Path], inside: Contents) -> None:
    name, archive = image
    assert archive.stat().st_size <= 250 * MEGABYTE
    assert inside.tags == [name]
    assert not [file for file in inside.files if NOT_WANTED.search(file)]


def test_it_is_nobody_unless_told_otherwise(inside: Contents) -> None:
    assert inside.config["config"]["User"] == "65532:65532"


def test_the_objects_and_their_digests_are_in_it(inside: Contents) -> None:
    """G14: what the agent compares."""
    paths = inside.find(r"/sniffer/kernel/[a-z]+\.bpf\.o$")
    assert [path.rpartition("/")[2] for path in sorted(paths)] == ["capture.bpf.o", "sniffer.bpf.o"]
    files = {one["fileName"].removeprefix("./"): one["checksums"] for one in json.loads(inside.text(SBOM))["files"]}
    assert files.keys() == set(paths)
    for path, checksums in files.items():
        digest = hashlib.sha256(inside.files[path] or b"").hexdigest()
        assert (inside.files[f"{path}.sha256"] or b"").decode() == f"{digest}  {path.rpartition('/')[2]}\n"
        assert {"algorithm": "SHA256", "checksumValue": digest} in checksums


def test_the_sbom_says_what_is_there(inside: Contents) -> None:
    """SPDX 2.3: every Debian package that dpkg knows of, every Python package, nothing else."""
    bill = json.loads(inside.text(SBOM))
    assert (bill["spdxVersion"], bill["dataLicense"], bill["SPDXID"]) == ("SPDX-2.3", "CC0-1.0", "SPDXRef-DOCUMENT")
    identifiers = [one["SPDXID"] for one in [*bill["packages"], *bill["files"]]]
    assert len(identifiers) == len(set(identifiers))
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in identifiers)
    ends = {row[end] for row in bill["relationships"] for end in ("spdxElementId", "relatedSpdxElement")}
    assert ends == {*identifiers, "SPDXRef-DOCUMENT"}
    listed: dict[str, set[tuple[str, str]]] = {"deb": set(), "pypi": set(), "oci": set()}
    for one in bill["packages"]:
        [where] = one["externalRefs"]
        listed[where["referenceLocator"].split(":")[1].split("/")[0]].add((one["name"], one["versionInfo"]))
    status = inside.text(r"^var/lib/dpkg/status$")
    installed = [dict(re.findall(r"^(\w+): (.*)", one, re.MULTILINE)) for one in status.split("\n\n") if one.strip()]
    debian = {(one["Package"], one["Version"]) for one in installed if one["Status"].endswith(" installed")}
    assert len(debian) > 50
    assert listed["deb"] == debian
    metadata = [inside.files[path] or b"" for path in inside.find(r"^opt/sniffer/.*\.dist-info/METADATA$")]
    python = [Parser().parsestr(one.decode(), headersonly=True) for one in metadata]
    assert listed["pypi"] == {(re.sub(r"[-_.]+", "-", one["Name"]).lower(), one["Version"]) for one in python}
    assert {"sniffer", "kubernetes", "pydantic-core"} <= {name for name, _ in listed["pypi"]}


def test_what_arm64_needs(inside: Contents, arm64: Path) -> None:
    """Every package of the image as a wheel that an arm64 machine takes; the objects are the same to the byte."""
    there = contents(arm64).files
    wheels = [file for file in there if file.endswith(".whl")]
    assert all(re.search(r"-(any|manylinux\w*_aarch64(\.\w+)*)\.whl$", file) for file in wheels), wheels
    assert any("aarch64" in file for file in wheels)
    bill = json.loads(inside.text(SBOM))
    wanted = {one["name"] for one in bill["packages"] if "pkg:pypi/" in one["externalRefs"][0]["referenceLocator"]}
    assert {re.sub(r"[-_.]+", "-", file.split("-")[0]).lower() for file in wheels} == wanted
    for name in ("sniffer.bpf.o", "capture.bpf.o"):
        [path] = inside.find(rf"/sniffer/kernel/{re.escape(name)}$")
        assert there[name] == inside.files[path]


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
    options = {"runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
    assert json.loads(_run(cluster, namespace, loaded, "explain", words, **options))["instructions"] > 10


def test_programs_load_there(cluster: Cluster, namespace: str, loaded: str) -> None:
    """libbpf is there and new enough, and what the image was built of is what the kernel takes."""
    document = pod.document("agent", namespace, image=loaded, hostNetwork=True)
    (container,) = document["spec"]["containers"]
    del container["command"]
    container["args"] = ["agent", "--manifests", "/tmp", "--node", "n1"]
    container["securityContext"] = {
        "runAsUser": 0,
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
