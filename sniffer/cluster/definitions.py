"""Bringing the CustomResourceDefinitions of a cluster to those of this release."""

from sniffer.cluster.client import Client
from sniffer.cluster.crd import CRDS
from sniffer.errors import ApiError
from sniffer.model.schema import RELEASE, Schema, replaces


def bring(client: Client, ours: Schema) -> str:
    """Makes or changes one where that is due; what was done, in words. ApiError."""
    path = f"{CRDS}/{ours['metadata']['name']}"
    try:
        found = client.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        found = None
    if found is not None and not replaces(ours, found):
        return f"as it is, of {(found['metadata'].get('annotations') or {}).get(RELEASE)}"
    client.patch(path, ours, "apply", "sniffer-crds")
    return "made" if found is None else "brought up to date"
