"""Retrieval on Cranfield by MiniLM against pytrec_eval on scores of transformers' embeddings."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytrec_eval = pytest.importorskip("pytrec_eval")
pytest.importorskip("ir_measures")

from sentpool import SentenceEncoder, evaluation  # noqa: E402

# Two passes over 1,400 abstracts, one of them by torch.
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1800)]


def embeddings(folder, texts):
    """Mean pooling over at most 256 tokens, length 1, by transformers; texts of like length together."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    vectors = np.empty((len(texts), 384), np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    for places in np.array_split(order, -(-len(texts) // 32)):
        batch = tokenizer(
            [texts[place] for place in places], padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        mask = batch["attention_mask"][..., None].float()
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        vectors[places] = torch.nn.functional.normalize(means, dim=1).numpy()
    return vectors


def test_cranfield_equals_pytrec_eval(minilm, data_dir):
    folder = data_dir / "cranfield"
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    judgements: dict = {}
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        judgements.setdefault(query, {})[document] = int(score)
    documents = embeddings(minilm, [f"{one['title']} {one['text']}".strip() for one in corpus])
    scores = embeddings(minilm, [one["text"] for one in queries]) @ documents.T
    run = {
        query["_id"]: {corpus[i]["_id"]: float(row[i]) for i in np.argsort(-row, kind="stable")[:1000]}
        for query, row in zip(queries, scores, strict=True)
    }
    first_ten = {query: dict(sorted(found.items(), key=lambda hit: -hit[1])[:10]) for query, found in run.items()}
    names = {
        "nDCG@10": "ndcg_cut_10",
        "nDCG@100": "ndcg_cut_100",
        "AP": "map",
        "RR": "recip_rank",
        "R@10": "recall_10",
        "R@100": "recall_100",
        "R@1000": "recall_1000",
        "P@10": "P_10",
    }
    reference = pytrec_eval.RelevanceEvaluator(judgements, set(names.values())).evaluate(run)
    reciprocal = pytrec_eval.RelevanceEvaluator(judgements, {"recip_rank"}).evaluate(first_ten)
    expected = {ours: np.mean([reference[query][theirs] for query in judgements]) for ours, theirs in names.items()} | {
        "RR@10": np.mean([reciprocal[query]["recip_rank"] for query in judgements])
    }

    result = evaluation.retrieval(SentenceEncoder(minilm), folder, list(expected))
    assert len(result.queries) == 225
    for measure, value in expected.items():
        assert result[measure] == pytest.approx(value, abs=1e-4), measure
