"""Whether an agent that is told to end leaves its node for good: a DaemonSet's pods end by a hand-over, too.

As the DaemonSet controller judges it (kubernetes pkg/controller/daemon, NodeShouldRunDaemonPod). What is not known, or
cannot be judged here, means that another agent comes: then the lease ends the mirrors, if none does.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sniffer.model.selector import has_all

Object = Mapping[str, Any]


def leaves(pod: Object, daemon_set: Object | None, node: Object | None) -> bool:
    """pod: the agent's own. daemon_set, node: those that it belongs to, as they are now; None: gone."""
    if not pod["metadata"].get("deletionTimestamp"):
        return False  # only its container is to end
    if node is None or daemon_set is None or daemon_set["metadata"].get("deletionTimestamp"):
        return True
    if daemon_set["metadata"]["uid"] != owner(pod).get("uid"):
        return True
    spec = daemon_set["spec"]["template"]["spec"]
    if not has_all(node["metadata"].get("labels") or {}, spec.get("nodeSelector") or {}):
        return True
    # The pod's own tolerations: among them are those that every DaemonSet's pod has.
    tolerations = (pod.get("spec") or {}).get("tolerations") or ()
    taints = (node.get("spec") or {}).get("taints") or ()
    return any(taint.get("effect") == "NoExecute" and not _tolerated(taint, tolerations) for taint in taints)


def owner(pod: Object) -> Object:
    """The DaemonSet of a pod, as its ownerReferences name it; {}: it has none."""
    references = pod["metadata"].get("ownerReferences") or ()
    return next((one for one in references if one.get("kind") == "DaemonSet" and one.get("controller")), {})


def _tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    return any(
        one.get("effect") in (None, "", taint["effect"])
        and one.get("key") in (None, "", taint["key"])
        and (one.get("operator") == "Exists" or (one.get("value") or "") == (taint.get("value") or ""))
        for one in tolerations
    )
