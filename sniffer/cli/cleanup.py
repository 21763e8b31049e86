"""`sniffer cleanup`: removes what is ours."""

import json
from pathlib import Path

from sniffer.cli.progress import progress
from sniffer.kernel.clean import clean as clean_node
from sniffer.plan.cleaning import Progress


def clean(pin_root: Path, *, as_json: bool) -> int:
    """Prints what was removed; MachineError when an agent is running."""
    with progress("removing what is ours"):
        removed = clean_node(pin_root)
    if as_json:
        print(json.dumps({"removed": removed}))
    else:
        print("\n".join(f"removed {item}" for item in removed) or "nothing of sniffer is here")
    return 0


def clean_cluster(kubeconfig: Path | None, namespace: str, patience_s: float, *, as_json: bool) -> int:
    """Tells every agent, and prints how it goes. 1: some node is not clean. InputError, MachineError, ApiError."""
    from sniffer.cluster.cleaning import Cleaning
    from sniffer.cluster.client import Client

    said = ""

    def tell(now: Progress) -> None:
        nonlocal said
        words = _words(now)
        if words != said:
            said = words
            print(words, flush=True)

    cleaning = Cleaning(Client.load(kubeconfig), namespace)
    with progress("telling the agents") as going_on:
        cleaning.order()
        if as_json:
            end = cleaning.wait(patience_s, lambda now: going_on(_words(now)))
    if as_json:
        print(json.dumps({"clean": end.clean, "others": end.others}))
        return 1 if end.others else 0
    end = cleaning.wait(patience_s, tell)
    for name, why in end.others.items():
        print(f"{name} is not clean: {why}")
    if end.others:
        print("Mirrors end there with their lease; what stays goes with `sniffer cleanup` there: docs/operations.md")
    return 1 if end.others else 0


def _words(now: Progress) -> str:
    return f"{len(now.clean)} of {len(now.clean) + len(now.others)} nodes are clean"
