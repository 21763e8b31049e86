"""A cluster of one node with a pod, for the test of what is left of it: `python -m tests.cluster.brief BINARIES`.

Prints the name of its control group, and ends when its standard input does.
"""

import sys
import tempfile
from pathlib import Path

from tests.cluster import images
from tests.cluster.lab import Cluster


def main() -> None:
    toolbox = images.toolbox(Path(tempfile.mkdtemp(), "toolbox.tar"))
    with Cluster(Path(sys.argv[1]), nodes=1, images=[toolbox]) as cluster, cluster.namespace() as namespace:
        cluster.pod("one", namespace)
        print(cluster.group, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
