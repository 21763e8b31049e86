"""`sniffer crds`: the CustomResourceDefinitions."""

import json
from pathlib import Path

import yaml

from sniffer.cli.progress import progress
from sniffer.errors import InputError
from sniffer.model.schema import CRD_KINDS, Schema, definition


def crds(directory: Path | None, as_json: bool) -> None:
    """Prints the definitions as YAML documents, or as a JSON List; with `directory` writes crd-NAME.yaml files there.

    Raises InputError for a directory that cannot be written.
    """
    definitions = [definition(kind) for kind in CRD_KINDS]
    if directory is not None:
        for one in definitions:
            path = directory / file_name(one)
            try:
                path.write_text(as_yaml(one))
            except OSError as error:
                words = f"allowed a directory where files can be written ({error.strerror})"
                raise InputError(f"--directory: given {directory}, {words}") from error
    elif as_json:
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions}, indent=2))
    else:
        print("---\n".join(as_yaml(one) for one in definitions), end="")


def apply(kubeconfig: Path | None, as_json: bool) -> None:
    """Brings a cluster's definitions to these; those of a later release stay. InputError, MachineError, ApiError."""
    from sniffer.cluster.client import Client
    from sniffer.cluster.definitions import bring

    client, done = Client.load(kubeconfig), {}
    with progress("asking the API server") as going_on:
        for one in map(definition, CRD_KINDS):
            name = one["metadata"]["name"]
            going_on(f"bringing {name}")
            done[name] = bring(client, one)
    print(json.dumps(done) if as_json else "\n".join(f"{name}: {what}" for name, what in done.items()))


def file_name(one: Schema) -> str:
    """The chart's file for a definition."""
    return f"crd-{one['spec']['names']['plural']}.yaml"


def as_yaml(one: Schema) -> str:
    """One document, fields in their order."""
    return yaml.dump(one, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: kubectl takes them, people do not."""

    def ignore_aliases(self, _data: object) -> bool:
        return True
