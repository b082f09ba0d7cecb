"""``sentpool transfer``: what a model's vectors know of labels."""

from __future__ import annotations

import argparse

from sentpool.commands.options import (
    add_encoding,
    add_json,
    add_model,
    add_pooling,
    check_result_files,
    load,
    names,
    positive,
    report,
)

PURPOSE = "classify labelled texts by a logistic regression on their vectors"
EXAMPLE = "sentpool transfer all-MiniLM-L6-v2/ data/transfer --tasks MR,TREC --json minilm.json"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument(
        "data",
        metavar="DATA",
        help="folder of NAME.tsv, or NAME/train.tsv, NAME/test.tsv and perhaps NAME/dev.tsv; a line is a label, a tab "
        "and a text",
    )
    verb.add_argument("--tasks", metavar="A,B", type=names, help="only these")
    verb.add_argument("--folds", metavar="N", type=positive, default=10, help="default: %(default)s")
    add_json(verb)
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import evaluation

    check_result_files(options)
    model, loaded = load(options, pooling=options.pooling)
    result = evaluation.transfer(
        model,
        options.data,
        options.tasks,
        folds=options.folds,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    report(options, result, loaded)
