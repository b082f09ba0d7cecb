"""``sentpool retrieval``: whether a model brings the relevant documents to the top."""

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

PURPOSE = "score a model on retrieval"
EXAMPLE = "sentpool retrieval all-MiniLM-L6-v2/ data/cranfield --measures nDCG@10,AP --json cranfield.json"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument(
        "data", metavar="DATA", help="folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv"
    )
    verb.add_argument(
        "--measures",
        metavar="A,B",
        type=names,
        help="in ir-measures' names; default: nDCG@10,AP,RR@10,R@10,R@100,R@1000,P@10",
    )
    verb.add_argument("--split", metavar="NAME", default="test", help="of qrels/; default: %(default)s")
    verb.add_argument("--metric", choices=("cosine", "dot", "euclidean"), default="cosine", help="default: %(default)s")
    verb.add_argument("--top", metavar="N", type=positive, default=1000, help="documents ranked; default: %(default)s")
    verb.add_argument(
        "--ignore-identical-ids", action="store_true", help="leave out the document that has the query's id"
    )
    for kind, what in (("query", "every query"), ("corpus", "every document")):
        prompts = verb.add_mutually_exclusive_group()
        prompts.add_argument(f"--{kind}-prompt", metavar="TEXT", help=f"text put before {what}")
        prompts.add_argument(f"--{kind}-prompt-name", metavar="NAME", help="that of the model's prompts with this name")
    add_json(verb)
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import evaluation

    check_result_files(options)
    model, loaded = load(options, pooling=options.pooling)
    result = evaluation.retrieval(
        model,
        options.data,
        options.measures,
        split=options.split,
        metric=options.metric,
        top=options.top,
        ignore_identical_ids=options.ignore_identical_ids,
        query_prompt=options.query_prompt,
        query_prompt_name=options.query_prompt_name,
        corpus_prompt=options.corpus_prompt,
        corpus_prompt_name=options.corpus_prompt_name,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    report(options, result, loaded)
