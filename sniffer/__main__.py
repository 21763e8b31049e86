"""The console script, and `python -m sniffer`."""

import signal


def main() -> None:
    """Runs the command line. Ctrl-C while modules are still being loaded ends it without a word."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sniffer.cli import main as command_line

    signal.signal(signal.SIGINT, handler)
    command_line()


if __name__ == "__main__":
    main()
