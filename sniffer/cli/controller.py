"""`sniffer controller`: what its options mean."""

import socket
from pathlib import Path

from sniffer import controller
from sniffer.cli.agent import log_to_terminal, place_of, policy
from sniffer.metrics.server import parse


def run(
    kubeconfig: Path | None,
    namespace: str,
    identity: str | None,
    service_cidrs: str,
    allowed_target_cidrs: str,
    metrics: str | None,
    metrics_tls: Path | None,
    health: str | None,
    verbose: bool,
) -> None:
    """Returns after a signal. InputError, MachineError."""
    log_to_terminal(verbose)
    limits = policy(service_cidrs, allowed_target_cidrs)
    place = place_of(metrics, metrics_tls, kubeconfig, in_cluster=True)
    probed = parse("--health", health) if health else None
    name = identity or socket.gethostname()
    controller.run(controller.Options(kubeconfig, namespace, name, limits, place, probed))
