"""``sentpool sts``: a model's scores on semantic textual similarity."""

from __future__ import annotations

import argparse
import time

from sentpool.commands.options import (
    SAMPLE_NOTE,
    add_encoding,
    add_model,
    add_pooling,
    add_sts_data,
    check_output,
    speed,
)

PURPOSE = "score a model on semantic textual similarity"
EXAMPLE = "sentpool sts all-MiniLM-L6-v2/ data/sts --tasks STS12,STSB-test --output minilm.json"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    add_sts_data(verb)
    verb.add_argument("--output", metavar="FILE.json", help="save the result and what reproduces it")
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import SentenceEncoder, evaluation

    if options.output:
        check_output(options.output)
    began = time.perf_counter()
    model = SentenceEncoder(options.model, pooling=options.pooling)
    loaded = time.perf_counter() - began
    if options.data is None:
        print(SAMPLE_NOTE)
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
    print(speed(loaded, result.seconds["encode"], result.encoding["sentences"]))
    if options.output:
        result.save(options.output)
        print(f"saved {options.output}")
