"""The commands. Exit status: 0 fine, 1 it found something, 2 wrong usage or input, 3 this machine cannot."""

import os
import sys
from errno import EACCES, EPERM
from pathlib import Path
from typing import Annotated

import typer

import sniffer
from sniffer.cli.options import (
    DEFAULT_ROOT,
    NETNS_DIR,
    AllowedTargetCidrs,
    Attachment,
    ControlNamespace,
    Count,
    Duration,
    FilterText,
    Json,
    Kubeconfig,
    Manifests,
    Metrics,
    MetricsTls,
    NetnsDir,
    NodeName,
    PersonsKubeconfig,
    PinRoot,
    ServiceCidrs,
)
from sniffer.errors import InputError, KernelError, SnifferError
from sniffer.stats.series import Named

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A traffic mirror for Kubernetes nodes: copies matching frames whole and sends them to an analyzer.",
    epilog="Exit status: 0 fine; 1 it found something; 2 wrong usage or input; 3 this machine cannot.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The console script."""
    try:
        app(prog_name="sniffer")
    except SnifferError as error:
        forbidden = isinstance(error, KernelError) and error.errno in (EPERM, EACCES)
        print(f"sniffer: {error}{_remedy() if forbidden else ''}", file=sys.stderr)
        sys.exit(error.exit_status)


def _remedy() -> str:
    if os.geteuid():
        return "; run as root"
    from sniffer.kernel import policy

    why = policy.may_forbid() or "a policy forbids it"
    return f"; root lacks a capability here (`sniffer doctor` names it; recv wants CAP_NET_RAW), or {why}"


def _version(wanted: bool) -> None:
    if wanted:
        print(sniffer.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command()
def agent(
    manifests: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Directory of *.yaml and *.yml files with the resources. Default: the cluster."
        ),
    ] = None,
    kubeconfig: Kubeconfig = None,
    node: NodeName = None,
    namespace: ControlNamespace = "sniffer-system",
    pod: Annotated[
        str | None,
        typer.Option(metavar="NAME", envvar="POD_NAME", help="This agent's pod there. Default: it runs in none."),
    ] = None,
    pin_root: PinRoot = DEFAULT_ROOT,
    netns_dir: NetnsDir = NETNS_DIR,
    lease: Annotated[float, typer.Option(metavar="SECONDS", help="Mirrors go on so long without a living agent.")] = 60,
    api_grace: Annotated[
        float, typer.Option(metavar="SECONDS", help="They go on so long without the API server.")
    ] = 300,
    service_cidrs: ServiceCidrs = "",
    allowed_target_cidrs: AllowedTargetCidrs = "",
    metrics: Metrics = None,
    metrics_tls: MetricsTls = None,
    metrics_names: Annotated[
        Named, typer.Option(help="What has a name in labels: all; mirrors and targets, but no interfaces; none.")
    ] = Named.ALL,
    health: Annotated[
        str | None, typer.Option(metavar="ADDRESS:PORT", help="Serve /healthz and /readyz there, on loopback.")
    ] = None,
    attachment: Attachment = None,
    allow_kernel: Annotated[
        bool, typer.Option("--allow-kernel", help="Run on a kernel with bugs that hurt production traffic, too.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every plan.")] = False,
) -> None:
    """The node's loop: mirrors what the resources say. Until a signal; what it attached stays.

    Example: sniffer agent --manifests /etc/sniffer
    """
    from sniffer import agent as loop
    from sniffer.cli.agent import API_GRACE_MIN_S, log_to_terminal, loopback, place_of, policy, seconds, source_of

    log_to_terminal(verbose)
    lease_s = seconds("--lease", lease)
    grace_s = seconds("--api-grace", api_grace, API_GRACE_MIN_S)
    name = node or loop.default_node()
    limits = policy(service_cidrs, allowed_target_cidrs)
    source = source_of(manifests, kubeconfig, name, namespace, limits, grace_s, pod)
    place = place_of(metrics, metrics_tls, kubeconfig, in_cluster=manifests is None)
    probed = loopback("--health", health) if health else None
    loop.run(
        loop.Options(source, name, pin_root, lease_s, place, metrics_names, attachment, netns_dir, probed, allow_kernel)
    )


