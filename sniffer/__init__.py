"""A traffic mirror for Kubernetes nodes: copies matching frames whole and sends them to an analyzer through a tunnel."""

__version__ = "0.1.0"
