"""What the conditions of mirrors and targets say. The first is always Accepted."""

from collections.abc import Collection

from sniffer.model.resources import ClusterTrafficMirror, Mirror, MirrorTarget
from sniffer.plan import admission
from sniffer.plan.admission import Refusal
from sniffer.plan.nodes import Tally
from sniffer.plan.said import Said, named
from sniffer.plan.views import Key

PODS_NAMED = 5

_NOT_ACCEPTED = Refusal("NotAccepted", "see the condition Accepted")


def of_target(target: MirrorTarget | None, refused: Refusal | None) -> tuple[Said, Said]:
    """Accepted, Ready. None: it is not valid."""
    if refused or target is None:
        return _accepted(refused, ""), _not("Ready", _NOT_ACCEPTED)
    accepted = _accepted(None, "mirrors can use this target")
    count = len(admission.addresses(target))
    if target.spec.suspend:
        return accepted, Said("Ready", False, "Suspended", "spec.suspend is true: nothing is sent there")
    if not count:
        return accepted, Said("Ready", False, "NoEndpoints", "no Service of spec.endpoints has a ready endpoint")
    return accepted, Said("Ready", True, "Ready", f"copies go to {count} address{'' if count == 1 else 'es'}")


def of_mirror(
    mirror: Mirror | None, refused: Refusal | None, stop: Refusal | None, tally: Tally, host_network: Collection[Key]
) -> tuple[Said, Said, Said]:
    """Accepted, Programmed, Ready.

    stop: why an accepted mirror is not to be carried out; host_network: pods that are selected and cannot be mirrored.
    """
    accepted = _accepted(refused, f"the mirror is valid and its targets take it{_left_out(host_network)}")
    if refused:
        stop = _NOT_ACCEPTED
    if stop:
        return accepted, _not("Programmed", stop), _not("Ready", stop)
    if not tally.nodes and host_network:
        message = f"no selected pod can be mirrored: they use their node's network: {_names(host_network)}"
        nothing = Refusal("HostNetwork", message)
        return accepted, _not("Programmed", nothing), _not("Ready", nothing)
    if not tally.nodes:
        by_node = isinstance(mirror, ClusterTrafficMirror) and mirror.spec.interfaces is not None
        nothing = (
            Refusal("NoNodes", "spec.nodeSelector selects no node")
            if by_node
            else Refusal("NoPods", "no running pod has the labels that the mirror selects")
        )
        return accepted, _not("Programmed", nothing), Said("Ready", True, nothing.reason, nothing.message)
    progress = f"{tally.ready} of {tally.nodes} nodes carry out this generation"
    programmed = Said("Programmed", tally.ready > 0, "Programmed" if tally.ready else "NodesNotReady", progress)
    if tally.ready < tally.nodes:
        return accepted, programmed, Said("Ready", False, "NodesNotReady", f"{progress}; not yet: {tally.others}")
    remarks = "".join(f"; {reason} on {words}" for reason, words in tally.remarks)
    return accepted, programmed, Said("Ready", True, "Ready", f"{progress}{remarks}")


def _accepted(refused: Refusal | None, words: str) -> Said:
    return _not("Accepted", refused) if refused else Said("Accepted", True, "Accepted", words)


def _not(kind: str, why: Refusal) -> Said:
    return Said(kind, False, why.reason, why.message)


def _left_out(pods: Collection[Key]) -> str:
    return f"; not mirrored, because they use their node's network: {_names(pods)}" if pods else ""


def _names(pods: Collection[Key]) -> str:
    names = (f"{namespace}/{name}" for namespace, name in sorted(pods)[:PODS_NAMED])
    return named(names, len(pods), PODS_NAMED)
