"""``sentpool encode``: the lines of a file as vectors."""

from __future__ import annotations

import argparse
import os
import sys

from sentpool.commands.options import add_encoding, add_model, add_pooling, check_output, load, positive, speed

PURPOSE = "encode the lines of a text file, or of JSON lines"
EXAMPLE = "sentpool encode all-MiniLM-L6-v2/ corpus.jsonl --field text --output vectors/ --shards 50000 --normalize"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument("input", metavar="IN", help="UTF-8 text, one sentence per line; - is standard input")
    verb.add_argument(
        "--output",
        metavar="OUT",
        required=True,
        help="OUT.npy, a float32 array, one row per line; a folder of --shards",
    )
    verb.add_argument("--field", metavar="NAME", help="lines are JSON objects, and this field is the text")
    verb.add_argument(
        "--shards",
        metavar="ROWS",
        type=positive,
        help="write files of so many rows into the folder OUT; finished ones are kept when the command is repeated",
    )
    verb.add_argument("--format", choices=("npy", "npz", "parquet"), help="of shards; default: npy")
    verb.add_argument("--id-field", metavar="NAME", help="field of each text's id, kept by npz and parquet")
    verb.add_argument("--overwrite", action="store_true", help="remove the shards that are there, and begin anew")
    verb.add_argument("--normalize", action="store_true", help="scale every vector to length 1")
    verb.add_argument("--truncate-dim", metavar="D", type=positive, help="keep the first D dimensions")
    prompts = verb.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", help="text put before every sentence")
    prompts.add_argument("--prompt-name", metavar="NAME", help="that of the model's prompts with this name")
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    _check(options)
    model, loaded = load(options, pooling=options.pooling)
    encoding = {
        "batch_size": options.batch_size,
        "threads": options.threads,
        "normalize_embeddings": options.normalize,
        "truncate_dim": options.truncate_dim,
        "prompt": options.prompt,
        "prompt_name": options.prompt_name,
    }
    if options.shards:
        _to_shards(options, model, loaded, encoding)
    else:
        _to_file(options, model, loaded, encoding)


def _check(options: argparse.Namespace) -> None:
    """Raise for what cannot work, before the model is loaded."""
    if options.input == "-" and sys.stdin is None:
        raise OSError("standard input is closed")
    if options.id_field and not options.field:
        raise ValueError("--id-field needs --field, the field of the text")
    if not options.shards:
        for name in ("format", "id_field", "overwrite"):
            if getattr(options, name):
                raise ValueError(f"--{name.replace('_', '-')} is about shards: pass --shards ROWS too")
        check_output(options.output)
    elif os.path.exists(options.output) and not os.path.isdir(options.output):
        raise OSError(f"cannot write shards into {options.output!r}: it is no folder")


def _to_file(options: argparse.Namespace, model, loaded: float, encoding: dict) -> None:
    from sentpool.sentence_file import encode_lines

    summary = encode_lines(model, options.input, options.output, options.field, **encoding)
    shape = f"{summary.rows:,} × {summary.columns} float32"
    print(f"{options.output}: {shape}, {summary.n_truncated:,} texts truncated")
    print(speed(loaded, summary.seconds, summary.rows))


def _to_shards(options: argparse.Namespace, model, loaded: float, encoding: dict) -> None:
    from sentpool.shards import encode_shards

    summary = encode_shards(
        model,
        options.input,
        options.output,
        options.shards,
        form=options.format or "npy",
        field=options.field,
        id_field=options.id_field,
        overwrite=options.overwrite,
        **encoding,
    )
    shape = f"{summary.rows:,} × {summary.columns} float32 in {summary.shards:,} shards"
    there = summary.rows - summary.encoded
    kept = f", {there:,} rows of them were there already" if there else ""
    print(f"{options.output}: {shape}, {summary.n_truncated:,} texts truncated{kept}")
    print(speed(loaded, summary.seconds, summary.encoded))
