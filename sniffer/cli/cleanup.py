"""`sniffer cleanup`: removes what is ours."""

import json
from pathlib import Path

from sniffer.cli.progress import progress
from sniffer.kernel.clean import clean as clean_node


def clean(pin_root: Path, *, as_json: bool) -> int:
    """Prints what was removed; MachineError when an agent is running."""
    with progress("removing what is ours"):
        removed = clean_node(pin_root)
    if as_json:
        print(json.dumps({"removed": removed}))
    else:
        print("\n".join(f"removed {item}" for item in removed) or "nothing of sniffer is here")
    return 0
