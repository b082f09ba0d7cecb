"""The command line: what every verb has in common. The verbs are in `sentpool.commands`.

An error is one line on stderr and a non-zero exit: 1, or 2 for a wrong command line. Ctrl-C exits with 130, a
closed pipe silently with 141, as the shell has it.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sentpool._version import __version__
from sentpool.commands import VERBS


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Parameters
    ----------
    arguments : list of str, optional
        Without the program's name; None: ``sys.argv[1:]``.
    """
    options = None
    try:
        _prepare_streams()
        with _warnings_on_one_line(), _written_output():
            options = _parser().parse_args(arguments)
            options.run(options)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        if options is not None and options.traceback:
            raise
        _complain(f"error: {_one_line(error)}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sentpool", description="Sentence embeddings from BERT encoders: encode, score, inspect.")
    parser.add_argument("--version", action="version", version=f"sentpool {__version__}")
    parser.add_argument("--traceback", action="store_true", help="on an error, show Python's traceback")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.PURPOSE,
            description=f"{module.PURPOSE[0].upper()}{module.PURPOSE[1:]}.",
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is answered by one line, and output that cannot be written is an error."""

    def error(self, message: str):
        self.exit(2, f"sentpool: error: {message} (try {self.prog} --help)\n")

    def _print_message(self, message: str, file=None) -> None:
        (file or sys.stderr).write(message)


def _prepare_streams() -> None:
    """Streams that were closed when the program began are None in Python."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the program runs
    if sys.stdout is None:
        raise OSError("standard output is closed")
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal that has no "×", or a path that is no text, shall cost a character, not the result.
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def _written_output() -> Iterator[None]:
    """Raise here, not when Python exits, if what was printed cannot be written."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError:
        _drop_unwritten_output()
        raise


def _drop_unwritten_output() -> None:
    """Whoever read our output is gone, or its disk is full: what is still buffered must not raise once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {' '.join(str(message).split())}")
        yield


def _complain(text: str) -> None:
    print(f"sentpool: {text}", file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    """The message of an error; its type too where the message alone would not say what went wrong."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory{f': {text}' if text else ''}"
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)) and text:
        return text
    return f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
