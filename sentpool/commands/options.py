"""Arguments that several verbs share, and what all of them ask and say."""

from __future__ import annotations

import argparse
import os
import sys
import time


def say_if_sample(options: argparse.Namespace, doing: str = "scoring") -> None:
    """A note, where no data were named."""
    if options.data is None:
        print(f"No DATA given: {doing} the bundled sample, which is no benchmark.\n")


def load(options: argparse.Namespace, **chosen):
    """The model that was named, in the precision that was asked for, and the seconds that it took to open."""
    from sentpool import SentenceEncoder

    began = time.perf_counter()
    precision = {name: getattr(options, name) for name in ("dtype", "int8") if hasattr(options, name)}
    model = SentenceEncoder(options.model, **precision, **chosen)
    return model, time.perf_counter() - began


def add_result_files(verb: argparse.ArgumentParser, plot: str) -> None:
    """--json and --plot; `plot` says what is drawn."""
    add_json(verb)
    verb.add_argument("--plot", metavar="FILE.png", help=f"save {plot} (needs matplotlib)")


def add_json(verb: argparse.ArgumentParser, *further_names: str) -> None:
    verb.add_argument(
        *further_names, "--json", dest="json", metavar="FILE.json", help="save the result and what reproduces it"
    )


def check_result_files(options: argparse.Namespace) -> None:
    """Raise for what cannot be written of what --json and --plot ask for, before the long part."""
    plot = getattr(options, "plot", None)
    for path in filter(None, (options.json, plot)):
        check_output(path)
    if plot:
        from sentpool import plotting

        plotting.check_format(plot)


def report(options: argparse.Namespace, result, loaded: float, figure=None) -> None:
    """Print a result and what it took, and write what --json and --plot ask for; `figure` draws the result."""
    result.seconds["load"] = loaded
    print(result)
    if "encode" in result.seconds:
        print()
        print(speed(loaded, result.seconds["encode"], result.encoding["sentences"]))
    save_result(options, result)
    if figure is not None and options.plot:
        from sentpool import plotting

        plotting.save(figure(result), options.plot)
        print(f"saved {options.plot}")


def save_result(options: argparse.Namespace, result) -> None:
    """What --json asks for."""
    if options.json:
        result.save(options.json)
        print(f"saved {options.json}")


def add_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hugging Face hub")


def add_sts_data(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="folder in SentEval's layout (STS12-en-test/, STSBenchmark/, SICK/ ...), or one of *.tsv files, "
        "each line a score and two sentences; without it, the bundled sample",
    )
    verb.add_argument("--tasks", metavar="A,B", type=names, help="only these, e.g. STS12,STSB-test,SICKR-test")


def add_encoding(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--batch-size", metavar="N", type=positive, default=32, help="default: %(default)s")
    verb.add_argument("--threads", metavar="N", type=positive, help="default: the physical cores allowed")
    verb.add_argument(
        "--dtype", choices=("float32", "bfloat16", "int8"), default="float32", help="of linear layers; default: float32"
    )
    verb.add_argument("--int8", choices=("balanced", "fast"), help="with --dtype int8; default: balanced")


def add_pooling(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--pooling", metavar="NAME", help="cls, mean, max and so on, instead of what the model says")


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return value


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def speed(loading: float, encoding: float, sentences: int) -> str:
    rate = f" ({sentences / encoding:,.0f} sentences/s)" if sentences and encoding > 0 else ""
    return f"model loaded in {loading:.2f} s, {sentences:,} sentences encoded in {encoding:.2f} s{rate}"


def check_output(path: str) -> None:
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
