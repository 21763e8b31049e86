"""What every test shares. Tests that touch the kernel run inside `scripts/isolated`, as `make test` does."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sniffer.kernel.namespace import private_network

KERNEL_DIRECTORIES = ("bpf", "netns", "cluster")

# Examples on a busy machine take as long as they take; CI tries the same ones every time.
settings.register_profile("sniffer", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("sniffer")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses, rather than skips, tests of the kernel outside of namespaces of their own."""
    if os.environ.get("SNIFFER_ISOLATED") == "1":
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in KERNEL_DIRECTORIES:
            raise pytest.UsageError(f"{item.nodeid} touches the kernel: use `make test` or scripts/isolated")


@pytest.fixture(scope="module", autouse=True)
def own_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each module of kernel tests has a network namespace and a bpffs of its own: nothing of another reaches it."""
    here = Path(__file__).parent
    if request.path.relative_to(here).parts[0] not in KERNEL_DIRECTORIES:
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
