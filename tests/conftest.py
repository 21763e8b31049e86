"""What every test shares. Tests that touch the kernel run inside `scripts/isolated`, as `make test` does."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from sniffer.kernel.namespace import private_network

KERNEL_DIRECTORIES = ("bpf", "netns", "cluster")
OWN_NETWORK = ("bpf", "netns")

# Examples on a busy machine take as long as they take; CI tries the same ones every time.
settings.register_profile("sniffer", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("sniffer")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses, rather than skips, tests of the kernel outside of namespaces of their own.

    Those of the cluster come last: it runs until the end of the session, and the others have the machine to themselves.
    """
    items.sort(key=lambda item: _directory(item.path) == "cluster")
    if os.environ.get("SNIFFER_ISOLATED") == "1":
        return
    for item in items:
        if _directory(item.path) in KERNEL_DIRECTORIES:
            raise pytest.UsageError(f"{item.nodeid} touches the kernel: use `make test` or scripts/isolated")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Leaves out, without a word, a module that another of the runs side by side has taken (scripts/tests).

    Each of them goes through the same modules in the same order, so every module is taken, and by one.
    """
    taken = os.environ.get("SNIFFER_TAKEN_MODULES")
    if taken is None or _take(Path(taken), item.path):
        return None
    item.session.testscollected -= 1  # what the percentages count to
    return True


@cache
def _take(taken: Path, module: Path) -> bool:
    """Whether this run is the first to come to a module; the answer stays."""
    try:
        (taken / "-".join(module.parts[-2:])).mkdir()
    except FileExistsError:
        return False
    return True


def _directory(path: Path) -> str:
    """The directory below tests/ that a test lies in; empty for one that lies elsewhere."""
    here = Path(__file__).parent
    return path.relative_to(here).parts[0] if path.is_relative_to(here) else ""


@pytest.fixture(scope="module", autouse=True)
def own_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each module of kernel tests has a network namespace and a bpffs of its own: nothing of another reaches it.

    The cluster's tests share one: that of the run, where the cluster is.
    """
    if _directory(request.path) not in OWN_NETWORK:
        yield
        return
    with private_network():
        # A sysfs shows the network namespace that it was mounted in; the pins go with their bpffs.
        for command in ("mount -t sysfs sysfs /sys", "mount -t bpf bpf /sys/fs/bpf", "ip link set lo up"):
            subprocess.run(command.split(), check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", "/sys"], check=True)
