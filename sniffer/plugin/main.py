"""The command line of `kubectl sniffer`. Exit status: 0 fine, 1 it found something, 2 wrong words, 3 it cannot."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import sniffer
from sniffer.errors import InputError, SnifferError
from sniffer.model.problem import printable, quoted
from sniffer.plugin import complete as completion
from sniffer.plugin import extcap
from sniffer.plugin.kubectl import Kubectl

_WORDS = 4000
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")
_GLOBAL = ("context", "kubeconfig", "as", "as-group", "cluster", "user")
_SHOWN = {
    "context": "of the kubeconfig; default: the current one",
    "kubeconfig": "the file; default: as kubectl finds it",
    "as": "whom to be",
}

_EXAMPLES = {
    "": """\
  kubectl sniffer status
  kubectl sniffer capture web-0 -n shop | wireshark -k -i -
  kubectl sniffer apply-template web -n shop --pods app=web --to 10.0.9.5 --dry-run""",
    "status": """\
  kubectl sniffer status
  kubectl sniffer status -n shop --json | jq '.mirrors[] | select(.state != "Ready")'""",
    "doctor": "  kubectl sniffer doctor",
    "explain": """\
  kubectl sniffer explain web -n shop
  kubectl sniffer explain clustertrafficmirror/all""",
    "apply-template": """\
  kubectl sniffer apply-template web -n shop --pods app=web --to 10.0.9.5 --dry-run
  kubectl sniffer apply-template dns -n shop --to tools/zeek --filter 'udp port 53' --tunnel gre
  kubectl sniffer apply-template api -n shop --pods app=api --target zeek --duration 1h""",
    "logs": """\
  kubectl sniffer logs web -n shop
  kubectl sniffer logs -f""",
    "capture": """\
  kubectl sniffer capture web-0 -n shop | wireshark -k -i -
  kubectl sniffer capture web-0 -n shop --filter 'tcp port 443' --duration 5s -w web.pcapng
  kubectl sniffer capture web-0 -n shop --count 20 | tshark -r -""",
}


def main() -> None:
    """The plugin, whatever its file is called: the completion script and Wireshark's extcap are the same file."""
    name = Path(sys.argv[0]).name
    if name.startswith("kubectl_complete"):
        complete()
    elif "extcap" in name or any(word.startswith("--extcap") for word in sys.argv[1:]):
        wireshark()
    else:
        sys.exit(_guarded(sys.argv[1:]))


def complete() -> None:
    """kubectl_complete-sniffer."""
    sys.exit(completion.main(_options()))


def wireshark() -> None:
    """sniffer-extcap."""
    sys.exit(extcap.main())


