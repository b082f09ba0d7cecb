"""Scoring a model on retrieval: for each query, does it bring the relevant documents to the top?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sentpool.checks import one_of, positive_integer
from sentpool.encoder import SentenceEncoder
from sentpool.errors import shown
from sentpool.evaluation.embedding import describe_model, embed, refuse_codes
from sentpool.evaluation.resampling import mean_replicates
from sentpool.evaluation.retrieval_data import RetrievalData, read_retrieval
from sentpool.evaluation.retrieval_result import RetrievalResult
from sentpool.evaluation.significance import Bootstrap, Interval, percentile_interval
from sentpool.search.exact import METRICS, Found, search

DEFAULT_MEASURES = ("nDCG@10", "AP", "RR@10", "R@10", "R@100", "R@1000", "P@10")


def retrieval(
    model,
    folder,
    measures: str | Sequence[str] | None = None,
    *,
    split: str = "test",
    metric: str = "cosine",
    top: int = 1000,
    ignore_identical_ids: bool = False,
    query_prompt: str | None = None,
    query_prompt_name: str | None = None,
    corpus_prompt: str | None = None,
    corpus_prompt_name: str | None = None,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    threads: int | None = None,
    resamples: int = 1000,
    seed: int = 0,
    **encode_options,
) -> RetrievalResult:
    """Score a model on a retrieval task in BEIR's layout.

    Every query is compared with every document, exactly (`sentpool.search.search`), and the `top` documents with the
    highest scores are its ranking. The measures are those of ir-measures, computed by trec_eval's code, which orders
    documents of equal scores by their ids, backwards.

    Parameters
    ----------
    model : SentenceEncoder, object with ``encode``, or callable
        A callable takes a list of n strings and returns an array (n, d).
    folder : str or Path
        Holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``. A document is its title, a space and its
        text. Queries without judgements in the split are left out.
    measures : str or sequence of str, optional
        In ir-measures' names, such as ``"nDCG@10"``, ``"AP"``, ``"RR@10"``, ``"R@100"``, ``"P@10"``, ``"Success@1"``.
        By default nDCG@10, AP, RR@10, R@10, R@100, R@1000 and P@10.
    split : str, default "test"
    metric : {"cosine", "dot", "euclidean"}
    top : int, default 1000
    ignore_identical_ids : bool, default False
        Leave out the document that has the query's id, as BEIR does for tasks whose queries are documents (ArguAna,
        Quora).
    query_prompt, query_prompt_name, corpus_prompt, corpus_prompt_name : str, optional
        Passed to ``model.encode`` as ``prompt`` and ``prompt_name`` for queries and documents.
    batch_size, show_progress_bar, **encode_options
        Passed to ``model.encode``, the first two only if it takes them.
    threads : int, optional
        Of the search, and of a SentenceEncoder.
    resamples, seed : int
        Of the bootstrap over queries that gives every measure its 95 % interval; 0: no intervals.

    Returns
    -------
    RetrievalResult

    Raises
    ------
    FileNotFoundError
        The folder, one of its files or the split is missing.
    ImportError
        ir-measures is not installed (extra ``eval``).
    ValueError
        A measure that ir-measures does not know, a malformed line (named by file and line), or embeddings of the wrong
        shape or with NaN or infinity.
    TypeError
        A model that can neither encode nor be called, or options that it does not take.

    Examples
    --------
    >>> result = evaluation.retrieval(model, "data/cranfield", measures=["nDCG@10", "AP"])   # doctest: +SKIP
    >>> result["nDCG@10"], result.interval("nDCG@10")                                       # doctest: +SKIP
    """
    began = time.perf_counter()
    refuse_codes(encode_options)
    parsed = _parsed(DEFAULT_MEASURES if measures is None else [measures] if isinstance(measures, str) else measures)
    one_of("metric", metric, METRICS)
    one_of("ignore_identical_ids", ignore_identical_ids, (False, True))
    top = positive_integer("top", top)
    bootstrap = None if resamples == 0 else Bootstrap.checked(resamples, seed, 0.95)
    data = read_retrieval(folder, split)
    read = time.perf_counter()
    description = describe_model(model)
    started = time.perf_counter()
    options = {"batch_size": batch_size, "show_progress_bar": show_progress_bar, **encode_options}
    if isinstance(model, SentenceEncoder):
        options["threads"] = threads
    of_queries = options | {"prompt": query_prompt, "prompt_name": query_prompt_name}
    of_documents = options | {"prompt": corpus_prompt, "prompt_name": corpus_prompt_name}
    queries, query_facts = embed(model, list(data.queries.values()), **of_queries)
    documents, facts = embed(model, list(data.documents.values()), **of_documents)
    encoded = time.perf_counter()
    found = search(queries, documents, top + ignore_identical_ids, metric, threads=threads)
    searched = time.perf_counter()
    per_query = _per_query(parsed, data, found, top, ignore_identical_ids)
    return RetrievalResult(
        per_query=per_query,
        queries=list(data.queries),
        intervals={} if bootstrap is None else _intervals(per_query, bootstrap),
        bootstrap=bootstrap,
        protocol={"metric": metric, "top": top, "ignore_identical_ids": ignore_identical_ids},
        model=description,
        encoding={
            **facts,
            "sentences": facts["sentences"] + query_facts["sentences"],
            "truncated": _sum(facts["truncated"], query_facts["truncated"]),
            "query_options": {name: value for name, value in query_facts.items() if name in ("prompt", "prompt_name")},
        },
        data=data.description,
        seconds={
            "read": read - began,
            "encode": encoded - started,
            "search": searched - encoded,
            "score": time.perf_counter() - searched,
        },
    )


def _ir_measures():
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError("retrieval needs ir-measures: pip install 'sentpool[eval]'") from error
    return ir_measures


def _parsed(names: Sequence[str]) -> dict[str, Any]:
    """ir-measures' objects by their canonical names."""
    ir_measures, parsed = _ir_measures(), {}
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"measures holds {shown(name)}: pass names such as 'nDCG@10'")
        try:
            measure = ir_measures.parse_measure(name)
        except (NameError, ValueError, SyntaxError, KeyError, TypeError) as error:
            raise ValueError(
                f"measure {name!r} is not known to ir-measures ({error}); such are nDCG@10, AP, RR@10, R@100"
            ) from error
        parsed[str(measure)] = measure
    if not parsed:
        raise ValueError("measures is empty: name at least one, such as 'nDCG@10', or pass None")
    return parsed


