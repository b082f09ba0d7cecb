"""Training data: what is accepted, what is refused and how that is said; which items make a batch."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy_dropout
import pytest

from sentpool.training import TrainingData
from sentpool.training.batches import Batches, permutation, philox

TRIPLETS = [("a cat", "a kitten", "a stone"), ("it rains", "rain, and more", "it's dry")]


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ---- from Python ----------------------------------------------------------------------------------------------------


def test_texts_pairs_triplets_and_scored_pairs():
    assert TrainingData.of(["a", "b"]).columns == (["a", "b"],)
    assert TrainingData.of([("a", "b"), ["c", "d"]]).columns == (["a", "c"], ["b", "d"])
    assert TrainingData.of(iter(TRIPLETS)).columns == tuple(map(list, zip(*TRIPLETS, strict=True)))
    for items in ([("a", "b", 1), ("c", "d", 0.5)], [(1, "a", "b"), (np.float32(0.5), "c", "d")]):
        scored = TrainingData.of(items)
        assert scored.columns == (["a", "c"], ["b", "d"])
        assert scored.scores.tolist() == [1, 0.5] and scored.scores.dtype == np.float64
    named = TrainingData.of([{"anchor": "a", "positive": "b", "score": 2}])
    assert named.columns == (["a"], ["b"]) and named.scores.tolist() == [2]
    assert len(named) == 1 and repr(named) == "TrainingData(1 scored pairs of data)"
    assert TrainingData.of(named) is named


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (5, TypeError, "data must be a file, or a sequence"),
        ({"a": ["b"]}, TypeError, "not dict"),
        ([], ValueError, "data is empty"),
        (["a", ("b",)], TypeError, r"data\[1\] is tuple \('b',\), and the first item is a text"),
        ([("a", "b"), ("a",)], ValueError, r"data\[1\] is tuple of 1; the first item has 2 fields"),
        ([("a", "b"), "cd"], ValueError, r"data\[1\] is str 'cd'; the first item has 2 fields"),
        ([("a", "b", "c", "d")], ValueError, "expected a text, one to 3 texts"),
        ([("a", 1)], ValueError, "two texts and a score"),
        ([("a", None)], TypeError, r"data\[0\] holds NoneType None where a text belongs"),
        ([("a", float("nan"), "c")], ValueError, r"data\[0\] is"),
        ([("a", "b", "0.5"), ("c", "d", "1")], ValueError, "column 3 of 3 holds numbers .*give numbers, not str"),
        (["a", " \t"], ValueError, r"data\[1\] has an empty text"),
        ([("a", "b", 1), ("a", "b", float("nan"))], ValueError, r"data\[1\] has the score nan"),
        ([("a", "b", 1), ("a", "b", "high")], ValueError, r"data\[1\] has the score 'high'"),
        ([{"x": "a"}, {"y": "a"}], ValueError, r"data\[1\] has no 'x'; it has 'y'"),
        ([{"x": "a", "y": "b", "z": "c", "w": "d"}], ValueError, "choose with TrainingData.read"),
        ([{"x": "a"}, "b"], TypeError, "the first item has named fields"),
    ],
)
def test_bad_data_is_named(data, error, message):
    with pytest.raises(error, match=message):
        TrainingData.of(data)


def test_a_data_frame_is_answered_with_the_remedy():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": ["x"], "b": ["y"]})
    with pytest.raises(TypeError, match=r"list\(zip\(frame\['a'\], frame\['b'\]\)\)"):
        TrainingData.of(frame)
    assert TrainingData.of(zip(frame["a"], frame["b"], strict=True)).columns == (["x"], ["y"])


# ---- from files -----------------------------------------------------------------------------------------------------

FILES = {
    "simcse.csv": 'sent0,sent1,hard_neg\r\na cat,a kitten,a stone\r\nit rains,"rain, and more",it\'s dry\r\n',
    "bom.csv": '\ufeffsent0,sent1,hard_neg\na cat,a kitten,a stone\n\nit rains,"rain, and more",it\'s dry\n',
    "plain.tsv": "a cat\ta kitten\ta stone\nit rains\train, and more\tit's dry\n",
    "named.tsv": "anchor\tpositive\tnegative\na cat\ta kitten\ta stone\n\nit rains\train, and more\tit's dry",
    "objects.jsonl": "\n".join(json.dumps(dict(zip("xyz", item, strict=True))) for item in TRIPLETS),
    "lists.jsonl": "\n".join(map(json.dumps, TRIPLETS)),
}


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_holds_the_same(tmp_path, name):
    data = TrainingData.of(write(tmp_path, name, FILES[name]))
    assert list(zip(*data.columns, strict=True)) == TRIPLETS
    assert data.fingerprint == TrainingData.of(TRIPLETS).fingerprint
    assert name in repr(data)


def test_a_text_file_is_cut_at_newlines_alone(tmp_path):
    path = write(tmp_path, "texts.txt", "one\u2028line\n\n  two \r\nthree")
    assert TrainingData.of(str(path)).columns == (["one\u2028line", "  two ", "three"],)


def test_columns_are_chosen_by_name(tmp_path):
    path = write(tmp_path, "wide.csv", "id,sentence1,sentence2,genre,score\n7,a,b,news,0.5\n8,c,d,news,1\n")
    with pytest.raises(ValueError, match="wide.csv:2 has the fields 'id', 'sentence1'.*columns"):
        TrainingData.read(path)
    assert TrainingData.read(path, ("sentence2", "sentence1")).columns == (["b", "d"], ["a", "c"])
    scored = TrainingData.read(path, ["sentence1", "sentence2", "score"])
    assert scored.columns == (["a", "c"], ["b", "d"]) and scored.scores.tolist() == [0.5, 1]
    with pytest.raises(ValueError, match="has no 'sentence3'"):
        TrainingData.read(path, ["sentence3"])
    with pytest.raises(ValueError, match="columns is"):
        TrainingData.read(path, [])
    with pytest.raises(ValueError, match="no names of columns"):
        TrainingData.read(write(tmp_path, "a.txt", "a\n"), ["text"])


def test_evaluation_tsv_files_are_scored_pairs(tmp_path):
    for text in ("4.5\ta\tb\n0\tc\td\n", "a\tb\t4.5\nc\td\t0\n"):
        data = TrainingData.read(write(tmp_path, "sts.tsv", text))
        assert data.scores.tolist() == [4.5, 0] and data.columns == (["a", "c"], ["b", "d"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "a", r"a.xml: files of sentences end in .txt, .csv, .tsv, .jsonl"),
        ("a.txt", "\n \n", "a.txt is empty"),
        ("a.txt", b"\xff\xfe", "a.txt:1: byte 1 of the line is not UTF-8"),
        ("a.csv", b"a,b\nx,y\nz,caf\xe9\n", "a.csv:3: byte 6 of the line is not UTF-8"),
        ("a.csv", "sent0;sent1\na;b\n", "a.csv:1: fields of a .csv file stand between commas, .* has ';' instead"),
        ("a.csv", "sent0\tsent1\na\tb\n", r"a.csv:1: .* has '\\t' instead"),
        ("a.csv", "id,sent0,sent1\n1,a,b\n2,c,d\n", "column 1 of 3 holds numbers .'2', ….*leave it out"),
        ("a.csv", "one,two,sim\na,b,0.5\nc,d,1\n", "column 3 of 3 holds numbers .*name it 'score'"),
        ("a.tsv", "A\tB\tSim\na\tb\t0.5\nc\td\t1\n", "column 3 of 3 holds numbers"),
        ("a.tsv", "x\ty\t1\nx\ty\tz\n", "a.tsv:2: the last field is 'z'; in the lines above it is a score"),
        ("a.tsv", "1\tx\ty\nx\ty\n", "a.tsv:2 is list of 2; the first item has 3 fields"),
        ("a.jsonl", '{"text": "a", "id": 5}\n', "a.jsonl:1 has 5 in 'id', where a text belongs: choose with"),
        ("a.csv", "a,a\nx,y\n", "a.csv:1: the first line must name the columns, each differently"),
        ("a.csv", "a,b\nx,y\nz\n", "a.csv:3: 1 fields, and the first line names 2"),
        ("a.csv", 'a,b\nx,"y\n', "a.csv:2: unexpected end of data"),
        ("a.csv", "a,b\nx,y\nz,\n", "a.csv:3 has an empty text"),
        ("a.csv", "a,b,label\nx,y,neutral\n", "a.csv:2 has the score 'neutral'"),
        ("a.tsv", "1\tx\ty\nz\tx\ty\n", "a.tsv:2: the first field is 'z'; in the lines above it is a score"),
        ("a.tsv", "text\tsentence\nx\n", "a.tsv:2: 1 fields between tabs"),
        ("a.jsonl", '["x"]\n{"x"\n', "a.jsonl:2: no JSON"),
        ("a.jsonl", '["x"]\n3\n', "a.jsonl:2 is int 3"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        TrainingData.read(write(tmp_path, name, text))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        TrainingData.of(tmp_path / "no.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(FileNotFoundError, match="is not a file"):
        TrainingData.of(tmp_path / "folder.txt")


def test_simcse_file_as_it_is(data_dir):
    data = TrainingData.read(data_dir / "nli" / "snli_dev_triplets.csv")
    assert len(data.columns) == 3 and data.scores is None
    assert data.columns[2][0] == "The men are fighting outside a deli ."


def test_fingerprint_sees_every_change():
    base = TrainingData.of([("a", "b", 1), ("c", "d", 2)])
    others = [
        [("a", "b", 1), ("c", "d", 3)],
        [("a", "b"), ("c", "d")],
        [("c", "d", 2), ("a", "b", 1)],
        [("ab", "b", 1), ("c", "d", 2)],
        [("a", "c", 1), ("b", "d", 2)],
    ]
    digests = {TrainingData.of(items).fingerprint for items in others} | {base.fingerprint}
    assert len(digests) == len(others) + 1
    expected = hashlib.sha256(b"2 2\n1\na1\nc1\nb1\nd" + np.array([1, 2], "<f8").tobytes())
    assert base.fingerprint == expected.hexdigest()


# ---- batches --------------------------------------------------------------------------------------------------------


def test_philox_is_philox():
    rng = np.random.default_rng(0)
    counter = tuple(rng.integers(0, 2**32, 50, dtype=np.uint64) for _ in range(4))
    seed = 0x0123456789ABCDEF
    np.testing.assert_array_equal(np.stack(philox(counter, seed), -1), numpy_dropout.philox(counter, seed))


def test_permutations_are_uniform_and_differ_by_seed_and_epoch():
    for n in (0, 1, 2, 1000):
        assert sorted(permutation(n, 3, 0)) == list(range(n))
    assert not np.array_equal(permutation(1000, 3, 0), permutation(1000, 3, 1))
    assert not np.array_equal(permutation(1000, 3, 0), permutation(1000, 4, 0))
    counts: dict[tuple, int] = {}
    for seed in range(2400):
        order = tuple(permutation(4, seed, 0))
        counts[order] = counts.get(order, 0) + 1
    # 24 orders, 100 each on average, standard deviation 9.8
    assert len(counts) == 24 and 60 < min(counts.values()) <= max(counts.values()) < 145


def test_every_item_once_an_epoch_and_no_sentence_twice_in_a_batch():
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 400, 1000).tolist(), rng.integers(0, 5000, 1000).tolist()]
    batches = Batches(columns, 32, seed=5)
    for epoch in (0, 1, 7):
        plan = batches.epoch(epoch)
        assert sorted(np.concatenate(plan)) == list(range(1000))
        for batch in plan:
            assert 2 <= len(batch) <= 32
            sentences = [{column[i] for column in columns} for i in batch]
            assert sum(map(len, sentences)) == len(set().union(*sentences))
    assert sum(len(batch) == 32 for batch in batches.epoch(0)) >= 30
    again = Batches(columns, 32, seed=5)
    assert all(map(np.array_equal, again.epoch(7), batches.epoch(7)))


def test_order_of_the_data_without_shuffling():
    plan = Batches([list("abcdefg")], 3, seed=0, shuffle=False).epoch(4)
    assert [batch.tolist() for batch in plan] == [[0, 1, 2], [3, 4, 5]]  # the seventh item is alone
    plan = Batches([list("aabbcd")], 2, seed=0, shuffle=False).epoch(0)
    assert [batch.tolist() for batch in plan] == [[0, 2], [1, 3], [4, 5]]


def test_a_step_knows_its_epoch():
    batches = Batches([list(range(10))], 3, seed=1)
    assert batches.steps(2) == 6  # of ten items, one is left over
    for step in (0, 2, 3, 7, 5, 100):
        epoch, items = batches.at(step)
        assert epoch == step // 3
        np.testing.assert_array_equal(items, batches.epoch(epoch)[step % 3])


def test_many_copies_of_one_sentence_take_no_quadratic_time():
    columns = [["same"] * 60_000 + list(map(str, range(60_000)))]
    plan = Batches(columns, 64, seed=0).epoch(0)
    assert sum(map(len, plan)) >= 60_000
    with pytest.raises(ValueError, match="1 different sentences; a step needs at least two items"):
        Batches([["same"] * 5], 4, seed=0).epoch(0)
