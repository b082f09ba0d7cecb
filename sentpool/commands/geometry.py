"""``sentpool geometry``: how the layers and poolings of a model use their space."""

from __future__ import annotations

import argparse

from sentpool.commands.options import (
    add_encoding,
    add_model,
    add_result_files,
    add_sts_data,
    check_result_files,
    load,
    names,
    report,
    say_if_sample,
)

PURPOSE = "measure how the layers and poolings of a model use their space"
EXAMPLE = "sentpool geometry all-MiniLM-L6-v2/ data/sts --after whitening --json geometry.json --plot geometry.png"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    add_sts_data(verb)
    verb.add_argument("--tokens", metavar="A,B", type=names, help="token poolings of each layer; default: cls,mean")
    verb.add_argument("--pooling", metavar="NAME", action="append", help="a further pooling; may be repeated")
    verb.add_argument(
        "--after",
        choices=("whitening", "all_but_the_top"),
        action="append",
        default=[],
        help="measure once more after this step; may be repeated",
    )
    verb.add_argument("--vectors-only", action="store_true", help="leave out the measures of token states")
    verb.add_argument(
        "--rank",
        action="store_true",
        help="also score the layers on the tasks, and say which measure would have found the best one",
    )
    add_result_files(verb, "plots over the layers")
    add_encoding(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import evaluation, plotting

    if options.rank and (options.after or options.pooling):
        raise ValueError("--rank compares single layers as they are: leave out --after and --pooling")
    check_result_files(options)
    model, loaded = load(options)
    say_if_sample(options, "measuring")
    shared = {
        "tasks": options.tasks,
        "token_measures": not options.vectors_only,
        "batch_size": options.batch_size,
        "threads": options.threads,
    }
    if options.rank:
        result = evaluation.layers(model, options.data, tokens=options.tokens or ["cls", "mean"], **shared)
    else:
        result = evaluation.geometry(
            model, options.data, tokens=options.tokens, poolings=options.pooling, after=options.after, **shared
        )
    report(options, result, loaded, plotting.geometry_figure)
