"""evaluation.retrieval: BEIR's folders, measures against their formulas, the result, and every error."""

from __future__ import annotations

import html.parser
import json
import math

import numpy as np
import pytest

pytest.importorskip("ir_measures")

from sentpool import evaluation  # noqa: E402
from sentpool.evaluation import RetrievalResult, retrieval  # noqa: E402
from sentpool.evaluation.resampling import draws  # noqa: E402

WORDS = "wing flow heat shock layer plate wave drag lift panel".split()
MEASURES = ("nDCG@5", "nDCG@10", "AP", "RR", "RR@2", "R@5", "P@5", "Success@1")


def bag_of_words(texts):
    """A model as a plain function: how often each of ten words occurs, and a little for the length."""
    return np.array([[*map(text.split().count, WORDS), 0.01 * len(text) + 0.01] for text in texts], np.float32)


@pytest.fixture
def folder(tmp_path):
    """40 documents, 9 queries of which 8 are judged, with grades 0 to 3; one judgement of a document that is gone."""
    rng = np.random.default_rng(0)
    path = tmp_path / "words"
    (path / "qrels").mkdir(parents=True)
    documents = [" ".join(rng.choice(WORDS, 3 + i % 9)) for i in range(40)]
    lines = [{"_id": f"d{i}", "title": text[:4] if i % 3 else "", "text": text} for i, text in enumerate(documents)]
    lines[5].pop("title")
    (path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    queries = [{"_id": f"q{i}", "text": " ".join(rng.choice(WORDS, 2))} for i in range(9)]
    (path / "queries.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, queries)) + "\n\n", encoding="utf-8")
    grades = [(f"q{i}", f"d{rng.integers(40)}", int(rng.integers(0, 4))) for i in range(8) for _ in range(7)]
    grades = list({(query, document): (query, document, grade) for query, document, grade in grades}.values())
    grades.append(("q7", "gone", 2))
    text = "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in grades)
    (path / "qrels" / "test.tsv").write_text(text)
    (path / "qrels" / "dev.tsv").write_text("q8\td3\t1\r\n")
    return path


def contents(folder, split="test"):
    """Texts and judgements, read once more without the package."""
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8-sig").split("\n") if line]
    judgements: dict = {}
    for line in (folder / "qrels" / f"{split}.tsv").read_text().splitlines():
        query, document, grade = line.split("\t")
        if grade != "score":
            judgements.setdefault(query, {})[document] = int(grade)
    documents = {one["_id"]: (one.get("title", "") + " " + one["text"]).strip() for one in corpus}
    return documents, {one["_id"]: one["text"] for one in queries if one["_id"] in judgements}, judgements


def rankings(folder, top=1000, model=bag_of_words):
    """The documents of each query as trec_eval orders them: by cosine, equal ones by id backwards."""
    documents, queries, judgements = contents(folder)
    names, vectors = list(documents), model(list(documents.values())).astype(np.float64)
    found = {}
    for query, text in queries.items():
        (vector,) = model([text]).astype(np.float64)
        cosines = (vectors @ vector / np.sqrt((vectors**2).sum(axis=1) * (vector @ vector))).astype(np.float32)
        first = sorted(range(len(names)), key=lambda i: (-cosines[i], i))[:top]
        found[query] = sorted((names[i] for i in first), key=lambda d: (cosines[names.index(d)], d), reverse=True)
    return found, judgements


def expected(ranking, grades, measure):
    """A measure by its definition, on one query."""
    name, _, cut = measure.partition("@")
    kept = ranking[: int(cut)] if cut else ranking
    gains = [max(0, grades.get(document, 0)) for document in kept]
    relevant = sum(grade > 0 for grade in grades.values())
    hits = [rank for rank, gain in enumerate(gains, 1) if gain > 0]
    if name == "nDCG":
        ideal = sorted((max(0, grade) for grade in grades.values()), reverse=True)[: len(kept)]
        best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ideal, 1))
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1)) / best if best else 0.0
    return {
        "AP": sum(count / rank for count, rank in enumerate(hits, 1)) / max(1, relevant),
        "RR": 1 / hits[0] if hits else 0.0,
        "R": len(hits) / max(1, relevant),
        "P": len(hits) / int(cut or 1),
        "Success": float(bool(hits)),
    }[name]


def test_every_measure_is_its_definition(folder):
    for top in (1000, 10):
        result = retrieval(bag_of_words, folder, MEASURES, top=top, resamples=0)
        found, judgements = rankings(folder, top)
        assert result.queries == list(found) and list(result) == list(MEASURES)
        for measure in MEASURES:
            values = [expected(found[query], judgements[query], measure) for query in result.queries]
            np.testing.assert_allclose(result.per_query[measure], values, atol=1e-6)
            assert result[measure] == pytest.approx(np.mean(values), abs=1e-6)


