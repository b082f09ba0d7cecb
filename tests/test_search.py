"""Exact search against brute force in float64, its bits, its errors; indices that keep texts, save and load."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import sentpool
from sentpool import _core
from sentpool.search import Found, SearchIndex, exact, search

METRICS = ("cosine", "dot", "euclidean")


def brute_force(queries, corpus, k, metric):
    """Ids and scores by float64, scores rounded to float32 and equal ones by row."""
    q, c = (np.asarray(x, dtype=np.float64) for x in (queries, corpus))
    scores = -np.sqrt(((q[:, None] - c[None]) ** 2).sum(axis=2)) if metric == "euclidean" else q @ c.T
    if metric == "cosine":
        lengths = np.sqrt((q * q).sum(axis=1)[:, None] * (c * c).sum(axis=1))
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    scores = scores.astype(np.float32)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids, np.take_along_axis(scores, ids, axis=1)


def assert_found(found, expected):
    assert found.ids.dtype == np.int64 and found.scores.dtype == np.float32
    np.testing.assert_array_equal(found.scores, expected[1])
    np.testing.assert_array_equal(found.ids, expected[0])


def laid_out(array, how, folder):
    """The same matrix with other strides, of another type, or in a file."""
    n, d = array.shape
    if how == "memory map":
        np.save(folder / "corpus.npy", array)
        return np.load(folder / "corpus.npy", mmap_mode="r")
    if how == "mapped float16":
        np.save(folder / "corpus.npy", array.astype(np.float16))
        return np.load(folder / "corpus.npy", mmap_mode="r")
    wide = np.zeros((2 * n, 3 * d + 1), np.float32)
    views = {
        "as it is": array,
        "columns": np.asfortranarray(array),
        "every second row": wide[::2, :d],
        "every third column": wide[:n, : 3 * d : 3],
        "backwards": wide[n - 1 :: -1, d - 1 :: -1],
        "float64": array.astype(np.float64),
        "int8": array.astype(np.int8),
        "big-endian": array.astype(">f4"),
        "unaligned": np.frombuffer(bytearray(4 * n * d + 1), np.float32, n * d, 1).reshape(n, d),
        "list": array,
    }
    view = views[how]
    if view is not array and not view.any():
        view[...] = array
    return view.tolist() if how == "list" else view


LAYOUTS = (
    ["as it is", "columns", "every second row", "every third column", "backwards", "memory map"]
    + ["float64", "int8", "mapped float16", "big-endian", "unaligned", "list"]
)  # fmt: skip


@pytest.mark.parametrize("case", range(200))
def test_equals_brute_force_where_products_are_exact(case, tmp_path, monkeypatch):
    """Small integers: many ties, every score exact."""
    rng = np.random.default_rng(case)
    n, d, m = int(rng.integers(1, 700)), int(rng.integers(1, 40)), int(rng.integers(1, 70))
    k = int(rng.choice([1, 2, 10, n, n + 3, max(1, n // 2)]))
    spread = int(rng.choice([1, 3, 20]))
    corpus = rng.integers(-spread, spread + 1, (n, d)).astype(np.float32)
    queries = rng.integers(-spread, spread + 1, (m, d)).astype(np.float32)
    if case % 5 == 0:  # rows that are there several times
        corpus = corpus[rng.integers(0, n, n)]
    monkeypatch.setattr(exact, "_PIECE_BYTES", 4 * d * 100)
    metric = METRICS[case % 3]
    found = search(queries, laid_out(corpus, LAYOUTS[case % len(LAYOUTS)], tmp_path), k, metric, threads=1 + case % 3)
    assert_found(found, brute_force(queries, corpus, k, metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("d", [3, 384, 1024, 1500])
def test_random_floats_against_float64(metric, d):
    rng = np.random.default_rng(d)
    corpus, queries = (rng.standard_normal((n, d), dtype=np.float32) for n in (3000, 40))
    found = search(queries, corpus, 50, metric)
    ids, scores = (
        brute_force(queries[:, :], corpus, 50, metric) if d < 1000 else float64_in_parts(queries, corpus, metric)
    )
    assert (found.ids == ids).mean() >= 0.998
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-6)


def float64_in_parts(queries, corpus, metric):
    parts = [brute_force(query[None], corpus, 50, metric) for query in queries]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_those_of_similarity(metric):
    """Also where the product in float32 would mislead: lengths over 16 orders of magnitude, near-duplicates."""
    rng = np.random.default_rng(1)
    corpus, queries = (rng.standard_normal((n, 96), dtype=np.float32) for n in (2000, 60))
    corpus *= (10.0 ** rng.uniform(-8, 8, (2000, 1))).astype(np.float32)
    corpus[::7] = queries[0] * (1 + 1e-6 * rng.standard_normal((286, 96))).astype(np.float32)
    corpus[::31] = 0
    queries[3] = 0
    queries[4] *= 1e-30
    scores = _core.similarity(queries, corpus, metric, 2)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    assert_found(search(queries, corpus, 100, metric, threads=2), (ids, np.take_along_axis(scores, ids, axis=1)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1e-44, 1e-25, 1e15])
def test_very_short_and_very_long_vectors(metric, size):
    rng = np.random.default_rng(2)
    corpus, queries = ((rng.standard_normal((n, 24)) * size).astype(np.float32) for n in (500, 9))
    scores = _core.similarity(queries, corpus, metric)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    assert_found(search(queries, corpus, 20, metric), (ids, np.take_along_axis(scores, ids, axis=1)))


def test_cosines_of_vectors_whose_products_overflow():
    rng = np.random.default_rng(3)
    corpus, queries = (rng.standard_normal((n, 24)).astype(np.float32) for n in (500, 9))
    expected = search(queries, corpus, 20)
    assert_found(search(queries * np.float32(2**100), corpus * np.float32(2**100), 20), expected)


@pytest.mark.bits
def test_threads_pieces_and_neighbours_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    corpus = rng.integers(-2, 3, (5000, 17)).astype(np.float32)
    queries = rng.integers(-2, 3, (101, 17)).astype(np.float32)
    for metric in METRICS:
        whole = search(queries, corpus, 37, metric, threads=1)
        for threads in (2, 3, 7):
            assert_found(search(queries, corpus, 37, metric, threads=threads), whole)
        for rows in (1, 2, 33):
            parts = [search(queries[i : i + rows], corpus, 37, metric) for i in range(0, len(queries), rows)]
            assert_found(Found(*(np.concatenate(column) for column in zip(*parts, strict=True))), whole)
        monkeypatch.setattr(exact, "_PIECE_BYTES", 4 * 17 * 333)
        assert_found(search(queries, corpus.astype(np.float64), 37, metric), whole)


CHILD = """
import hashlib, numpy as np
from sentpool import _core
from sentpool.search import search
rng = np.random.default_rng(5)
corpus, queries = (rng.standard_normal((n, 70), dtype=np.float32) for n in (900, 45))
digest = hashlib.sha256()
for metric in ("cosine", "dot", "euclidean"):
    for part in search(queries, corpus, 12, metric, threads=2):
        digest.update(part.tobytes())
