"""``sentpool probe``: every layer and every pooling of a model, scored in one pass."""

from __future__ import annotations

import argparse

from sentpool.commands.options import (
    add_encoding,
    add_model,
    add_result_files,
    add_sts_data,
    check_result_files,
    load,
    report,
    say_if_sample,
)

PURPOSE = "score every layer and every pooling of a model, in one pass"
EXAMPLE = "sentpool probe all-MiniLM-L6-v2/ data/sts --pooling sbert_wk --json probe.json --plot probe.png"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    add_sts_data(verb)
    add_result_files(verb, "a heat map of layers and tasks")
    add_encoding(verb)
    verb.add_argument(
        "--pooling", metavar="NAME", action="append", help="a further pooling, e.g. sbert_wk; may be repeated"
    )


def run(options: argparse.Namespace) -> None:
    from sentpool import evaluation, plotting

    check_result_files(options)
    model, loaded = load(options)
    say_if_sample(options)
    result = evaluation.probe(
        model,
        options.data,
        options.pooling,
        tasks=options.tasks,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    report(options, result, loaded, plotting.probe_figure)