@app.command()
def controller(
    kubeconfig: Kubeconfig = None,
    namespace: ControlNamespace = "sniffer-system",
    identity: Annotated[
        str | None,
        typer.Option(metavar="NAME", envvar="POD_NAME", help="Name of this replica. Default: the host's."),
    ] = None,
    service_cidrs: ServiceCidrs = "",
    allowed_target_cidrs: AllowedTargetCidrs = "",
    metrics: Metrics = None,
    metrics_tls: MetricsTls = None,
    health: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS:PORT", help="Serve /healthz and /readyz there: ok, or why not."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """The cluster's loop: conditions, events and Services. Writes what nodes report into the status of mirrors
    and targets; one replica leads.

    Example: sniffer controller --kubeconfig ~/.kube/config
    """
    from sniffer.cli.controller import run

    run(kubeconfig, namespace, identity, service_cidrs, allowed_target_cidrs, metrics, metrics_tls, health, verbose)


@app.command()
def status(
    pin_root: PinRoot = DEFAULT_ROOT,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
) -> None:
    """What this node mirrors now. Read from the pins: works with the agent dead.

    Exit status 1: some mirror or hook is not as asked; 2: nothing of sniffer is here.

    Example: sniffer status --json | jq '.mirrors[] | {name, state, dropped}'
    """
    from sniffer.cli.status import show

    raise typer.Exit(show(pin_root, as_json=as_json, watch=watch))


@app.command()
def cleanup(
    pin_root: PinRoot = DEFAULT_ROOT,
    as_json: Json = False,
    whole_cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Tell every agent of the cluster to do so, and wait for all."),
    ] = False,
    kubeconfig: PersonsKubeconfig = None,
    namespace: ControlNamespace = "sniffer-system",
    patience: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for them.")] = 60,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="End with 0 although some node is not clean.")] = False,
) -> None:
    """Removes what is sniffer's from this node, nothing else. Twice is fine.

    Exit status 1: with --cluster, some node is not clean; 3: an agent is running.

    Example: sniffer cleanup --cluster --kubeconfig ~/.kube/config
    """
    from sniffer.cli.agent import seconds
    from sniffer.cli.cleanup import clean, clean_cluster

    if not whole_cluster:
        raise typer.Exit(clean(pin_root, as_json=as_json))
    patience_s = seconds("--patience", patience)
    status = clean_cluster(kubeconfig, namespace, patience_s, as_json=as_json)
    raise typer.Exit(0 if exit_zero else status)


@app.command()
def plan(
    manifests: Manifests,
    pin_root: PinRoot = DEFAULT_ROOT,
    as_json: Json = False,
    attachment: Attachment = None,
) -> None:
    """What an agent would do here now, a line for each operation.

    Exit status 0: nothing; 1: something, or a manifest has an error.

    Example: sniffer plan --manifests /etc/sniffer
    """
    from sniffer.cli.plan import show

    raise typer.Exit(show(manifests, pin_root, attachment, as_json=as_json))


@app.command()
def lint(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files, or directories of them; - is standard input.")
    ],
    as_json: Json = False,
) -> None:
    """Every error of the resources, with its line.

    In this form: file:line: field: given, allowed. Exit status 1: there are errors; 2: a file cannot be read.

    Example: sniffer lint mirrors.yaml
    """
    from sniffer.cli.lint import lint as check

    raise typer.Exit(check(files, as_json))


@app.command()
def explain(
    filter_text: Annotated[
        str | None, typer.Option("--filter", metavar="TEXT", help="A pcap-filter(7) expression.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", metavar="FILE", help="A manifest; its mirrors' filters and rules.")
    ] = None,
    pcap: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A capture: which of its frames match, decided in the kernel."),
    ] = None,
    as_json: Json = False,
) -> None:
    """What a filter becomes, what it costs, what it matches.

    The program as the kernel runs it, and which frames of a capture it takes there.

    Example: sniffer explain --filter 'tcp port 443' --pcap trace.pcap
    """
    from sniffer.cli.explain import explain as tell

    raise typer.Exit(tell(filter_text, file, pcap, as_json=as_json))


@app.command()
def capture(
    pod: Annotated[str | None, typer.Argument(metavar="POD", help="A pod of this node.", show_default=False)] = None,
    pod_namespace: Annotated[
        str, typer.Option("--namespace", "-n", metavar="NAME", help="The pod's namespace.")
    ] = "default",
    interface: Annotated[
        str | None, typer.Option("--interface", "-i", metavar="DEV", help="An interface, instead of a pod.")
    ] = None,
    filter_text: FilterText = None,
    snap_length: Annotated[int, typer.Option(metavar="BYTES", help="What to keep of each frame.")] = 262144,
    count: Count = None,
    duration: Duration = None,
    keepalive: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End when standard input ends, or is silent for so long.")
    ] = None,
    node: NodeName = None,
    kubeconfig: PersonsKubeconfig = None,
    pin_root: PinRoot = DEFAULT_ROOT,
    netns_dir: NetnsDir = NETNS_DIR,
    attachment: Attachment = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Frames of a pod or an interface, live, as pcapng.

    They go to standard output. `kubectl sniffer capture` runs it where the pod is. Ends with its reader; nothing
    stays on the node. Exit status 1: frames were lost.

    Example: sniffer capture -i eth0 --filter 'tcp port 443' | tshark -r -
    """
    from sniffer.agent import default_node
    from sniffer.cli.capture import capture as run
    from sniffer.cli.capture import of_interface, of_pod
    from sniffer.cli.live import Bounds

    if (pod is None) == (interface is None):
        raise InputError(f"given {'neither' if pod is None else 'both'} of POD and --interface, allowed one of them")
    whom = (
        of_interface(interface)
        if interface is not None
        else of_pod(pod or "", pod_namespace, node or default_node(), kubeconfig, netns_dir)
    )
    bounds = Bounds(count, duration, keepalive)
    raise typer.Exit(run(whom, filter_text, snap_length, bounds, pin_root, attachment, as_json=as_json))


@app.command()
def doctor(
    pin_root: PinRoot = DEFAULT_ROOT,
    of_cluster: Annotated[
        bool,
        typer.Option("--cluster", help="Ask the API server instead: what is installed, kernels of nodes, mirrors."),
    ] = False,
    kubeconfig: PersonsKubeconfig = None,
    namespace: ControlNamespace = "sniffer-system",
    as_json: Json = False,
) -> None:
    """Whether this machine, or a cluster, can mirror.

    Of a machine: kernel, helpers, bpffs, capabilities, limits, MTU, rivals on the hooks; each with its fix.
    Exit status 1: something to know; 3: it cannot.

    Example: sniffer doctor --cluster --kubeconfig ~/.kube/config
    """
    from sniffer.cli.doctor import examine, examine_cluster

    if of_cluster:
        raise typer.Exit(examine_cluster(kubeconfig, namespace, as_json=as_json))
    raise typer.Exit(examine(pin_root, as_json=as_json))


@app.command()
def trace(
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to watch; Ctrl-C ends it earlier.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Where the kernel drops copies on their way out, and why.

    Wants BCC: the image's target `trace`. Exit status 1: some were dropped.

    Example: sniffer trace --seconds 60
    """
    from sniffer.cli.trace import trace as watch

    raise typer.Exit(watch(seconds, as_json=as_json))


@app.command(hidden=True)
def probe(
    to: Annotated[
        str | None, typer.Option(metavar="HOST", help="Send probes to the analyzer there. Default: be the analyzer.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the first copy.")] = 60,
) -> None:
    """What `helm test` runs in its two pods."""
    from sniffer.cli.probe import receive, send

    if to is None:
        receive()
    else:
        raise typer.Exit(send(to, timeout))


@app.command()
def crds(
    directory: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write one file for each there, as the chart has them; print nothing."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Bring a cluster's to these instead; those of a later release stay.")
    ] = False,
    kubeconfig: PersonsKubeconfig = None,
    as_json: Json = False,
) -> None:
    """The CustomResourceDefinitions of the resources.

    Example: sniffer crds | kubectl apply -f -
    """
    from sniffer.cli.crds import apply as bring
    from sniffer.cli.crds import crds as write

    if apply:
        bring(kubeconfig, as_json)
    else:
        write(directory, as_json)


@app.command()
def recv(
    vxlan: Annotated[
        list[int] | None, typer.Option(metavar="PORT", help="Receive VXLAN on this UDP port; may be given again.")
    ] = None,
    geneve: Annotated[
        list[int] | None, typer.Option(metavar="PORT", help="Receive GENEVE on this UDP port; may be given again.")
    ] = None,
    gre: Annotated[bool, typer.Option("--gre", help="Receive Ethernet over GRE.")] = False,
    erspan: Annotated[bool, typer.Option("--erspan", help="Receive ERSPAN I, II and III.")] = False,
    interface: Annotated[
        str, typer.Option("--interface", "-i", metavar="DEV", help="Where it arrives. Default: anywhere.")
    ] = "",
    write: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Write frames as pcapng; - is standard output.")
    ] = None,
    count: Count = None,
    duration: Duration = None,
    buffer: Annotated[int, typer.Option(metavar="MIB", help="Memory for what has not been read yet.")] = 32,
    as_json: Json = False,
) -> None:
    """The analyzer's side: frames out of tunnels, losses counted.

    It needs no tunnel device. Exit status 1: something was lost.

    Example: sniffer recv --vxlan 4789 -w - | wireshark -k -i -
    """
    from sniffer.cli.recv import Options
    from sniffer.cli.recv import recv as receive

    options = Options(vxlan or (), geneve or (), gre, erspan, interface, write, count, duration, buffer, as_json)
    raise typer.Exit(receive(options))


@app.command()
def plugin() -> None:
    """`kubectl sniffer`, as one file on standard output.

    It needs nothing but Python.

    Example: kubectl exec -n sniffer-system deploy/sniffer-controller -- sniffer plugin > kubectl-sniffer
    """
    from sniffer.cli.plugin import write

    write()