print(_core.config()["isa"], digest.hexdigest())
"""


@pytest.mark.every_way
@pytest.mark.bits
def test_every_instruction_set_gives_the_same_bits():
    lines = set()
    for isa in _core.isas():
        run = subprocess.run(
            [sys.executable, "-c", CHILD], env=os.environ | {"SENTPOOL_ISA": isa}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        name, digest = run.stdout.split()
        assert name == isa
        lines.add(digest)
    assert len(lines) == 1


def test_one_query_is_one_row():
    corpus = np.eye(4, 3, dtype=np.float32)
    ids, scores = search([0, 1, 0], corpus, 2)
    assert ids.tolist() == [1, 0] and scores.tolist() == [1, 0]
    assert search(np.zeros((0, 3)), corpus, 2).ids.shape == (0, 2)
    assert search([[1, 2, 3]], np.zeros((0, 3), np.float32), 2).scores.shape == (1, 0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_that_is_none_is_named_by_its_row(metric, value, dtype, monkeypatch):
    rng = np.random.default_rng(6)
    corpus, queries = rng.standard_normal((4000, 8)).astype(dtype), rng.standard_normal((5, 8)).astype(dtype)
    monkeypatch.setattr(exact, "_PIECE_BYTES", 4 * 8 * 1000)
    corpus[[1234, 1235, 3999], [3, 0, 7]] = value
    with pytest.raises(ValueError, match=r"corpus\[1234\] holds NaN or infinity"):
        search(queries, corpus, metric=metric, threads=2)
    queries[3, 2] = value
    with pytest.raises(ValueError, match=r"queries\[3\] holds NaN or infinity"):
        search(queries, corpus, metric=metric)


@pytest.mark.parametrize(
    "metric, corpus, queries, name",
    [
        ("dot", 1e30, 1e30, "corpus"),
        ("euclidean", 1e30, 1, "corpus"),
        ("euclidean", 1, 1e30, "queries"),
        ("cosine", 3e38, 1, "corpus"),
    ],
)
def test_products_beyond_float32_are_refused(metric, corpus, queries, name):
    with pytest.raises(ValueError, match=rf"{name}\[0\] is so long that products leave the range of float32"):
        search(np.full((1, 4), queries, np.float32), np.full((3, 4), corpus, np.float32), 1, metric)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (([[1, 2]], [[1, 2]], 0), ValueError, "k is 0; it must be a positive integer"),
        (([[1, 2]], [[1, 2]], 1.0), TypeError, "k must be a positive integer, not float"),
        (([[1, 2]], [[1, 2]], 1, "manhattan"), ValueError, "metric is 'manhattan'; it must be 'cosine' or 'dot' or"),
        (([[1, 2]], [[1, 2, 3]]), ValueError, "queries have 2 numbers each, the corpus has 3"),
        (([[1, 2]], [1, 2]), ValueError, r"corpus has shape \(2,\); it must be \(n, d\)"),
        (([[[1]]], [[1]]), ValueError, r"queries has shape \(1, 1, 1\)"),
        (([["a"]], [[1]]), TypeError, "queries must hold real numbers"),
        (([[1]], [[1j]]), TypeError, "corpus must hold real numbers, not complex128"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        search(*arguments)


def test_threads_are_checked():
    with pytest.raises(ValueError, match="threads is 0"):
        search([[1.0]], [[1.0]], threads=0)


def test_every_allocation_may_fail():
    rng = np.random.default_rng(7)
    corpus, queries = rng.standard_normal((600, 1024), dtype=np.float32), rng.standard_normal((3, 1024))
    expected = search(queries, corpus, 5, threads=2)
    for n in range(1, 200):
        _core.fail_allocation(n)
        try:
            found = search(queries, corpus, 5, threads=2)
        except MemoryError:
            continue
        finally:
            _core.fail_allocation(0)
        assert_found(found, expected)
        if n > 40:
            break
    assert n > 20
    assert_found(search(queries, corpus, 5, threads=2), expected)


def run_alone(code: str) -> str:
    preamble = (
        "import os, resource, signal, sys, threading, time\nimport numpy as np\nfrom sentpool.search import search\n"
    )
    run = subprocess.run([sys.executable, "-c", preamble + code], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_scores_are_never_held_together():
    """1.2 GB of scores, a few megabytes of hits."""
    out = run_alone("""
