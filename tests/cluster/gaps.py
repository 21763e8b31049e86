"""When nodes were without an agent, by what its probe answers on each of them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.cluster.lab import Cluster

_WATCH = """
import http.client, time
told = None
while True:
    connection = http.client.HTTPConnection("127.0.0.1", 9751, timeout=5)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        status = 0
    connection.close()
    if status != told:
        print(time.monotonic(), status, flush=True)
    told = status
    time.sleep(0.02)
"""


def gaps(changes: list[tuple[float, int]], lacking: Callable[[int], bool]) -> list[float]:
    """Seconds of each while in which the answers were such."""
    found, since = [], None
    for when, status in changes:
        if lacking(status):
            since = since or when
        elif since:
            found.append(when - since)
            since = None
    return found


@contextmanager
def watched(cluster: Cluster) -> Iterator[list[list[float]]]:
    """How long nodes were without an agent meanwhile, and how long without one that is ready; in seconds, printed too.

    From the last answer of an agent to the first of the next. Filled in at the end.
    """
    found: list[list[float]] = []
    watching = [node.popen(sys.executable, "-c", _WATCH, stdout=subprocess.PIPE) for node in cluster.nodes]
    try:
        yield found
    finally:
        changes = []
        for process in watching:
            process.terminate()
            rows = (line.split() for line in process.communicate()[0].splitlines())
            changes.append([(float(when), int(status)) for when, status in rows])
        for what, lacking in (
            ("no agent", lambda status: not status),
            ("none that is ready", lambda status: status != 200),
        ):
            all_of = sorted(gap for each in changes for gap in gaps(each, lacking))
            found.append(all_of)
            told = (
                f"{all_of[0]:.2f} to {all_of[-1]:.2f} s, in the median {all_of[len(all_of) // 2]:.2f} s"
                if all_of
                else "never"
            )
            print(f"{what}: {told}, {len(all_of)} times")
