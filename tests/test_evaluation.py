"""Reading STS data and scoring on it: SentEval's rules, the three aggregations, what is refused and how."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from sentpool import SentenceEncoder, evaluation
from sentpool.errors import SentpoolWarning
from sentpool.evaluation.similarity_data import DEFAULT_TASKS, SUBSETS, read_tasks, task_name

PAIRS = [
    ("a dog runs", "a dog is running", 4.8),
    ("a cat sleeps", "a bird sings", 1.2),
    ("two men talk", "two men talk loudly", 4.0),
    ("rain falls", "the sun shines", 0.6),
    ("she reads a book", "she reads a long book", 4.2),
]


def hashed_vectors(sentences):
    """Deterministic stand-in for a model: one count per hash of a letter pair."""
    vectors = np.zeros((len(sentences), 64), dtype=np.float32)
    for row, sentence in zip(vectors, sentences, strict=True):
        for pair in zip(sentence, sentence[1:], strict=False):
            row[zlib.crc32("".join(pair).encode()) % 64] += 1
    return vectors


def write_subset(folder, subset, pairs):
    folder.mkdir(parents=True, exist_ok=True)
    texts = "".join(f"{first}\t{second}\n" for first, second, _ in pairs)
    golds = "".join(f"{gold}\n" for *_, gold in pairs)
    (folder / f"STS.input.{subset}.txt").write_text(texts, encoding="utf-8")
    (folder / f"STS.gs.{subset}.txt").write_text(golds, encoding="utf-8")


@pytest.fixture
def sts16(tmp_path):
    """A folder with an STS16 of 2 to 5 pairs per subset."""
    sizes = (5, 4, 3, 2, 5)
    for shift, (subset, size) in enumerate(zip(SUBSETS["STS16"], sizes, strict=True)):
        pairs = [(f"{first} {shift}", second, gold) for first, second, gold in PAIRS[:size]]
        write_subset(tmp_path / "STS16-en-test", subset, pairs)
    return tmp_path


def write_tsv(folder, name, pairs):
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{gold}\t{first}\t{second}\n" for first, second, gold in pairs)
    (folder / f"{name}.tsv").write_text(lines, encoding="utf-8")


def test_three_aggregations(sts16):
    stats = pytest.importorskip("scipy.stats")
    with pytest.warns(SentpoolWarning, match="scored pairs"):
        result = evaluation.sts(hashed_vectors, sts16, "STS16")
    cosines, golds = [], []
    for shift, size in enumerate((5, 4, 3, 2, 5)):
        a = hashed_vectors([f"{first} {shift}" for first, *_ in PAIRS[:size]]).astype(np.float64)
        b = hashed_vectors([second for _, second, _ in PAIRS[:size]]).astype(np.float64)
        cosines.append((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
        golds.append(np.array([gold for *_, gold in PAIRS[:size]]))
    assert result.scores("STS16") == pytest.approx(np.concatenate(cosines), abs=1e-12)
    assert result.gold("STS16").tolist() == np.concatenate(golds).tolist()
    for coefficient, function in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        parts = [function(c, g).statistic for c, g in zip(cosines, golds, strict=True)]
        expected = (
            function(np.concatenate(cosines), np.concatenate(golds)).statistic,
            np.mean(parts),
            np.average(parts, weights=[5, 4, 3, 2, 5]),
        )
        assert getattr(result["STS16"], coefficient) == pytest.approx(expected, abs=1e-12)
        for subset, value in zip(SUBSETS["STS16"], parts, strict=True):
            assert getattr(result["STS16"].subsets[subset], coefficient) == pytest.approx(value, abs=1e-12)
    assert [part.n for part in result["STS16"].subsets.values()] == [5, 4, 3, 2, 5]


def test_senteval_reading_rules(tmp_path):
    place = tmp_path / "STS13-en-test"
    for subset in SUBSETS["STS13"]:
        write_subset(place, subset, PAIRS)
    write_subset(place, "SMT", PAIRS)  # in the original distribution, not in SentEval's STS13
    (place / "STS.input.FNWN.txt").write_bytes(
        b"  one \xc2\xa0 two\t three\r\nunscored\tpair\r\nfour\tfive \xe3\x80\x80six \r\n"
    )
    (place / "STS.gs.FNWN.txt").write_bytes(b"3.5\r\n\r\n 2 \r\n")
    data = read_tasks(tmp_path, ["STS13"])
    fnwn = data.tasks["STS13"].subsets[0]
    assert (fnwn.first, fnwn.second, fnwn.gold.tolist()) == (
        ["one two", "four"],
        ["three", "five six"],
        [3.5, 2.0],
    )
    assert [pairs.name for pairs in data.tasks["STS13"].subsets] == ["FNWN", "headlines", "OnWN"]
    assert any(note.startswith("STS13 FNWN has 2 scored pairs where SentEval has 189") for note in data.deviations)


def test_line_separator_inside_a_sentence(tmp_path):
    # STS12-16 are cut by splitlines(), which knows U+2028; STSB and SICK are read line by line and keep it.
    place = tmp_path / "STSBenchmark"
    place.mkdir()
    line = "main-news\theadlines\t2014\t0001\t4.000\tone\u2028two\tthree\textra\tfields\n"
    (place / "sts-test.csv").write_text(line, encoding="utf-8")
    (pairs,) = read_tasks(tmp_path, "STSB-test").tasks["STSB-test"].subsets
    assert (pairs.name, pairs.first, pairs.second) == ("", ["one two"], ["three"])


def test_sick_skips_its_header_and_joins_splits(tmp_path):
    place = tmp_path / "downstream" / "SICK"
    place.mkdir(parents=True)
    header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    for name, score in (("train", 1.5), ("trial", 2.5), ("test_annotated", 3.5)):
        (place / f"SICK_{name}.txt").write_text(f"{header}7\ta {name}\tb\t{score}\tNEUTRAL\n", encoding="utf-8")
    data = read_tasks(tmp_path)  # found below downstream/, as SentEval lays it out
    assert list(data.tasks) == ["SICKR-test", "SICKR-all"]
    (everything,) = data.tasks["SICKR-all"].subsets
    assert everything.first == ["a train", "a trial", "a test_annotated"]
    assert everything.gold.tolist() == [1.5, 2.5, 3.5]
    assert data.tasks["SICKR-test"].subsets[0].first == ["a test_annotated"]
    assert set(data.skipped) == set(DEFAULT_TASKS) - {"SICKR-test", "SICKR-all"}
    assert "STSB-dev needs the folder STSBenchmark/" in data.skipped["STSB-dev"]


@pytest.mark.parametrize("below", ["", "STS", "downstream/STS", "data/downstream/STS"])
def test_layouts_that_are_found(tmp_path, below):
    for subset in SUBSETS["STS16"]:
        write_subset(tmp_path / below / "STS16-en-test", subset, PAIRS)
    assert list(read_tasks(tmp_path).tasks) == ["STS16"]


def test_each_distinct_sentence_is_encoded_once(tmp_path):
    calls = []

    def model(sentences):
        calls.append(sentences)
        return hashed_vectors(sentences)

    write_tsv(tmp_path, "one", PAIRS)
    write_tsv(tmp_path, "two", [(b, a, gold) for a, b, gold in PAIRS])
    result = evaluation.sts(model, tmp_path)
    assert len(calls) == 1
    assert sorted(calls[0]) == sorted({s for first, second, _ in PAIRS for s in (first, second)})
    assert result.encoding["sentences"] == 10


def test_a_folder_of_tsv_is_one_task(tmp_path):
    write_tsv(tmp_path / "mine", "easy", PAIRS)
    write_tsv(tmp_path / "mine", "hard", PAIRS[:3])
    result = evaluation.sts(hashed_vectors, tmp_path / "mine")
    assert list(result) == ["mine"]
    assert {name: part.n for name, part in result["mine"].subsets.items()} == {"easy": 5, "hard": 3}
    assert result.skipped == {}
    assert list(evaluation.sts(hashed_vectors, tmp_path / "mine", ["mine"])) == ["mine"]


def test_a_folder_of_tsv_may_be_called_like_a_task(tmp_path):
    write_tsv(tmp_path / "sts-b", "pairs", PAIRS)
    for tasks in (None, "sts-b"):
        assert evaluation.sts(hashed_vectors, tmp_path / "sts-b", tasks).scores("sts-b").shape == (5,)


def test_zero_vectors_have_cosine_zero_and_equal_vectors_one(tmp_path):
    write_tsv(tmp_path, "pairs", [("zero", "x", 0), ("y", "zero", 1), ("same", "same", 5), ("x", "y", 3)])

    def model(sentences):
        return np.array([[0.0, 0.0] if s == "zero" else [0.1, {"x": 0.7}.get(s, 0.2)] for s in sentences])

    scores = evaluation.sts(model, tmp_path).scores(tmp_path.name)
    assert scores[:3].tolist() == [0.0, 0.0, 1.0]
    assert 0 < scores[3] < 1


def test_constant_cosines_are_nan_with_a_warning(tmp_path):
    write_tsv(tmp_path, "pairs", PAIRS)
    with pytest.warns(SentpoolWarning, match="undefined"):
        result = evaluation.sts(lambda sentences: np.ones((len(sentences), 3)), tmp_path)
    assert np.isnan(result.spearman(tmp_path.name))
    assert "nan" in repr(result)


def test_warning_points_at_the_caller(sts16):
    with pytest.warns(SentpoolWarning) as caught:
        evaluation.sts(hashed_vectors, sts16)
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("sts12", "STS12"),
        ("STS-B_test", "STSB-test"),
        ("STSBenchmark-dev", "STSB-dev"),
        ("SICK-R", "SICKR"),
        ("sick-test", "SICKR-test"),
        ("SICK-R all", "SICKR-all"),
        ("anything else", "anything else"),
    ],
)
def test_spellings(spelling, name):
    assert task_name(spelling) == name


def test_missing_tasks(sts16):
    with pytest.warns(SentpoolWarning):
        result = evaluation.sts(hashed_vectors, sts16)
    assert "STS12" in result.skipped
    assert "not scored: STS12" in repr(result)
    with pytest.raises(KeyError, match="was skipped"):
        result["STS12"]
    with pytest.raises(FileNotFoundError, match="STS12 needs the folder STS12-en-test/"):
        evaluation.sts(hashed_vectors, sts16, ["STS16", "STS12"])
    (sts16 / "STS16-en-test" / "STS.gs.headlines.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"STS\.gs\.headlines\.txt is missing"):
        evaluation.sts(hashed_vectors, sts16, "STS16")


def test_nothing_found_says_what_is_expected_and_where_it_is_had(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no STS task.*STS\.input\.MSRpar.*get_transfer_data.*senteval\.tar"):
        evaluation.sts(hashed_vectors, tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        evaluation.sts(hashed_vectors, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        evaluation.sts(hashed_vectors, tmp_path / "file")


def test_bad_task_names(tmp_path):
    with pytest.raises(ValueError, match="unknown task 'STS17': choose from STS12"):
        evaluation.sts(hashed_vectors, tmp_path, ["STS17"])
    with pytest.raises(ValueError, match="tasks is empty"):
        evaluation.sts(hashed_vectors, tmp_path, [])
    with pytest.raises(TypeError, match="tasks holds 12"):
        evaluation.sts(hashed_vectors, tmp_path, [12])


@pytest.mark.parametrize(
    "input_lines, gold_lines, message",
    [
        ("a\tb\nc d\n", "1\n2\n", r"STS\.input\.FNWN\.txt:2: 1 tab-separated fields"),
        ("a\tb\tc\n", "1\n", r"STS\.input\.FNWN\.txt:1: 3 tab-separated fields.*cut -f1,2"),
        ("a\tb\n", "x\n", r"STS\.gs\.FNWN\.txt:1: the score 'x' is not a number"),
        ("a\tb\n", "nan\n", r"STS\.gs\.FNWN\.txt:1: the score 'nan'"),
        ("a\tb\n", "1\n2\n", r"has 1 lines and STS\.gs\.FNWN\.txt has 2"),
        ("a\t \n", "1\n", r"STS\.input\.FNWN\.txt:1: an empty sentence"),
    ],
)
def test_malformed_lines_are_named(tmp_path, input_lines, gold_lines, message):
    place = tmp_path / "STS13-en-test"
    for subset in SUBSETS["STS13"]:
        write_subset(place, subset, PAIRS)
    (place / "STS.input.FNWN.txt").write_text(input_lines, encoding="utf-8")
    (place / "STS.gs.FNWN.txt").write_text(gold_lines, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_tasks(tmp_path)


def test_malformed_lists_are_named(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"3\tone\ttwo\n\n3\tone\n")
    with pytest.raises(ValueError, match=r"a\.tsv:3: 2 tab-separated fields; the score belongs in field 1 and"):
        read_tasks(tmp_path)
    (tmp_path / "a.tsv").write_bytes(b"3\tone\ttwo\n3\t\xff\ttwo\n")
    with pytest.raises(ValueError, match=r"a\.tsv:2: not UTF-8"):
        read_tasks(tmp_path)
    (tmp_path / "a.tsv").write_bytes(b"\n")
    with pytest.raises(ValueError, match="hold no scored pair"):
        read_tasks(tmp_path)


@pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")  # NumPy before 1.24
@pytest.mark.parametrize(
    "model, error, message",
    [
        (
            lambda s: np.zeros((len(s) - 1, 3)),
            ValueError,
            r"shape \(9, 3\) for 10 sentences: expected \(10, d\)",
        ),
        (lambda s: np.zeros(len(s)), ValueError, r"shape \(10,\)"),
        (lambda s: np.zeros((len(s), 0)), ValueError, r"shape \(10, 0\)"),
        (lambda s: [["text"]] * len(s), ValueError, "no array of numbers"),
        (lambda s: [[1.0]] * 4 + [[1.0, 2.0]] * 6, ValueError, "no array of numbers"),
        (lambda s: None, ValueError, "the model returned"),
        (
            lambda s: np.array([[np.nan] if t == "rain falls" else [1.0] for t in s]),
            ValueError,
            "'rain falls' holds NaN",
        ),
        (lambda s: np.ones((len(s), 3), complex), ValueError, r"no array of numbers \(its dtype is complex128\)"),
        (lambda s: [["1"]] * len(s), ValueError, r"no array of numbers \(its dtype is <U1\)"),
        ("all-MiniLM-L6-v2", TypeError, "expected a SentenceEncoder"),
    ],
)
def test_models_that_return_nonsense(tmp_path, model, error, message):
    write_tsv(tmp_path, "pairs", PAIRS)
    with pytest.raises(error, match=message):
        evaluation.sts(model, tmp_path)


def test_packed_bits_are_not_scored(tmp_path, minilm):
    write_tsv(tmp_path, "pairs", PAIRS)
    model = SentenceEncoder(minilm)
    with pytest.raises(ValueError, match="precision is 'ubinary': packed bits"):
        evaluation.sts(model, tmp_path, precision="ubinary")


def test_models_with_an_encode_method_get_the_options(tmp_path):
    class Model:
        def encode(self, sentences, **options):
            self.options = options
            return hashed_vectors(sentences).tolist()

    write_tsv(tmp_path, "pairs", PAIRS)
    model = Model()
    result = evaluation.sts(model, tmp_path, batch_size=7, show_progress_bar=False, prompt="query: ", threads=None)
    assert model.options == {"batch_size": 7, "show_progress_bar": False, "prompt": "query: "}
    assert result.encoding == {
        "sentences": 10, "dimension": 64, "truncated": None, "batch_size": 7, "prompt": "query: "
    }  # fmt: skip
    assert result.model["name"].endswith("Model")
    with pytest.raises(TypeError, match="prompt: only a model with an encode method"):
        evaluation.sts(hashed_vectors, tmp_path, prompt="query: ")


class EncodesOnly:
    def encode(self, sentences):
        return hashed_vectors(sentences)


class EncodesInBatches:
    def encode(self, sentences, *, batch_size):
        assert batch_size == 32
        return hashed_vectors(sentences)


@pytest.mark.parametrize("model, options", [(EncodesOnly(), set()), (EncodesInBatches(), {"batch_size"})])
def test_an_encode_method_gets_only_what_it_takes(tmp_path, model, options):
    write_tsv(tmp_path, "pairs", PAIRS)
    result = evaluation.sts(model, tmp_path, show_progress_bar=False)
    assert result.encoding.keys() == {"sentences", "dimension", "truncated"} | options
    with pytest.raises(TypeError, match="prompt: the encode method of the model takes no such option"):
        evaluation.sts(model, tmp_path, prompt="query: ")


def test_a_tensor_that_requires_grad(tmp_path):
    torch = pytest.importorskip("torch")
    write_tsv(tmp_path, "pairs", PAIRS)
    with pytest.raises(ValueError, match="the model returned no array of numbers .*requires grad"):
        evaluation.sts(lambda s: torch.ones(len(s), 3, requires_grad=True), tmp_path)


@pytest.mark.parametrize(
    "folder, tasks, message", [(None, None, "folder is None"), (7, None, "folder is 7"), (".", 5, "tasks is 5")]
)
def test_arguments_of_a_wrong_type_are_named(folder, tasks, message):
    with pytest.raises(TypeError, match=f"{message}: expected"):
        evaluation.sts(hashed_vectors, folder, tasks)


def test_real_data_have_the_pairs_they_should(data_dir):
    data = read_tasks(data_dir / "sts")
    assert {name: len(task) for name, task in data.tasks.items()} == {
        "STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186,
        "STSB-dev": 1500, "STSB-test": 1379, "SICKR-test": 4927, "SICKR-all": 9927,
    }  # fmt: skip
    assert data.deviations == []
    assert data.skipped == {}


# The first test that asks for the run waits until 27,868 sentences are encoded; the others share it.
whole_run = pytest.mark.timeout(600)


# all-MiniLM-L6-v2 under sentence-transformers and SentEval's rules. STS12's tolerance is wider: 79 of its
# pairs have equal tokens, so that rounding decides about ties.
@pytest.mark.slow
@whole_run
@pytest.mark.parametrize(
    "task, tolerance, expected",
    [
        ("STS12", 0.02, {"all": 72.370, "wmean": 71.067, "mean": 70.010}),
        ("STS13", 0.01, {"all": 80.600, "wmean": 78.971, "mean": 74.460}),
        ("STS14", 0.01, {"all": 75.600, "wmean": 77.232, "mean": 75.944}),
        ("STS15", 0.01, {"all": 85.390, "wmean": 83.842, "mean": 83.400}),
        ("STS16", 0.01, {"all": 78.986, "wmean": 81.214, "mean": 81.318}),
        ("STSB-dev", 0.01, {"all": 86.716}),
        ("STSB-test", 0.01, {"all": 82.033}),
        ("SICKR-test", 0.01, {"all": 77.147}),
        ("SICKR-all", 0.01, {"all": 77.582}),
    ],
)
def test_minilm_scores_what_it_should(minilm_scores, task, tolerance, expected):
    for aggregation, value in expected.items():
        assert 100 * minilm_scores.spearman(task, aggregation) == pytest.approx(value, abs=tolerance), aggregation


@pytest.mark.slow
@whole_run
def test_minilm_result_is_reproducible_from_what_it_holds(minilm_scores):
    assert minilm_scores.encoding["sentences"] == 27868
    assert minilm_scores.encoding["truncated"] >= 0
    assert len(minilm_scores.data["sha256"]) == 24 * 2 + 2 + 3
    assert minilm_scores.average() is not None


def test_a_model_that_cannot_describe_itself_fails_before_the_long_part(tmp_path):
    class Model:
        encoded = False

        def encode(self, sentences, **options):
            self.encoded = True
            return hashed_vectors(sentences)

        def provenance(self):
            raise OSError("the weights are gone")

    write_tsv(tmp_path / "mine", "a", PAIRS)
    model = Model()
    with pytest.raises(OSError, match="the weights are gone"):
        evaluation.sts(model, tmp_path / "mine")
    assert not model.encoded