def _guarded(words: Sequence[str]) -> int:
    try:
        return run(words)
    except SnifferError as error:
        print(f"sniffer: {printable(str(error), _WORDS)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def run(words: Sequence[str]) -> int:
    """One command's exit status. SnifferError."""
    given = parser().parse_args(words)
    options = [
        f"--{name}={getattr(given, name.replace('-', '_'))}"
        for name in _GLOBAL
        if getattr(given, name.replace("-", "_"))
    ]
    status: int = _COMMANDS[given.command](Kubectl(options), given)
    return status


def duration_s(text: str) -> float:
    """Seconds of a text like 30, 30s, 5m, 1h. InputError."""
    found = _DURATION.fullmatch(text)
    if not found or not float(found[1]):
        raise InputError(f"--duration: given {quoted(text)}, allowed a time as in 30s, 5m, 1h")
    return float(found[1]) * _UNITS_S[found[2]]


def _status(kubectl: Kubectl, given: argparse.Namespace) -> int:
    from sniffer.plugin.status import status

    return status(kubectl, given.namespace, as_json=given.json)


def _doctor(kubectl: Kubectl, given: argparse.Namespace) -> int:
    from sniffer.plugin.doctor import doctor

    return doctor(kubectl, as_json=given.json)


def _explain(kubectl: Kubectl, given: argparse.Namespace) -> int:
    from sniffer.plugin.explain import explain

    return explain(kubectl, given.mirror, given.namespace, as_json=given.json)


def _apply_template(kubectl: Kubectl, given: argparse.Namespace) -> int:
    from sniffer.plugin.template import Wish, apply_template

    seconds = None if given.duration is None else max(round(duration_s(given.duration)), 1)
    wish = Wish(
        name=given.name,
        namespace=given.namespace or kubectl.namespace(),
        pods=given.pods,
        to=given.to,
        target=given.target,
        tunnel=given.tunnel,
        key=given.key,
        filter=given.filter,
        direction=given.direction,
        snap_length=given.snap_length,
        duration_s=seconds,
    )
    return apply_template(kubectl, wish, dry_run=given.dry_run, as_json=given.json)


def _logs(kubectl: Kubectl, given: argparse.Namespace) -> int:
    from sniffer.plugin.logs import logs

    return logs(kubectl, given.mirror, given.namespace, given.since, follow=given.follow, as_json=given.json)


def _capture(kubectl: Kubectl, given: argparse.Namespace) -> int:
    from sniffer.plugin.capture import Options, capture

    seconds = None if given.duration is None else duration_s(given.duration)
    options = Options(given.filter, given.snap_length, given.count, seconds)
    return capture(kubectl, given.pod, given.namespace, options, given.write, as_json=given.json)


_COMMANDS = {
    "status": _status,
    "doctor": _doctor,
    "explain": _explain,
    "apply-template": _apply_template,
    "logs": _logs,
    "capture": _capture,
}
_ABOUT = {
    "status": "the mirrors of the cluster, and why those that are not ready are not. 1: some are not",
    "doctor": "whether the cluster and each of its nodes can mirror, with fixes. 1: something to know, 3: one cannot",
    "explain": "one mirror: its pods, nodes, interfaces and targets, and why not. 1: it is not ready",
    "apply-template": "a mirror and its target from a few words, applied, or printed with --dry-run",
    "logs": "what the agents of all nodes say of one mirror, or of everything",
    "capture": "a pod's frames, live, as pcapng: no analyzer is needed, nothing stays on the node. 1: frames were lost",
}


def parser() -> argparse.ArgumentParser:
    """Of all its words."""
    style = argparse.RawDescriptionHelpFormatter
    epilog = f"examples:\n{_EXAMPLES['']}"
    whole = argparse.ArgumentParser(
        "kubectl sniffer", description="The traffic mirror of this cluster.", epilog=epilog, formatter_class=style
    )
    whole.add_argument("--version", action="version", version=sniffer.__version__)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in _ABOUT.items():
        epilog = f"examples:\n{_EXAMPLES[name]}"
        one = commands.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=style, allow_abbrev=False
        )
        _ADD.get(name, lambda _: None)(one)
        if name != "doctor":
            one.add_argument("-n", "--namespace", help="as kubectl has it")
        one.add_argument("--json", action="store_true", help="print JSON")
        of_kubectl = one.add_argument_group("which cluster, and as whom; as kubectl has them")
        for option in _GLOBAL:
            of_kubectl.add_argument(f"--{option}", metavar="VALUE", help=_SHOWN.get(option, argparse.SUPPRESS))
    return whole


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mirror", help="[NAMESPACE/]NAME, or clustertrafficmirror/NAME")


def _add_template(parser: argparse.ArgumentParser) -> None:
    from sniffer.plugin.template import TUNNELS

    parser.add_argument("name", help="of the mirror; of the target too, where it is made")
    parser.add_argument("--pods", default="", metavar="LABELS", help="whose traffic: app=web,tier=front; default: all")
    parser.add_argument("--to", metavar="ADDRESS", help="the analyzer: an IPv4 address, or a Service NAMESPACE/NAME")
    parser.add_argument("--target", help="a MirrorTarget that is there already, instead of --to")
    parser.add_argument("--tunnel", choices=sorted(TUNNELS), default="vxlan", help="default: vxlan")
    parser.add_argument("--key", type=int, help="VNI, GRE key, ERSPAN session; default: 1, no key in GRE")
    parser.add_argument("--filter", metavar="TEXT", help="a pcap-filter(7) expression; default: every frame")
    parser.add_argument("--direction", choices=("Both", "Ingress", "Egress"), default="Both", help="the pod's")
    parser.add_argument("--snap-length", type=int, metavar="BYTES", help="of each frame; default: all")
    parser.add_argument("--duration", metavar="TIME", help="as in 30s, 5m, 1h; default: until it is deleted")
    parser.add_argument("--dry-run", action="store_true", help="print it as YAML; nothing is changed")


def _add_logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mirror", nargs="?", help="[NAMESPACE/]NAME, or clustertrafficmirror/NAME; default: every line")
    parser.add_argument("--since", default="24h", metavar="TIME", help="as kubectl has it; default: 24h")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")


def _add_capture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pod", help="[NAMESPACE/]NAME of a running pod")
    parser.add_argument("--filter", metavar="TEXT", help="a pcap-filter(7) expression; default: every frame")
    parser.add_argument("--snap-length", type=int, metavar="BYTES", help="of each frame; default: all")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many frames")
    parser.add_argument("--duration", metavar="TIME", help="end after so long, as in 30s, 5m, 1h")
    parser.add_argument(
        "-w", "--write", default="-", metavar="FILE", help="where pcapng goes; default: -, standard output"
    )


_ADD = {"explain": _add_explain, "apply-template": _add_template, "logs": _add_logs, "capture": _add_capture}


def _options() -> dict[str, Sequence[str]]:
    """Every option of each command, for completion."""
    (commands,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {
        name: [word for action in one._actions for word in action.option_strings if action.help != argparse.SUPPRESS]
        for name, one in commands.choices.items()
    }
