"""`sniffer controller`: what its options mean."""

import socket
from pathlib import Path

from sniffer import controller
from sniffer.cli.agent import log_to_terminal, policy


def run(
    kubeconfig: Path | None,
    namespace: str,
    identity: str | None,
    service_cidrs: str,
    allowed_target_cidrs: str,
    metrics: str | None,
    verbose: bool,
) -> None:
    """Returns after a signal. InputError, MachineError."""
    log_to_terminal(verbose)
    limits = policy(service_cidrs, allowed_target_cidrs)
    controller.run(controller.Options(kubeconfig, namespace, identity or socket.gethostname(), limits, metrics))