def test_what_the_model_is_given(folder):
    seen = []

    class Model:
        def encode(self, sentences, batch_size=32, prompt=None, prompt_name=None, shout=False):
            seen.append((list(sentences), batch_size, prompt, prompt_name, shout))
            return bag_of_words(sentences)

    documents, queries, _ = contents(folder)
    retrieval(Model(), folder, "AP", query_prompt="query: ", corpus_prompt_name="doc", batch_size=7, shout=True)
    assert seen[0] == (list(queries.values()), 7, "query: ", None, True)
    assert seen[1] == (list(documents.values()), 7, None, "doc", True)


def test_splits_metrics_and_defaults(folder):
    result = retrieval(bag_of_words, folder, split="dev", metric="dot")
    assert list(result) == ["nDCG@10", "AP", "RR@10", "R@10", "R@100", "R@1000", "P@10"]
    assert result.queries == ["q8"]
    assert result.protocol == {"metric": "dot", "top": 1000, "ignore_identical_ids": False}
    assert result.data["judgements"] == 1 and result.data["documents"] == 40
    assert retrieval(bag_of_words, folder, "AP").data["judged_but_missing"] == 1


def test_identical_ids_may_be_left_out(folder):
    """As in tasks whose queries are documents: the query finds itself first unless it is left out."""
    lines = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    queries = [{"_id": line["_id"], "text": f"{line.get('title', '')} {line['text']}"} for line in lines[:5]]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text("".join(f"d{i}\td{i}\t1\n" for i in range(5)))
    assert retrieval(bag_of_words, folder, "R@1000")["R@1000"] == 1
    left_out = retrieval(bag_of_words, folder, ["R@1000", "P@39"], ignore_identical_ids=True, top=39)
    assert left_out["R@1000"] == 0


def test_intervals_are_those_of_the_resampled_means(folder):
    result = retrieval(bag_of_words, folder, ["AP", "P@5"], resamples=400, seed=3)
    (counts,) = zip(*draws([8], result.bootstrap), strict=True)
    means = np.concatenate(counts) @ result.per_query["AP"] / 8
    np.testing.assert_allclose(result.interval("AP"), np.quantile(means, [0.025, 0.975]), rtol=1e-12)
    assert result.interval("AP").low <= result["AP"] <= result.interval("AP").high
    with pytest.raises(KeyError, match="measure 'RR' is not among AP, P@5"):
        result.interval("RR")
    with pytest.raises(ValueError, match="made with resamples=0"):
        retrieval(bag_of_words, folder, "AP", resamples=0).interval("AP")


def test_saved_and_loaded(folder, tmp_path):
    result = retrieval(bag_of_words, folder, MEASURES)
    result.save(tmp_path / "result.json")
    loaded = RetrievalResult.load(tmp_path / "result.json")
    assert dict(loaded) == dict(result) and loaded.queries == result.queries
    assert loaded.intervals == result.intervals and loaded.bootstrap == result.bootstrap
    assert all((loaded.per_query[name] == result.per_query[name]).all() for name in MEASURES)
    assert (loaded.data, loaded.protocol, loaded.seconds) == (result.data, result.protocol, result.seconds)
    assert repr(loaded) == repr(result)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["measures"] == dict(result) and len(saved["data"]["sha256"]) == 3
    (tmp_path / "other.json").write_text('{"format": "sentpool STS result 1"}')
    with pytest.raises(ValueError, match="is no result saved by RetrievalResult.save"):
        RetrievalResult.load(tmp_path / "other.json")


def test_tables(folder):
    pandas = pytest.importorskip("pandas")
    result = retrieval(bag_of_words, folder, ["nDCG@10", "AP"])
    frame = result.to_frame()
    assert frame.index.tolist() == ["nDCG@10", "AP"] and frame.columns.tolist() == ["value", "low", "high"]
    assert frame.loc["AP", "value"] == result["AP"]
    queries = result.to_frame(per_query=True)
    assert isinstance(queries, pandas.DataFrame) and queries.shape == (8, 2)
    assert queries.loc["q3", "AP"] == result.per_query["AP"][3]
    assert retrieval(bag_of_words, folder, "AP", resamples=0).to_frame().columns.tolist() == ["value"]
    lines = repr(result).splitlines()
    assert lines[0].endswith("bag_of_words on words, test split")
    assert lines[1] == "8 queries, 40 documents; cosine, the first 1,000 ranked"
    assert "95 % intervals" in lines[3] and lines[5].split()[:2] == ["nDCG@10", f"{result['nDCG@10']:.4f}"]
    parser = html.parser.HTMLParser()
    parser.feed(result._repr_html_())
    parser.close()


