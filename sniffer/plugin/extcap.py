"""Wireshark's extcap: the pods of the cluster in its list of interfaces (doc/extcap.4 of Wireshark).

`sniffer:NAMESPACE/POD` is an interface; its capture is `kubectl sniffer capture`, into the FIFO that Wireshark names.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import sniffer
from sniffer.errors import InputError, SnifferError
from sniffer.model.problem import printable, quoted
from sniffer.plugin.capture import Options, line_of, pod_of, run
from sniffer.plugin.kubectl import Kubectl, Object, is_ready

PREFIX = "sniffer:"
_ETHERNET = 1
_TIMEOUT = "--request-timeout=5s"
_HELP = "https://www.wireshark.org/docs/man-pages/extcap.html"
_SAFE = str.maketrans("{}", "()")


def main() -> int:
    """The exit status; words about what is wrong are on standard error, where Wireshark shows them."""
    try:
        return extcap(sys.argv[1:])
    except SnifferError as error:
        print(f"sniffer: {printable(str(error), 2000)}", file=sys.stderr)
        return error.exit_status


def extcap(words: Sequence[str]) -> int:
    """One call of Wireshark's."""
    given, _ = _parser().parse_known_args(words)
    kubectl = Kubectl([*([f"--context={given.context}"] if given.context else ()), *_configured()])
    if given.extcap_interfaces:
        print(f"extcap {{version={sniffer.__version__}}}{{help={_HELP}}}")
        _interfaces(kubectl)
        return 0
    if given.extcap_dlts:
        print(f"dlt {{number={_ETHERNET}}}{{name=EN10MB}}{{display=Ethernet}}")
        return 0
    if given.extcap_config:
        _config()
        return 0
    if given.capture:
        return _capture(kubectl, given)
    return 0  # a filter to check: what is wrong with it, the node's libpcap says when it is used


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sniffer-extcap", allow_abbrev=False, description=__doc__)
    for flag in ("--extcap-interfaces", "--extcap-dlts", "--extcap-config", "--capture"):
        parser.add_argument(flag, action="store_true")
    for option in ("--extcap-interface", "--extcap-capture-filter", "--extcap-version", "--fifo", "--context"):
        parser.add_argument(option)
    for option in ("--snap-length", "--count"):
        parser.add_argument(option, type=int, default=0)
    parser.add_argument("--duration", type=float, default=0)
    return parser


def _configured() -> Sequence[str]:
    """Wireshark has no command line for it."""
    return os.environ.get("SNIFFER_KUBECTL_OPTIONS", "").split()


def _interfaces(kubectl: Kubectl) -> None:
    """Pods that run and have an agent on their node. Without a cluster there are none: Wireshark asks everywhere."""
    try:
        agents = {pod["spec"]["nodeName"] for pod in kubectl.agents() if is_ready(pod)}
        pods = kubectl.listed("pods", "-A", "--field-selector=status.phase=Running", _TIMEOUT)
    except SnifferError as error:
        print(f"sniffer: {printable(str(error), 2000)}", file=sys.stderr)
        return
    for pod in pods:
        node = pod["spec"].get("nodeName", "")
        if node in agents and not pod["spec"].get("hostNetwork"):
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            shown = printable(f"Pod {name} on {node}", 300).translate(_SAFE)
            print(f"interface {{value={PREFIX}{name}}}{{display={shown}}}")


def _config() -> None:
    print("arg {number=0}{call=--snap-length}{display=Snap length}{tooltip=Bytes of each frame; 0: all}{type=unsigned}")
    print("arg {number=1}{call=--count}{display=Frames}{tooltip=End after so many; 0: never}{type=unsigned}")
    print("arg {number=2}{call=--duration}{display=Seconds}{tooltip=End after so long; 0: never}{type=double}")
    print("arg {number=3}{call=--context}{display=Context}{tooltip=Of the kubeconfig; empty: the current}{type=string}")


def _capture(kubectl: Kubectl, given: argparse.Namespace) -> int:
    pod = _pod(kubectl, given.extcap_interface or "")
    options = Options(
        given.extcap_capture_filter or None, given.snap_length or None, given.count or None, given.duration or None
    )
    line = line_of(kubectl, pod, options)
    if not given.fifo:
        raise InputError("--fifo: given nothing, allowed the file to write to")
    try:
        output = os.open(given.fifo, os.O_WRONLY)
    except OSError as error:
        raise InputError(f"--fifo: given {quoted(given.fifo)}, which cannot be written ({error.strerror})") from None
    try:
        return run(line, output)
    finally:
        os.close(output)


def _pod(kubectl: Kubectl, interface: str) -> Object:
    namespace, slash, name = interface.removeprefix(PREFIX).partition("/")
    if not (interface.startswith(PREFIX) and slash):
        raise InputError(f"--extcap-interface: given {quoted(interface)}, allowed {PREFIX}NAMESPACE/POD")
    return pod_of(kubectl, name, namespace)
