"""How far apart the agents of all nodes spread what they write."""

NODES_PER_S = 50


def jitter_s(nodes: int) -> int:
    """Seconds: a power of two, so that a node more or less is no change; 0 below 50 nodes."""
    if nodes < NODES_PER_S:
        return 0
    return 1 << (-(-nodes // NODES_PER_S) - 1).bit_length()
