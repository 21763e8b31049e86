"""kubectl, which knows the user's clusters: contexts, exec plugins, proxies. The one door to all of them."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sniffer.errors import InputError, MachineError, SnifferError
from sniffer.model.problem import printable

Object = dict[str, Any]

AGENTS = "app.kubernetes.io/name=sniffer,app.kubernetes.io/component=agent"
CONTROLLERS = "app.kubernetes.io/name=sniffer,app.kubernetes.io/component=controller"
CONTAINER = "agent"
_WORDS = 2000
_NO_DEFINITION = "the server doesn't have a resource type"
_LOGGED = re.compile(r"[EFIW]\d{4} \d\d:\d\d:")  # klog's


class KubectlError(SnifferError):
    """kubectl ended with an error; the text is what it said."""

    exit_status = 3


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with the options that say which cluster, and as whom."""

    options: Sequence[str] = ()

    def line(self, *words: object) -> list[str]:
        """The command line. MachineError: there is no kubectl."""
        program = os.environ.get("KUBECTL") or shutil.which("kubectl")
        if not program:
            raise MachineError("kubectl is not on the PATH", "install kubectl; everything here goes through it")
        verb, *rest = map(str, words)
        return [program, verb, *self.options, *rest]

    def run(self, *words: object, stdin: str | None = None, timeout_s: float | None = None) -> str:
        """Its standard output. KubectlError; InputError for what the API server does not know (NotFound)."""
        line = self.line(*words)
        try:
            done = subprocess.run(
                line, check=False, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise KubectlError(f"kubectl {words[0]}: no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise MachineError(f"{line[0]} cannot be run: {error.strerror}", "see $KUBECTL and the PATH") from None
        if done.returncode:
            said = _said(done)
            if "(NotFound)" in said:
                raise InputError(said)
            hint = "; `kubectl sniffer doctor` says whether sniffer is installed" if _NO_DEFINITION in said else ""
            raise KubectlError(f"kubectl {words[0]}: {said}{hint}")
        return done.stdout

    def get(self, *words: object) -> Object:
        """`kubectl get ... -o json`: an object, or a list."""
        answer = json.loads(self.run("get", *words, "-o", "json"))
        assert isinstance(answer, dict)
        return answer

    def listed(self, *words: object) -> list[Object]:
        """The items of `get`."""
        items: list[Object] = self.get(*words).get("items") or []
        return items

    def namespace(self) -> str:
        """The one that kubectl would take now."""
        return self.run("config", "view", "--minify", "-o", "jsonpath={..namespace}").strip() or "default"

    def agents(self, node: str | None = None) -> list[Object]:
        """The agents' pods, those that are being deleted left out; `node`: only of this one.

        Anybody can give a pod of theirs the agents' labels, and would be asked for what only an agent can know. Agents
        use their node's network, as nobody's pods may who is not trusted with the node.
        """
        only = ("--field-selector", f"spec.nodeName={node}") if node else ()
        found = self.listed("pods", "-A", "-l", AGENTS, *only)
        return [pod for pod in found if pod["spec"].get("hostNetwork") and not pod["metadata"].get("deletionTimestamp")]

    def exec_line(self, agent: Object, *words: object, stdin: bool = False) -> Sequence[str]:
        """The command line that runs `words` in an agent's pod."""
        where = ("-n", agent["metadata"]["namespace"], agent["metadata"]["name"], "-c", CONTAINER)
        return self.line("exec", *(("-i",) if stdin else ()), *where, "--", *words)

    def ask(self, agent: Object, *words: object, timeout_s: float = 60.0) -> Any:
        """The JSON that a command prints in an agent's pod, whatever it ends with. KubectlError: it prints none."""
        line = self.exec_line(agent, *words)
        try:
            done = subprocess.run(
                line, check=False, capture_output=True, text=True, errors="replace", timeout=timeout_s
            )
            return json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            raise KubectlError(f"kubectl exec: no answer within {timeout_s:g} s") from None
        except ValueError:
            raise KubectlError(f"kubectl exec: {_said(done)}") from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Why kubectl failed, on one line; without its log, which says the same several times over, where there is more."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    words = [line for line in lines if not _LOGGED.match(line)] or lines
    return printable("\n".join(words).strip() or f"exit status {done.returncode}", _WORDS)


def agent_of(kubectl: Kubectl, node: str) -> Object:
    """The agent's pod on a node. MachineError: there is none that is ready."""
    found = kubectl.agents(node)
    ready = next((pod for pod in found if is_ready(pod)), None)
    if ready is None:
        what = "is not ready" if found else "does not run"
        raise MachineError(f"sniffer's agent {what} on node {printable(node)}", "see `kubectl sniffer doctor`")
    return ready


def is_ready(item: Object) -> bool:
    """Whether an object's condition Ready holds."""
    return condition(item, "Ready").get("status") == "True"


def condition(item: Object, kind: str) -> Object:
    """A condition of an object; {} where it has none of this type."""
    listed: Iterable[Object] = (item.get("status") or {}).get("conditions") or ()
    return next((one for one in listed if one.get("type") == kind), {})


def place(item: Object) -> str:
    """namespace/name, or the name alone."""
    metadata = item["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}" if metadata.get("namespace") else str(metadata["name"])


def selector(told: Object | None) -> str:
    """A LabelSelector as `kubectl -l` takes it; "" selects everything. InputError: an operator that nobody knows."""
    parts = [f"{key}={value}" for key, value in ((told or {}).get("matchLabels") or {}).items()]
    for one in (told or {}).get("matchExpressions") or ():
        key, values = one["key"], ",".join(one.get("values") or ())
        written = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        if one.get("operator") not in written:
            raise InputError(f"matchExpressions: given operator {one.get('operator')!r}, allowed {', '.join(written)}")
        parts.append(written[one["operator"]])
    return ",".join(parts)
