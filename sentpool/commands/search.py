"""``sentpool search``: the texts of a file, or of a saved index, that are most similar to a query."""

from __future__ import annotations

import argparse
import os
import sys
import time

from sentpool.commands.options import add_encoding, add_json, add_model, add_pooling, check_output, load, positive

PURPOSE = "find the texts of a file that are most similar to a query"
EXAMPLE = "sentpool search all-MiniLM-L6-v2/ corpus.txt --query kittens -k 5 --save corpus.index"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument(
        "corpus", metavar="CORPUS", help="UTF-8 text, one per line; or an index: a folder that --save wrote"
    )
    queries = verb.add_mutually_exclusive_group(required=True)
    queries.add_argument("--query", metavar="TEXT", action="append", help="may be repeated")
    queries.add_argument("--queries", metavar="FILE", help="UTF-8 text, one query per line; - is standard input")
    verb.add_argument("-k", metavar="N", type=positive, default=10, help="texts per query; default: %(default)s")
    verb.add_argument(
        "--metric", choices=("cosine", "dot", "euclidean"), help="default: the index's, or what the model says"
    )
    verb.add_argument("--field", metavar="NAME", help="lines of CORPUS are JSON objects, and this field is the text")
    verb.add_argument("--query-prompt-name", metavar="NAME", help="put that of the model's prompts before queries")
    verb.add_argument("--corpus-prompt-name", metavar="NAME", help="put that of the model's prompts before texts")
    verb.add_argument("--save", metavar="FOLDER", help="keep texts and vectors as an index")
    add_json(verb)
    add_encoding(verb)
    add_pooling(verb)


def run(options: argparse.Namespace) -> None:
    saved = os.path.isdir(options.corpus)
    _check(options, saved)
    queries = options.query or _lines(options.queries)
    model, loaded = load(options, pooling=options.pooling)
    began = time.perf_counter()
    index = _opened(options, model) if saved else _built(options, model)
    built = time.perf_counter()
    encoding = {"batch_size": options.batch_size, "prompt_name": options.query_prompt_name}
    ids, scores = index.search(queries, options.k, threads=options.threads, **encoding)
    searched = time.perf_counter() - built
    found = [
        {"query": query, "hits": [_hit(index, *hit) for hit in zip(rows, values, strict=True)]}
        for query, rows, values in zip(queries, ids.tolist(), scores.tolist(), strict=True)
    ]
    for one in found:
        print(one["query"])
        for hit in one["hits"]:
            print(f"{hit['score']:9.4f}  {hit['id']:>7}  {hit['text']}".rstrip())
        print()
    did = "opened" if saved else "encoded"
    print(f"model loaded in {loaded:.2f} s, {len(index):,} texts {did} in {built - began:.2f} s, ", end="")
    print(f"{len(queries):,} queries answered in {searched:.2f} s")
    if options.save:
        index.save(options.save)
        print(f"saved {options.save}")
    if options.json:
        from sentpool.evaluation.saved_result import write_json

        write_json(options.json, {"corpus": options.corpus, "metric": index.metric, "results": found})
        print(f"saved {options.json}")


def _check(options: argparse.Namespace, saved: bool) -> None:
    """Raise for what cannot work, before the model is loaded."""
    if options.queries == "-" and sys.stdin is None:
        raise OSError("standard input is closed")
    if saved:
        for name in ("field", "corpus_prompt_name", "save"):
            if getattr(options, name):
                raise ValueError(f"--{name.replace('_', '-')} is about texts, and {options.corpus!r} is an index")
    if options.json:
        check_output(options.json)
    if options.save:
        from sentpool.search.index import check_saving

        check_saving(options.save)


def _lines(source: str, field: str | None = None) -> list[str]:
    from sentpool.text_lines import opened, read_lines

    with opened(source) as file:
        return [line.text for line in read_lines(file, source, field)]


def _built(options: argparse.Namespace, model):
    from sentpool.search import SearchIndex

    return SearchIndex.build(
        _lines(options.corpus, options.field),
        model,
        metric=options.metric,
        batch_size=options.batch_size,
        prompt_name=options.corpus_prompt_name,
    )


def _opened(options: argparse.Namespace, model):
    from sentpool.search import SearchIndex

    index = SearchIndex.load(options.corpus, model)
    index.metric = options.metric or index.metric
    return index


def _hit(index, row: int, score: float) -> dict:
    return {"id": row, "score": score, "text": "" if index.texts is None else index.texts[row]}