def replace(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("corpus.jsonl", "{\n", r"corpus\.jsonl:1: no JSON"),
        ("corpus.jsonl", "[1]\n", r"corpus\.jsonl:1: \[1\] is no object"),
        ("corpus.jsonl", '\n{"_id": "a"}\n', r"corpus\.jsonl:2: text is None; it must be a string"),
        ("corpus.jsonl", '{"_id": 3, "text": ""}\n', r"corpus\.jsonl:1: _id is 3; it must be a string"),
        ("corpus.jsonl", '{"_id": "a", "text": "", "title": 1}\n', r"corpus\.jsonl:1: title is 1"),
        ("corpus.jsonl", '{"_id": "a", "text": ""}\n' * 2, r"corpus\.jsonl:2: _id 'a' is there twice"),
        ("corpus.jsonl", "\n", r"corpus\.jsonl holds no documents"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n', r"qrels/test\.tsv judges query 'q0', which queries\.jsonl"),
        ("qrels/test.tsv", "q1 d1 1\n", r"test\.tsv:1: 'q1 d1 1' is not query-id, corpus-id and a whole number"),
        ("qrels/test.tsv", "q1\td1\t0.5\n", r"test\.tsv:1: .* is not query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", r"test\.tsv holds no judgements"),
    ],
)
def test_malformed_files_are_named_by_line(folder, name, text, message):
    replace(folder, name, text)
    with pytest.raises(ValueError, match=message):
        retrieval(bag_of_words, folder)


def test_a_file_that_is_not_utf8(folder):
    (folder / "queries.jsonl").write_bytes(b'{}\n"\xe9"')
    with pytest.raises(ValueError, match=r"queries\.jsonl:2: not UTF-8"):
        retrieval(bag_of_words, folder)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"folder": "nowhere"}, FileNotFoundError, "retrieval folder 'nowhere' does not exist: expected BEIR's layout"),
        ({"folder": 3}, TypeError, "folder is 3"),
        ({"split": "train"}, FileNotFoundError, r"no qrels/train\.tsv; there are the splits dev, test"),
        ({"split": None}, TypeError, "split is None"),
        ({"measures": "nDCF@10"}, ValueError, "measure 'nDCF@10' is not known to ir-measures"),
        ({"measures": ["AP", 3]}, TypeError, "measures holds 3"),
        ({"measures": []}, ValueError, "measures is empty"),
        ({"metric": "l2"}, ValueError, "metric is 'l2'"),
        ({"precision": "int8"}, ValueError, "precision is 'int8'; only float32"),
        ({"top": 0}, ValueError, "top is 0"),
        ({"resamples": 5}, ValueError, "resamples is 5"),
        ({"ignore_identical_ids": "yes"}, ValueError, "ignore_identical_ids is 'yes'"),
        ({"query_prompt": "a"}, TypeError, "prompt: only a model with an encode method"),
        ({"model": "minilm"}, TypeError, "model is 'minilm'"),
        ({"model": lambda texts: np.zeros((1, 2))}, ValueError, r"shape \(1, 2\) for 8 sentences"),
    ],
)
def test_errors(folder, change, error, message):
    arguments = {"model": bag_of_words, "folder": folder} | change
    with pytest.raises(error, match=message):
        retrieval(arguments.pop("model"), arguments.pop("folder"), **arguments)


def test_without_ir_measures(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ir_measures", None)
    with pytest.raises(ImportError, match=r"pip install 'sentpool\[eval\]'"):
        retrieval(bag_of_words, folder)


def test_a_sentence_encoder(folder, minilm):
    import sentpool

    model = sentpool.SentenceEncoder(minilm)
    result = evaluation.retrieval(model, folder, "AP", threads=2, query_prompt="query: ")
    assert result.encoding["sentences"] == 48 and result.encoding["truncated"] == 0
    assert result.encoding["query_options"] == {"prompt": "query: "}
    assert result.model["name"] == "model" and "weights_sha256" in result.model
    assert 0 < result["AP"] < 1


def test_two_results_are_compared(folder, tmp_path):
    def shorter(texts):
        return bag_of_words(texts)[:, :6]

    a, b = (retrieval(model, folder, ["AP", "P@5"]) for model in (bag_of_words, shorter))
    compared = evaluation.compare(a, b, resamples=500)
    (counts,) = zip(*draws([8], compared.bootstrap), strict=True)
    differences = np.concatenate(counts) @ (a.per_query["AP"] - b.per_query["AP"]) / 8
    row = compared.rows[0]
    assert (row["task"], row["n"]) == ("AP", 8) and row["diff"] == pytest.approx(a["AP"] - b["AP"])
    np.testing.assert_allclose([row["low"], row["high"]], np.quantile(differences, [0.025, 0.975]), atol=1e-12)
    a.save(tmp_path / "a.json")
    assert evaluation.compare(tmp_path / "a.json", b, resamples=500).rows == compared.rows
    other = evaluation.compare(a, retrieval(bag_of_words, folder, ["AP"], split="dev", metric="dot"))
    assert math.isnan(other.rows[0]["low"]) and "different queries" in other.notes[0]
    assert {"metric"} <= {one.what for one in other.differences}
    with pytest.raises(ValueError, match="a has AP, P@5; b has RR"):
        evaluation.compare(a, retrieval(bag_of_words, folder, "RR"))
