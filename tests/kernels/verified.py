"""What the verifier says of each program on this kernel: `python -m tests.kernels.verified`. libbpf prints the number
only into its log of a program that loads, so the log's level is set."""

import ctypes
import os
import re
from pathlib import Path

from sniffer.kernel import capture
from sniffer.kernel.bpf import Object
from sniffer.kernel.libbpf import call, library, take_messages
from sniffer.kernel.programs import object_path

_STATISTICS = 4  # BPF_LOG_STATS


def opened(path: Path) -> Object:
    """An object, not loaded yet."""
    open_file = library().bpf_object__open_file
    open_file.restype, open_file.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_void_p)
    return Object(open_file(os.fsencode(path), None), "")


def verified(path: Path, name: str) -> str:
    """One program's fate: the instructions that the verifier went through (its limit is a million), or refused."""
    take_messages()
    library().bpf_program__set_log_level.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    with opened(path) as object_:
        for other, program in object_._entries("program").items():
            call("bpf_program__set_autoload", program, other == name)
            library().bpf_program__set_log_level(program, _STATISTICS)
        answer = library().bpf_object__load(object_._handle)
    found = re.findall(r"processed (\d+) insns", take_messages())
    return found[-1] if answer == 0 and found else f"refused ({os.strerror(-answer)})"


def main() -> None:
    """A line for each program."""
    print(os.uname().release)
    for path in (object_path(), capture.object_path()):
        with opened(path) as object_:
            names = object_.programs()
        for name in names:
            print(f"  {name:15} {verified(path, name)}", flush=True)


if __name__ == "__main__":
    main()
