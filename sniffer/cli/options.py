"""The options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from sniffer.plan.facts import Mechanism

DEFAULT_ROOT = Path("/sys/fs/bpf/sniffer")
NETNS_DIR = Path("/run/netns")

PinRoot = Annotated[Path, typer.Option(metavar="DIR", help="Directory on a bpffs where everything is pinned.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Manifests = Annotated[Path, typer.Option(metavar="DIR", help="Directory of *.yaml and *.yml files with the resources.")]
NetnsDir = Annotated[
    Path, typer.Option(metavar="DIR", help="Where the container runtime keeps the pods' network namespaces.")
]
_AS_A_POD = "How to reach the API server. Default: as a pod does, by its ServiceAccount."
Kubeconfig = Annotated[Path | None, typer.Option(metavar="FILE", help=_AS_A_POD)]
PersonsKubeconfig = Annotated[Path | None, typer.Option(metavar="FILE", envvar="KUBECONFIG", help=_AS_A_POD)]
"""Of commands that people type; what runs for ever takes nothing from a shell's environment."""
NodeName = Annotated[
    str | None, typer.Option(metavar="NAME", envvar="NODE_NAME", help="This node's name. Default: the host's.")
]
ControlNamespace = Annotated[str, typer.Option(metavar="NAME", envvar="POD_NAMESPACE", help="sniffer's own namespace.")]
FilterText = Annotated[
    str | None, typer.Option("--filter", metavar="TEXT", help="A pcap-filter(7) expression. Default: everything.")
]
Attachment = Annotated[
    Mechanism | None, typer.Option(help="How to attach. Default: tcx where the kernel has it, else clsact.")
]
Count = Annotated[int | None, typer.Option(metavar="FRAMES", help="End after so many frames.")]
Duration = Annotated[float | None, typer.Option(metavar="SECONDS", help="End after so long.")]
ServiceCidrs = Annotated[
    str, typer.Option(metavar="CIDR,...", help="The cluster's service range: no target may have an address of it.")
]
AllowedTargetCidrs = Annotated[
    str, typer.Option(metavar="CIDR,...", help="Addresses that a target may have although it else might not.")
]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS:PORT", help="Serve Prometheus metrics there: on loopback, or with --metrics-tls."),
]
MetricsTls = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="tls.crt and tls.key: serve by HTTPS, to whom the API server allows to get /metrics."
    ),
]
