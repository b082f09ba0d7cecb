"""``sentpool quantize``: a model folder whose int8 needs no calibration, and what lower precision costs."""

from __future__ import annotations

import argparse

from sentpool.commands.options import add_json, add_model, check_output, names

PURPOSE = "prepare a model for int8 (or look at bfloat16) and say what that costs"
EXAMPLE = "sentpool quantize all-MiniLM-L6-v2/ minilm-int8/ --sentences texts.txt --sts data/sts --tasks STSB-test"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument(
        "output",
        metavar="OUT",
        nargs="?",
        help="folder to write: the model, with what SentenceEncoder(OUT, dtype='int8') then needs no sentences for",
    )
    verb.add_argument("--dtype", choices=("int8", "bfloat16"), default="int8", help="default: %(default)s")
    verb.add_argument("--int8", choices=("balanced", "fast"), help="default: balanced")
    verb.add_argument(
        "--sentences", metavar="FILE", help="UTF-8 text, one sentence per line: a few hundred (default: bundled ones)"
    )
    verb.add_argument("--sts", metavar="DATA", help="STS data: compare Spearman with float32's")
    verb.add_argument("--tasks", metavar="A,B", type=names, help="with --sts: only these tasks")
    verb.add_argument("--overwrite", action="store_true", help="replace a model folder that is there")
    add_json(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import SentenceEncoder
    from sentpool.atomic_folder import check_folder
    from sentpool.saving import why_not_replaced
    from sentpool.text_lines import opened, read_lines

    if options.tasks and options.sts is None:
        raise ValueError("--tasks is about STS data: pass --sts DATA too")
    if options.output is not None:
        check_folder(options.output, overwrite=options.overwrite, may_replace=why_not_replaced)
    if options.json:
        check_output(options.json)
    sentences = None
    if options.sentences is not None:
        with opened(options.sentences) as file:
            sentences = [line.text for line in read_lines(file, options.sentences) if line.text.strip()]
    small = SentenceEncoder(options.model).quantize(
        sentences, dtype=options.dtype, int8=options.int8, sts_folder=options.sts, tasks=options.tasks
    )
    print(f"{small.precision}: {small.precision.quality}")
    if options.json:
        from sentpool.evaluation.saved_result import write_json

        write_json(options.json, {"model": small.provenance(), "quality": vars(small.precision.quality)})
        print(f"saved {options.json}")
    if options.output is not None:
        small.save_pretrained(options.output, overwrite=options.overwrite)
        print(f"saved {options.output}")
