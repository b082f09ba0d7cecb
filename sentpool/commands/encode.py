"""``sentpool encode``: the lines of a file as vectors."""

from __future__ import annotations

import argparse
import sys

from sentpool.commands.options import add_encoding, add_model, add_pooling, check_output, load, positive, speed

PURPOSE = "encode the lines of a text file"
EXAMPLE = "sentpool encode all-MiniLM-L6-v2/ sentences.txt --output vectors.npy --normalize"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument("input", metavar="IN", help="UTF-8 text, one sentence per line; - is standard input")
    verb.add_argument("--output", metavar="OUT.npy", required=True, help="float32 array, one row per line")
    verb.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    verb.add_argument("--truncate-dim", metavar="D", type=positive, help="keep the first D dimensions")
    prompts = verb.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="text put before every sentence")
    prompts.add_argument("--prompt-name", metavar="NAME", help="that of the model's prompts with this name")
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool.sentence_file import encode_lines

    check_output(options.output)
    if options.input == "-" and sys.stdin is None:
        raise OSError("standard input is closed")
    model, loaded = load(options, pooling=options.pooling)
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
    print(speed(loaded, summary.seconds, summary.rows))
