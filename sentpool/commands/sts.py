"""``sentpool sts``: a model's scores on semantic textual similarity."""

from __future__ import annotations

import argparse

from sentpool.commands.options import (
    add_encoding,
    add_json,
    add_model,
    add_pooling,
    add_sts_data,
    check_result_files,
    load,
    report,
    say_if_sample,
)

PURPOSE = "score a model on semantic textual similarity"
EXAMPLE = "sentpool sts all-MiniLM-L6-v2/ data/sts --tasks STS12,STSB-test --output minilm.json"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    add_sts_data(verb)
    add_json(verb, "--output")
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import evaluation

    check_result_files(options)
    model, loaded = load(options, pooling=options.pooling)
    say_if_sample(options)
    result = evaluation.sts(
        model,
        evaluation.sample_folder() if options.data is None else options.data,
        options.tasks,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    report(options, result, loaded)
