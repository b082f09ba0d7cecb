"""The command line: ``sentpool sts``, ``sentpool probe``, ``sentpool encode``, ``sentpool info``.

An error is one line on stderr and a non-zero exit: 1, or 2 for a wrong command line. Ctrl-C exits with 130, a
closed pipe silently with 141, as the shell has it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sentpool._version import __version__

EXAMPLES = {
    "sts": "sentpool sts all-MiniLM-L6-v2/ data/sts --tasks STS12,STSB-test --output minilm.json",
    "probe": "sentpool probe all-MiniLM-L6-v2/ data/sts --pooling sbert_wk --json probe.json --plot probe.png",
    "encode": "sentpool encode all-MiniLM-L6-v2/ sentences.txt --output vectors.npy --normalize",
    "info": "sentpool info all-MiniLM-L6-v2/",
}
_SAMPLE_NOTE = "No DATA given: scoring the bundled sample, which is no benchmark.\n"


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


def run_sts(options: argparse.Namespace) -> None:
    from sentpool import SentenceEncoder, evaluation

    if options.output:
        _check_output(options.output)
    began = time.perf_counter()
    model = SentenceEncoder(options.model, pooling=options.pooling)
    loaded = time.perf_counter() - began
    if options.data is None:
        print(_SAMPLE_NOTE)
    result = evaluation.sts(
        model,
        evaluation.sample_folder() if options.data is None else options.data,
        options.tasks,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    result.seconds["load"] = loaded
    print(result)
    print()
    print(_speed(loaded, result.seconds["encode"], result.encoding["sentences"]))
    if options.output:
        result.save(options.output)
        print(f"saved {options.output}")


def run_probe(options: argparse.Namespace) -> None:
    from sentpool import SentenceEncoder, evaluation, plotting

    for path in filter(None, (options.json, options.plot)):
        _check_output(path)
    if options.plot:
        plotting.check_format(options.plot)
    began = time.perf_counter()
    model = SentenceEncoder(options.model)
    loaded = time.perf_counter() - began
    if options.data is None:
        print(_SAMPLE_NOTE)
    result = evaluation.probe(
        model,
        options.data,
        options.pooling,
        tasks=options.tasks,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    result.seconds["load"] = loaded
    print(result)
    print()
    print(_speed(loaded, result.seconds["encode"], result.encoding["sentences"]))
    if options.json:
        result.save(options.json)
        print(f"saved {options.json}")
    if options.plot:
        plotting.save(plotting.probe_figure(result), options.plot)
        print(f"saved {options.plot}")


def run_encode(options: argparse.Namespace) -> None:
    from sentpool import SentenceEncoder
    from sentpool.sentence_file import encode_lines

    _check_output(options.output)
    if options.input == "-" and sys.stdin is None:
        raise OSError("standard input is closed")
    began = time.perf_counter()
    model = SentenceEncoder(options.model, pooling=options.pooling)
    loaded = time.perf_counter() - began
    summary = encode_lines(
        model,
        options.input,
        options.output,
        batch_size=options.batch_size,
        threads=options.threads,
        normalize_embeddings=options.normalize,
        truncate_dim=options.truncate_dim,
        prompt=options.prompt,
        prompt_name=options.prompt_name,
    )
    shape = f"{summary.rows:,} × {summary.columns} float32"
    print(f"{options.output}: {shape}, {summary.n_truncated:,} texts truncated")
    print(_speed(loaded, summary.seconds, summary.rows))


def run_info(options: argparse.Namespace) -> None:
    import sentpool
    from sentpool.model_info import describe

    # Loads the core, which may fail: before anything is printed, and after NumPy, whose import from C would turn Ctrl-C
    # into a traceback.
    show_config = sentpool.show_config
    print(describe(options.model))
    print()
    show_config()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sentpool", description="Sentence embeddings from BERT encoders: encode, score, inspect.")
    parser.add_argument("--version", action="version", version=f"sentpool {__version__}")
    parser.add_argument("--traceback", action="store_true", help="on an error, show Python's traceback")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    sts = _verb(verbs, "sts", run_sts, "score a model on semantic textual similarity")
    sts.add_argument("--output", metavar="FILE.json", help="save the result and what reproduces it")

    probe = _verb(verbs, "probe", run_probe, "score every layer and every pooling of a model, in one pass")
    probe.add_argument("--json", metavar="FILE.json", help="save the result and what reproduces it")
    probe.add_argument("--plot", metavar="FILE.png", help="save a heat map of layers and tasks (needs matplotlib)")

    for verb in (sts, probe):
        verb.add_argument(
            "data",
            metavar="DATA",
            nargs="?",
            help="folder in SentEval's layout (STS12-en-test/, STSBenchmark/, SICK/ ...), or one of *.tsv files, "
            "each line a score and two sentences; without it, the bundled sample",
        )
        verb.add_argument("--tasks", metavar="A,B", type=_names, help="only these, e.g. STS12,STSB-test,SICKR-test")

    encode = _verb(verbs, "encode", run_encode, "encode the lines of a text file")
    encode.add_argument("input", metavar="IN", help="UTF-8 text, one sentence per line; - is standard input")
    encode.add_argument("--output", metavar="OUT.npy", required=True, help="float32 array, one row per line")
    encode.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    encode.add_argument("--truncate-dim", metavar="D", type=_positive, help="keep the first D dimensions")
    prompts = encode.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="text put before every sentence")
    prompts.add_argument("--prompt-name", metavar="NAME", help="that of the model's prompts with this name")

    for verb in (sts, probe, encode):
        verb.add_argument("--batch-size", metavar="N", type=_positive, default=32, help="default: %(default)s")
        verb.add_argument("--threads", metavar="N", type=_positive, help="default: the physical cores allowed")
    for verb in (sts, encode):
        verb.add_argument("--pooling", metavar="NAME", help="cls, mean, max and so on, instead of what the model says")
    probe.add_argument(
        "--pooling", metavar="NAME", action="append", help="a further pooling, e.g. sbert_wk; may be repeated"
    )

    _verb(verbs, "info", run_info, "say what a model is and how it would run here")
    return parser


def _verb(verbs, name: str, run, purpose: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example: {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hugging Face hub")
    verb.set_defaults(run=run)
    return verb


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line is answered by one line, and output that cannot be written is an error."""

    def error(self, message: str):
        self.exit(2, f"sentpool: error: {message} (try {self.prog} --help)\n")

    def _print_message(self, message: str, file=None) -> None:
        (file or sys.stderr).write(message)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _speed(loading: float, encoding: float, sentences: int) -> str:
    rate = f" ({sentences / encoding:,.0f} sentences/s)" if sentences and encoding > 0 else ""
    return f"model loaded in {loading:.2f} s, {sentences:,} sentences encoded in {encoding:.2f} s{rate}"


def _check_output(path: str) -> None:
    """Raise for what cannot be replaced by a file, before the long part."""
    from sentpool.atomic_file import check_replaceable

    # Asked of the path itself: /dev/stdout leads to a pipe whose resolved name does not exist.
    if os.path.exists(path):
        if not os.path.isfile(path) and not os.path.isdir(path):
            raise OSError(f"cannot write {path!r}: it exists and is not a regular file")
        if _is_standard_output(path):
            raise OSError(f"cannot write {path!r}: it is the standard output; name another file")
    check_replaceable(path)


def _is_standard_output(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # a stdout without a descriptor is no file
        return False


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