corpus = np.random.default_rng(0).standard_normal((600_000, 16), dtype=np.float32)
queries = corpus[:500].copy()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ids = search(queries, corpus, 10, threads=2).ids
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, (ids[:, 0] == np.arange(500)).all())
""")
    grown, right = out.split()
    assert right == "True"
    assert int(grown) < 60 << 10


@pytest.mark.alone
def test_ctrl_c_returns_within_200_ms():
    out = run_alone("""
vectors = np.random.default_rng(0).standard_normal((100_000, 384), dtype=np.float32)
def interrupt():
    time.sleep(0.5)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
sent = []
threading.Thread(target=interrupt).start()
try:
    search(vectors, vectors, 10, threads=2)
    sys.exit("finished before it was interrupted")
except KeyboardInterrupt:
    print(time.perf_counter() - sent[0])
""")
    assert float(out) <= 0.2


# ---- indices -------------------------------------------------------------------------------------------------------

TEXTS = ["one", "two", "three", "a longer text", "four\nfive", "", "zwölf 🦆", "\ud800 lone"]


def letters(texts):
    """A model as a plain function: how often each of nine letters occurs, and the length."""
    return np.array([[*(text.count(letter) for letter in "aeionrtwu"), len(text)] for text in texts], np.float32)


def test_an_index_finds_texts():
    index = SearchIndex.build(iter(TEXTS), letters)
    assert len(index) == 8 and index.dimension == 10 and index.texts == TEXTS
    assert repr(index) == "SearchIndex(8 vectors of 10, with texts, metric='cosine')"
    ids, scores = index.search("three", 3)
    assert index.texts[ids[0]] == "three" and scores[0] == 1
    expected = search(letters(["three", "two"]), letters(TEXTS), 3)
    for queries in (["three", "two"], ("three", "two"), np.array(["three", "two"]), letters(["three", "two"])):
        assert_found(index.search(queries, 3), expected)
    assert_found(index.search(letters(["three", "two"]).tolist(), 3, threads=2), expected)
    assert index.search(letters(["two"])[0], 99).ids.shape == (8,)


def test_no_queries_at_all():
    index = SearchIndex.build(TEXTS, letters)
    assert index.search([], 3).ids.shape == index.search(iter([]), 3).scores.shape == (0, 3)


def test_an_index_grows():
    index = SearchIndex(letters(TEXTS[:3]).astype(np.float64), TEXTS[:3], model=letters, metric="dot")
    index.add(TEXTS[3:6])
    index.add(TEXTS[6:], letters(TEXTS[6:]))
    assert len(index) == 8 and index.texts == TEXTS
    np.testing.assert_array_equal(index.vectors, letters(TEXTS))
    for k in (1, 4, 20):
        assert_found(index.search(letters(TEXTS), k), search(letters(TEXTS), letters(TEXTS), k, "dot"))
    bare = SearchIndex(letters(TEXTS))
    bare.add(vectors=letters(["new"]))
    assert len(bare) == 9 and bare.texts is None


@pytest.mark.parametrize("metric", METRICS)
def test_saved_and_loaded(tmp_path, metric):
    index = SearchIndex.build(TEXTS[:5], letters, metric=metric)
    index.add(TEXTS[5:])
    index.save(tmp_path / "index")
    assert sorted(os.listdir(tmp_path / "index")) == ["index.json", "texts.jsonl", "vectors.npy"]
    assert os.listdir(tmp_path) == ["index"]
    np.testing.assert_array_equal(np.load(tmp_path / "index" / "vectors.npy"), letters(TEXTS))
    loaded = SearchIndex.load(tmp_path / "index", letters)
    assert isinstance(loaded.vectors, np.memmap) and not loaded.vectors.flags.writeable
    assert loaded.texts == TEXTS and loaded.metric == metric
    assert_found(loaded.search(TEXTS, 4), index.search(TEXTS, 4))
    loaded.add(["more"])
    loaded.save(str(tmp_path / "index"), overwrite=True)
    again = SearchIndex.load(tmp_path / "index")
    assert len(again) == 9 and again.texts[8] == "more"
    assert_found(again.search(letters(TEXTS), 9), loaded.search(TEXTS, 9))


def test_saving_replaces_nothing_unasked(tmp_path):
    index = SearchIndex(letters(TEXTS))
    index.save(tmp_path / "index")
    assert sorted(os.listdir(tmp_path / "index")) == ["index.json", "vectors.npy"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        index.save(tmp_path / "index")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters").write_text("dear")
    with pytest.raises(FileExistsError, match="it holds no index"):
        index.save(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("index.json", "{}", "'format' is missing"),
        ("index.json", "not JSON", "is no index saved by SearchIndex.save"),
        ("index.json", '{"format": "sentpool search index 2"}', "this version reads"),
        ("texts.jsonl", '"one"\n', "1 texts and 8 vectors"),
        ("texts.jsonl", "1\n" * 8, "line 1 of texts.jsonl is 1, not a string"),
        ("vectors.npy", "", "is no index saved by"),
    ],
)
def test_a_broken_folder_is_named(tmp_path, file, content, message):
    SearchIndex.build(TEXTS, letters).save(tmp_path / "index")
    (tmp_path / "index" / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        SearchIndex.load(tmp_path / "index")


def test_a_missing_index(tmp_path):
    with pytest.raises(FileNotFoundError):
        SearchIndex.load(tmp_path / "nowhere")


def test_another_shape_than_the_manifest_says(tmp_path):
    SearchIndex.build(TEXTS, letters).save(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(manifest | {"dimension": 11}))
    with pytest.raises(ValueError, match=r"vectors.npy holds \(8, 10\) float32"):
        SearchIndex.load(tmp_path / "index")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda index: index.add(), TypeError, "needs texts, vectors, or both"),
        (lambda index: index.add(vectors=[[1.0] * 10]), ValueError, "this index has texts: pass them too"),
        (lambda index: index.add(["a"], [[1.0]]), ValueError, "vectors have 1 numbers each, the index has 10"),
        (lambda index: index.add(["a", "b"], [[1.0] * 10]), ValueError, "2 texts and 1 vectors"),
        (lambda index: index.add([3]), TypeError, r"sentences\[0\] is int 3"),
        (lambda index: index.search([[1.0]]), ValueError, "queries have 1 numbers each, the corpus has 10"),
        (lambda index: index.search(letters(["a"]), prompt="x"), TypeError, "prompt: vectors need no encoding"),
        (lambda index: index.search("a", 0), ValueError, "k is 0"),
        (lambda index: SearchIndex(letters(TEXTS)).search("a"), ValueError, "has no model to encode them"),
        (lambda index: SearchIndex(letters(TEXTS)).add(["a"]), ValueError, "has no texts: pass vectors alone"),
        (lambda index: SearchIndex(letters(TEXTS), metric="l2"), ValueError, "metric is 'l2'"),
        (lambda index: index.search("a", precision="binary"), ValueError, "precision is 'binary'.*search_quantized"),
        (lambda index: SearchIndex.build(TEXTS, letters, precision="int8"), ValueError, "only float32 vectors"),
    ],
)
def test_errors_of_an_index(call, error, message):
    index = SearchIndex.build(TEXTS, letters)
    with pytest.raises(error, match=message):
        call(index)
    assert len(index) == len(index.texts) == 8


def test_an_index_of_a_model(minilm, tmp_path):
    model = sentpool.SentenceEncoder(minilm)
    texts = ["A cat sleeps on the sofa.", "Stocks fell on Monday.", "The recipe needs two eggs."]
    index = SearchIndex.build(texts, model, batch_size=2)
    ids, _ = index.search("financial news", 1)
    assert index.texts[ids[0]] == texts[1]
    index.save(tmp_path / "index")
    assert_found(SearchIndex.load(tmp_path / "index", model).search("eggs", 3), index.search("eggs", 3))
    with pytest.warns(sentpool.SentpoolWarning, match=r"another model than the one given \(pooling differ\)"):
        SearchIndex.load(tmp_path / "index", sentpool.SentenceEncoder(minilm, pooling="cls"))


# ---- other libraries' indices ------------------------------------------------------------------------------------

APPROXIMATE = """
import sys
from sentpool.search import ApproximateIndex
rng = np.random.default_rng(0)
vectors, queries = (rng.standard_normal((n, 32), dtype=np.float32) for n in (2000, 50))
for metric in ("cosine", "dot", "euclidean"):
    index = ApproximateIndex(vectors, metric, engine=sys.argv[1], threads=2)
    found, truth = index.search(queries, 10), search(queries, vectors, 10, metric)
    assert found.ids.shape == (50, 10) and found.ids.dtype == np.int64 and found.scores.dtype == np.float32
    assert 0.8 < index.recall(queries, 10) <= 1
    both = [(set(a) & set(b)) for a, b in zip(found.ids.tolist(), truth.ids.tolist())]
    assert abs(index.recall(queries, 10) - sum(map(len, both)) / 500) < 1e-9
    scores = dict(zip(truth.ids[0].tolist(), truth.scores[0].tolist()))
    for i, score in zip(found.ids[0].tolist(), found.scores[0].tolist()):
        assert scores.get(i, score) == score
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert index.search(queries[0], 3).ids.shape == (3,)
    few = ApproximateIndex(vectors[:2], metric, engine=sys.argv[1])
    assert few.search(queries, 10).ids.shape == (50, 2)
for bad, error in ((lambda: ApproximateIndex([[np.nan]], engine=sys.argv[1]), ValueError),
                   (lambda: ApproximateIndex([[1.0]], engine=sys.argv[1], wrong=1), TypeError)):
    try:
        bad()
    except error:
        continue
    sys.exit("no error")
"""


@pytest.mark.parametrize("engine", ["usearch", "faiss"])
def test_approximate_indices(engine):
    """Each in a process of its own: the two libraries crash together."""
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"no {engine}")
    preamble = "import numpy as np\nfrom sentpool.search import search\n"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", preamble + APPROXIMATE, engine], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_missing_library_is_named(monkeypatch):
    from sentpool.search import ApproximateIndex

    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"engine='faiss' needs the library: pip install 'sentpool\[faiss\]'"):
        ApproximateIndex([[1.0]], engine="faiss")
    with pytest.raises(ValueError, match="engine is 'annoy'; it must be 'usearch' or 'faiss'"):
        ApproximateIndex([[1.0]], engine="annoy")
