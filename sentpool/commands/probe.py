"""``sentpool probe``: every layer and every pooling of a model, scored in one pass."""

from __future__ import annotations

import argparse
import time

from sentpool.commands.options import SAMPLE_NOTE, add_encoding, add_model, add_sts_data, check_output, speed

PURPOSE = "score every layer and every pooling of a model, in one pass"
EXAMPLE = "sentpool probe all-MiniLM-L6-v2/ data/sts --pooling sbert_wk --json probe.json --plot probe.png"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    add_sts_data(verb)
    verb.add_argument("--json", metavar="FILE.json", help="save the result and what reproduces it")
    verb.add_argument("--plot", metavar="FILE.png", help="save a heat map of layers and tasks (needs matplotlib)")
    add_encoding(verb)
    verb.add_argument(
        "--pooling", metavar="NAME", action="append", help="a further pooling, e.g. sbert_wk; may be repeated"
    )


def run(options: argparse.Namespace) -> None:
    from sentpool import SentenceEncoder, evaluation, plotting

    for path in filter(None, (options.json, options.plot)):
        check_output(path)
    if options.plot:
        plotting.check_format(options.plot)
    began = time.perf_counter()
    model = SentenceEncoder(options.model)
    loaded = time.perf_counter() - began
    if options.data is None:
        print(SAMPLE_NOTE)
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
    print(speed(loaded, result.seconds["encode"], result.encoding["sentences"]))
    if options.json:
        result.save(options.json)
        print(f"saved {options.json}")
    if options.plot:
        plotting.save(plotting.probe_figure(result), options.plot)
        print(f"saved {options.plot}")
