"""`sniffer agent`: what its options mean."""

import logging
import sys
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

from sniffer import agent
from sniffer.errors import InputError
from sniffer.manifests import Manifests
from sniffer.metrics.server import Place, Reviewer, guarded, parse
from sniffer.plan.cluster import Network, Policy

LEASE_MAX_S = 366 * 86400
API_GRACE_MIN_S = 90
"""A quiet cluster is heard once a minute, by bookmarks; a watch that says nothing for so long is made anew."""


def log_to_terminal(verbose: bool) -> None:
    """Our own words, and of the libraries what is wrong."""
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(message)s")
    for library in ("asyncio", "pyroute2", "urllib3", "kubernetes"):
        logging.getLogger(library).setLevel(logging.WARNING)


def seconds(option: str, value: float, least: float = 1) -> float:
    """InputError for what is no sensible time."""
    if not least <= value <= LEASE_MAX_S:  # nan is neither less nor more
        raise InputError(f"{option}: given {value:g}, allowed {least} to {LEASE_MAX_S} seconds")
    return value


def networks(option: str, text: str) -> tuple[Network, ...]:
    """Networks from a list with commas. InputError."""
    found: list[Network] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(item))
        except ValueError:
            raise InputError(f"{option}: given {item}, allowed networks as in 10.96.0.0/12,fd00:7::/64") from None
    return tuple(found)


def policy(service_cidrs: str, allowed_target_cidrs: str) -> Policy:
    """Where copies may not go, as far as the command line says. InputError."""
    refused: Mapping[str, tuple[Network, ...]] = {"in the service range": networks("--service-cidrs", service_cidrs)}
    return Policy(refused, networks("--allowed-target-cidrs", allowed_target_cidrs))


def place_of(address: str | None, tls: Path | None, kubeconfig: Path | None, in_cluster: bool) -> Place | None:
    """Where to serve metrics, and to whom. InputError, MachineError."""
    if address is None:
        if tls is not None:
            raise InputError("--metrics-tls: given without --metrics, allowed together with it")
        return None

    def reviewer() -> Reviewer:
        from sniffer.cluster.access import Access
        from sniffer.cluster.client import Client

        return Access(Client.load(kubeconfig)).decide

    return guarded("--metrics", address, tls, reviewer if in_cluster else None)


def loopback(option: str, address: str) -> Place:
    """Where only this node gets to. InputError."""
    place = parse(option, address)
    if not ip_address(place.host).is_loopback:
        raise InputError(f"{option}: given {address}, allowed an address of the loopback, as in 127.0.0.1:9751")
    return place


def source_of(
    manifests: Path | None,
    kubeconfig: Path | None,
    node: str,
    namespace: str,
    policy: Policy,
    api_grace_s: float,
    pod: str | None,
) -> Callable[[Callable[[], None]], agent.Source]:
    """What makes the source: a directory, or the cluster. InputError, MachineError."""
    if manifests is not None:
        if kubeconfig is not None:
            raise InputError("--kubeconfig: given beside --manifests, allowed one of them")
        directory = Manifests(manifests)
        return lambda _: directory
    from sniffer.cluster.client import Client
    from sniffer.cluster.source import ClusterSource

    client = Client.load(kubeconfig)
    return lambda changed: ClusterSource(client, node, policy, changed, namespace, api_grace_s, pod)
