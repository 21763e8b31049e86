"""The exception tree. `exit_status` is what a command ends with when the error reaches it (docs/commands.md)."""

from errno import errorcode
from typing import ClassVar


class SnifferError(Exception):
    """Anything that sniffer raises on purpose; the text is one line for a person."""

    exit_status: ClassVar[int] = 1


class InputError(SnifferError):
    """What the user gave is wrong."""

    exit_status = 2


class FilterError(InputError):
    """A filter that is refused.

    `offset` counts characters from 0 in the filter's text; None where libpcap does not say. `field` is the path of the
    filter in its resource (`spec.filter`, `spec.rules[2].filter`); None while that is not known.
    """

    def __init__(self, message: str, offset: int | None = None, field: str | None = None) -> None:
        self.message = message
        self.offset = offset
        self.field = field
        super().__init__(message if offset is None else f"{message} (at offset {offset})")


class MachineError(SnifferError):
    """This machine cannot do what was asked; `fix` says what to change."""

    exit_status = 3

    def __init__(self, message: str, fix: str) -> None:
        self.message = message
        self.fix = fix
        super().__init__(f"{message}; {fix}")


class KernelError(SnifferError):
    """A system call failed.

    `call` names it with what it was about (`bpf(BPF_LINK_CREATE) on eth0`), `errno` is positive, `detail` is what the
    kernel said beside it (the verifier's last lines), or "".
    """

    exit_status = 3

    def __init__(self, call: str, errno: int, detail: str = "") -> None:
        self.call = call
        self.errno = errno
        self.detail = detail
        name = errorcode.get(errno, f"errno {errno}")
        super().__init__(f"{call}: {name}: {detail}" if detail else f"{call}: {name}")


class ApiError(SnifferError):
    """The API server refused, failed or did not answer.

    `status` is HTTP's; 0: no answer. `reason` is the API's word (`Conflict`, `Expired`), or `NoAnswer`; `retry_after_s`
    is what the server asked for, or None.
    """

    exit_status = 3

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {reason}: {message}" if status else message)
