"""A traffic mirror for Kubernetes nodes: copies matching frames whole and tunnels them to an analyzer."""

__version__ = "0.1.0"