def _per_query(
    measures: dict[str, Any], data: RetrievalData, found: Found, top: int, ignore_identical_ids: bool
) -> dict[str, np.ndarray]:
    """Each measure's value of each query, in the order of the queries."""
    ids, run = list(data.documents), {}
    for query, rows, scores in zip(data.queries, found.ids.tolist(), found.scores.tolist(), strict=True):
        ranked = ((ids[row], score) for row, score in zip(rows, scores, strict=True))
        kept = [hit for hit in ranked if not (ignore_identical_ids and hit[0] == query)]
        run[query] = dict(kept[:top])
    place = {query: index for index, query in enumerate(data.queries)}
    values = {name: np.zeros(len(place)) for name in measures}
    try:
        for metric in _ir_measures().iter_calc(list(measures.values()), data.judgements, run):
            values[str(metric.measure)][place[metric.query_id]] = metric.value
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"ir-measures cannot compute {', '.join(measures)}: {error}") from error
    return values


def _intervals(per_query: dict[str, np.ndarray], bootstrap: Bootstrap) -> dict[str, Interval]:
    replicates = mean_replicates(np.stack(list(per_query.values())), bootstrap)
    return {
        name: percentile_interval(row, bootstrap.confidence) for name, row in zip(per_query, replicates, strict=True)
    }


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b
