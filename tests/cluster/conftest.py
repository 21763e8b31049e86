"""One cluster for all tests of this directory, started by the first that asks for it.

What it is made of is built before (`make test` sees to it): a run in namespaces of its own has no network.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import images, install
from tests.cluster.lab import Cluster

HERE = Path(__file__).parent
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "openssl": "openssl",
    "busybox": "busybox-static",
}
SCRIPTS = {
    "binaries": ("build",),
    "prometheus": ("build", "prometheus"),
    "image": ("image",),
    "arm64": ("image", "arm64"),
    "trace": ("image", "trace"),
}
"""What makes a fixture's things: a script beside this file, and its words."""
_prepared: dict[str, "subprocess.CompletedProcess[str]"] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of an installed sniffer come last: others bring parts of it themselves, and take them away again."""
    items.sort(key=_wants_installed)


def _wants_installed(item: pytest.Item) -> bool:
    mine = item.path.is_relative_to(HERE)
    own = hasattr(getattr(item, "module", None), "installed")
    return mine and "installed" in getattr(item, "fixturenames", ()) and not own


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prepares what the chosen tests want, outside of their time limit; what goes wrong is each such test's failure."""
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for fixture, (script, *words) in SCRIPTS.items():
        if fixture in wanted:
            _prepared[fixture] = subprocess.run([HERE / script, *words], capture_output=True, text=True)


def _output(fixture: str) -> str:
    done = _prepared[fixture]
    if done.returncode:
        pytest.fail(f"tests/cluster/{' '.join(SCRIPTS[fixture])}: {done.stderr}", pytrace=False)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The directory with kubectl, helm3, helm4, kubeconform and the programs of the control plane and the nodes."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        pytest.fail(f"missing packages: {' '.join(missing)} (scripts/packages packages.apt cluster)", pytrace=False)
    return Path(_output("binaries"))


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The directory with prometheus and promtool."""
    return Path(_output("prometheus"))


@pytest.fixture(scope="session")
def cluster(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes, the same for every test that asks: leave it as it was."""
    toolbox = images.toolbox(tmp_path_factory.mktemp("images") / "toolbox.tar")
    with Cluster(binaries, images=[toolbox]) as running:
        yield running


@pytest.fixture(scope="session")
def image() -> tuple[str, Path]:
    """The name and the archive of sniffer's image, of the tree as it is."""
    name, _, archive = _output("image").partition(" ")
    return name, Path(archive)


@pytest.fixture(scope="session")
def arm64() -> Path:
    """The archive of what an image for arm64 is made of: wheels, and the object compiled with its headers."""
    return Path(_output("arm64").partition(" ")[2])


@pytest.fixture(scope="session")
def trace() -> Path:
    """The archive of the image's target `trace`."""
    return Path(_output("trace").partition(" ")[2])


@pytest.fixture(scope="session")
def loaded(cluster: Cluster, image: tuple[str, Path]) -> str:
    """The name of sniffer's image, which every node has."""
    name, archive = image
    cluster.load(archive)
    return name


@pytest.fixture(scope="session")
def installed(cluster: Cluster, loaded: str) -> Cluster:
    """The cluster with sniffer installed from the chart, in `install.NAMESPACE`; every pod of it is Ready."""
    install.install(cluster, loaded)
    return cluster
