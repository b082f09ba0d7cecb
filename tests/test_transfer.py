"""Transfer probes: regressions against SciPy's optimum, folds and choices against plain loops, files, errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sentpool import cli, evaluation
from sentpool.evaluation import TransferResult, logistic_regression
from sentpool.evaluation.labelled_data import read_labelled
from sentpool.evaluation.logistic_regression import fit, predict
from sentpool.evaluation.transfer_probe import _plan

optimize = pytest.importorskip("scipy.optimize")


def objective(flat, x, classes, strength, count):
    """½‖W‖² + C Σ loss, written out."""
    w = flat.reshape(1 if count == 2 else count, -1)
    logits = x @ w[:, :-1].T + w[:, -1]
    if count == 2:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    top = logits.max(axis=1)
    losses = top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(x)), classes]
    return np.square(w[:, :-1]).sum() / 2 + strength * losses.sum()


def optimum(x, classes, strength, count):
    size = (1 if count == 2 else count) * (x.shape[1] + 1)
    options = {"gtol": 1e-9, "maxiter": 5000}
    return optimize.minimize(objective, np.zeros(size), (x, classes, strength, count), method="BFGS", options=options).x


def clouds(count, n=60, d=3, seed=0, spread=1.5):
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % count
    return rng.normal(size=(count, d))[classes] + rng.normal(0, spread, (n, d)), classes


@pytest.mark.parametrize("count", [2, 3])
def test_regressions_reach_the_optimum(count):
    """Several at once, each on rows of its own, of features far from 0 and of unlike scales."""
    x, classes = clouds(count)
    x = x * [1, 30, 0.2] + [50, -7, 0]
    masks = np.random.default_rng(1).random((4, len(x))) < 0.7
    strengths = np.array([0.01, 0.25, 1, 8])
    found = fit(x, classes, masks, strengths)
    scale = np.array([1, 30, 0.2])
    for weights, mask, strength in zip(found, masks, strengths, strict=True):
        reached = objective(weights.ravel(), x[mask], classes[mask], strength, count)
        # SciPy gets the same problem in friendlier variables; it may stop anywhere above the true minimum.
        shifted = (x - [50, -7, 0]) / scale

        def in_them(flat, mask=mask, strength=strength, shifted=shifted):
            w = flat.reshape(1 if count == 2 else count, -1).copy()
            w[:, :-1] /= scale
            w[:, -1] -= w[:, :-1] @ [50, -7, 0]
            return objective(w.ravel(), x[mask], classes[mask], strength, count)

        best = optimize.minimize(in_them, np.zeros(weights.size), method="BFGS", options={"gtol": 1e-7})
        assert reached <= best.fun * (1 + 1e-8)


@pytest.mark.parametrize("count", [2, 4])
def test_weights_and_predictions_are_those_of_scipy(count):
    x, classes = clouds(count, seed=3)
    (found,) = fit(x, classes, np.ones((1, len(x)), bool), np.array([2.0]))
    expected = optimum(x, classes, 2.0, count).reshape(found.shape)
    assert found[:, :-1] == pytest.approx(expected[:, :-1], abs=1e-4)
    # The softmax leaves a common shift of all biases free.
    assert found[:, -1] - found[:, -1].mean() * (count > 2) == pytest.approx(
        expected[:, -1] - expected[:, -1].mean() * (count > 2), abs=1e-3
    )
    w = np.concatenate([np.zeros((1, 4)), expected]) if count == 2 else expected
    assert np.array_equal(predict(x, found), (x @ w[:, :-1].T + w[:, -1]).argmax(axis=1))


def test_two_points_by_hand():
    """x = ±1: the bias is 0 and w = 2 C / (1 + exp(w))."""
    (found,) = fit(np.array([[1.0], [-1.0]]), np.array([1, 0]), np.ones((1, 2), bool), np.array([3.0]))
    w, bias = found[0]
    assert bias == pytest.approx(0, abs=1e-9)
    assert w == pytest.approx(6 / (1 + math.exp(w)), abs=1e-5)


def test_problems_do_not_depend_on_their_neighbours(monkeypatch):
    x, classes = clouds(3)
    masks = np.random.default_rng(2).random((5, len(x))) < 0.8
    strengths = np.array([0.1, 1, 2, 4, 8])
    together = fit(x, classes, masks, strengths)
    monkeypatch.setattr(logistic_regression, "_COLUMNS", 1)
    alone = fit(x, classes, masks, strengths)
    assert together == pytest.approx(alone, abs=1e-9)


def test_one_that_does_not_converge_is_told(monkeypatch):
    monkeypatch.setattr(logistic_regression, "_MOST_ITERATIONS", 1)
    x, classes = clouds(2)
    with pytest.warns(UserWarning, match="1 of 1 logistic regressions did not converge"):
        fit(x, classes, np.ones((1, len(x)), bool), np.array([8.0]))


# ---- folds and choices ---------------------------------------------------------------------------------------------


def write(path, classes, texts=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"text {k} of {path.stem}" for k in range(len(classes))] if texts is None else texts
    path.write_text("".join(f"c{label}\t{text}\n" for label, text in zip(classes, texts, strict=True)))
    return texts


class Embedder:
    """Vectors by text; remembers how often it was asked."""

    def __init__(self):
        self.known, self.calls = {}, 0

    def learn(self, texts, vectors):
        self.known.update(zip(texts, vectors.astype(np.float32), strict=True))

    def __call__(self, texts):
        self.calls += 1
        assert len(set(texts)) == len(texts)
        return np.stack([self.known[text] for text in texts])


def test_folds_are_stratified(tmp_path):
    classes = [0] * 23 + [1] * 9 + [2] * 5
    write(tmp_path / "x.tsv", classes)
    (task,) = read_labelled(tmp_path)
    plan = _plan(task, 4, None, 0)
    tests = np.array([one.test for one in plan.rounds])
    assert (tests.sum(axis=0) == 1).all()
    assert set(tests.sum(axis=1)) == {9, 10}
    for number, size in ((0, 23), (1, 9), (2, 5)):
        in_each = tests[:, np.array(classes) == number].sum(axis=1)
        assert set(in_each) <= {size // 4, size // 4 + 1}
    for one in plan.rounds:
        assert not (one.train & one.test).any()
        inner = np.array([test for _, test in one.validations])
        assert np.array_equal(inner.sum(axis=0), one.train)
        assert all((train | test).tolist() == one.train.tolist() for train, test in one.validations)
        assert not any((train & test).any() for train, test in one.validations)
    again, other = _plan(task, 4, None, 0), _plan(task, 4, None, 1)
    assert np.array_equal(tests, [one.test for one in again.rounds])
    assert not np.array_equal(tests, [one.test for one in other.rounds])


@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "dev", "test")])
@pytest.mark.parametrize("count", [2, 3])
def test_the_protocol_is_that_of_plain_loops(tmp_path, parts, count):
    """SentEval's three ways, with SciPy's optimum in place of our regressions."""
    embed, data = Embedder(), {}
    for k, part in enumerate(parts):
        vectors, classes = clouds(count, n=36, seed=k, spread=2)
        texts = write(tmp_path / "t.tsv" if not part else tmp_path / "t" / f"{part}.tsv", classes)
        embed.learn(texts, vectors)
        data[part] = np.stack([embed.known[text] for text in texts]).astype(float), classes
    strengths = (0.02, 1.0, 50.0)
    result = evaluation.transfer(embed, tmp_path, folds=4, strengths=strengths)
    assert embed.calls == 1

    def answers(train, test, strength):
        w = optimum(*train, strength, count).reshape(1 if count == 2 else count, -1)
        w = np.concatenate([np.zeros((1, 4)), w]) if count == 2 else w
        return (test[0] @ w[:, :-1].T + w[:, -1]).argmax(axis=1)

    def chosen(validations):
        scores = [
            round(np.mean([np.mean(answers(train, test, c) == test[1]) for train, test in validations]), 4)
            for c in strengths
        ]
        return strengths[scores.index(max(scores))]

    def picked(masks, part):
        return tuple((data[part][0][mask], data[part][1][mask]) for mask in masks)

    (task,) = read_labelled(tmp_path)
    rounds = _plan(task, 4, strengths, 0).rounds
    if parts == ("",):
        expected, best = np.empty(36, dtype=int), []
        for one in rounds:
            best.append(chosen([picked(masks, "") for masks in one.validations]))
            expected[one.test] = answers(*picked((one.train, one.test), ""), best[-1])
    else:
        (one,) = rounds
        n = 36
        if "dev" in parts:
            best = [chosen([(data["train"], data["dev"])])]
        else:
            best = [chosen([picked([mask[:n] for mask in masks], "train") for masks in one.validations])]
        expected = answers(data["train"], data["test"], best[0])
    assert result["t"].strengths == best
    assert np.array_equal(result["t"].answers, expected)
    assert result.accuracy("t") == np.mean(expected == data[parts[-1]][1])


def test_grids_are_sentevals(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / "a" / f"{part}.tsv", [0, 1] * 10)
    write(tmp_path / "b.tsv", [0, 1] * 10)
    by_name = {task.name: _plan(task, 10, None, 0) for task in read_labelled(tmp_path)}
    assert by_name["a"].strengths == (0.5, 1, 2, 4, 8, 16, 32)
    assert by_name["b"].strengths == (0.25, 0.5, 1, 2, 4, 8)
    assert by_name["b"].fits == 10 * (10 * 6 + 1)


def test_labels_of_the_test_texts_are_not_looked_at(tmp_path):
    embed = Embedder()
    found = []
    for flip in (False, True):
        folder = tmp_path / str(flip)
        for k, part in enumerate(("train", "test")):
            vectors, classes = clouds(2, n=40, seed=k)
            embed.learn(write(folder / "t" / f"{part}.tsv", 1 - classes if flip and k else classes), vectors)
        found.append(evaluation.transfer(embed, folder, folds=4))
    assert np.array_equal(found[0]["t"].answers, found[1]["t"].answers)
    assert found[0].accuracy("t") == pytest.approx(1 - found[1].accuracy("t"))


# ---- the result ----------------------------------------------------------------------------------------------------


@pytest.fixture
def result(tmp_path):
    embed = Embedder()
    for name, count, spread in (("MR", 2, 1.0), ("TREC", 3, 2.0)):
        vectors, classes = clouds(count, n=120, spread=spread)
        embed.learn(write(tmp_path / "data" / f"{name}.tsv", classes), vectors)
    return evaluation.transfer(embed, tmp_path / "data", folds=3, strengths=[1])


def test_numbers_and_tables(result):
    assert list(result) == ["MR", "TREC"]
    assert result["TREC"].majority == pytest.approx(1 / 3)
    assert 0.5 < result.accuracy("MR") <= 1
    assert result.average() == pytest.approx((result.accuracy("MR") + result.accuracy("TREC")) / 2)
    # The bootstrap of a share against the normal approximation of its standard error.
    share = result.accuracy("TREC")
    low, high = result.interval("TREC")
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 120), rel=0.15)
    pytest.importorskip("pandas")
    frame = result.to_frame()
    assert frame.loc["TREC", ["accuracy", "low", "high"]].tolist() == [share, low, high]
    assert f"{100 * share:.2f}" in repr(result)
    assert f"{100 * low:.2f}–{100 * high:.2f}" in result._repr_html_()
    with pytest.raises(KeyError, match="'CR' is not among MR, TREC"):
        result["CR"]


def test_saved_and_loaded(result, tmp_path):
    result.save(tmp_path / "r.json")
    again = TransferResult.load(tmp_path / "r.json")
    assert repr(again) == repr(result)
    assert np.array_equal(again["MR"].answers, result["MR"].answers)
    assert json.loads((tmp_path / "r.json").read_text())["tasks"]["MR"]["accuracy"] == result.accuracy("MR")
    without = TransferResult(result.tasks)
    assert "interval" not in repr(without)
    with pytest.raises(ValueError, match="made with resamples=0"):
        without.interval("MR")


def test_two_results_are_compared_text_by_text(result, tmp_path):
    worse = TransferResult.load(save(result, tmp_path / "a.json"))
    answers, right = worse["MR"].answers, np.flatnonzero(worse["MR"].right)
    answers[right[:20]] = 1 - answers[right[:20]]
    found = evaluation.compare(result, worse)
    row = next(row for row in found.rows if row["task"] == "MR")
    assert row["diff"] == pytest.approx(result.accuracy("MR") - worse.accuracy("MR"))
    # Paired: only the texts that one of them gets right vary.
    differences = result["MR"].right - worse["MR"].right
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * differences.std() / math.sqrt(120), rel=0.15)
    assert [found.verdict(row) for row in found.rows] == ["a higher", "equal"]
    assert "accuracy ×100" in repr(found) and "texts" in repr(found) and "Williams" not in repr(found)
    worse["MR"].gold[0] = 1 - worse["MR"].gold[0]
    found = evaluation.compare(tmp_path / "a.json", worse)
    assert any("MR is not tested: the labels differ" in note for note in found.words)


def save(result, path):
    result.save(path)
    return path


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\tx\n\nno tab\n", r"x\.tsv:3: a line is a label, a tab and a text"),
        ("a\tx\n\tno label\n", r"x\.tsv:2: a line is"),
        ("a\tx\nb\t \n", r"x\.tsv:2: a line is"),
        ("a\tx\na\ty\n", "every text has the label 'a'"),
        ("\n", "holds no labelled text"),
        ("a\tx\n" * 9 + "b\ty\n" * 3, "3 texts have the label 'b'; folds=5 needs 5 of every class"),
        (b"a\tx\nb\t\xff\n", r"x\.tsv:2: not UTF-8"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    (tmp_path / "x.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        evaluation.transfer(len, tmp_path, folds=5)


def test_folders_and_arguments_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist: expected NAME\.tsv"):
        evaluation.transfer(len, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no task in"):
        evaluation.transfer(len, tmp_path)
    write(tmp_path / "x" / "train.tsv", [0, 1] * 5)
    write(tmp_path / "x" / "test.tsv", [0, 2])
    with pytest.raises(ValueError, match=r"x: test\.tsv has the label 'c2', which train\.tsv has not"):
        evaluation.transfer(len, tmp_path)
    write(tmp_path / "x.tsv", [0, 1] * 5)
    with pytest.raises(ValueError, match="holds x both as a .tsv file and as a folder"):
        evaluation.transfer(len, tmp_path)
    (tmp_path / "x.tsv").rename(tmp_path / "y.tsv")
    with pytest.raises(ValueError, match="tasks holds 'z': the folder has y, x"):
        evaluation.transfer(len, tmp_path, "z")
    with pytest.raises(ValueError, match="tasks is empty"):
        evaluation.transfer(len, tmp_path, [])
    with pytest.raises(ValueError, match="folds is 1"):
        evaluation.transfer(len, tmp_path, folds=1)
    with pytest.raises(ValueError, match=r"strengths\[1\] is 0"):
        evaluation.transfer(len, tmp_path, strengths=[1, 0])
    with pytest.raises(TypeError, match="strengths is 3"):
        evaluation.transfer(len, tmp_path, strengths=3)
    with pytest.raises(TypeError, match="folder is 7"):
        evaluation.transfer(len, 7)


def test_the_folder_may_be_the_task(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / "SST2" / f"{part}.tsv", [0, 1] * 5)
    (task,) = read_labelled(tmp_path / "SST2")
    assert (task.name, list(task.parts)) == ("SST2", ["train", "test"])


def test_the_command_line(minilm, tmp_path, capsys):
    """Which of four kinds a sentence of the sample is: real vectors know it."""
    lines = []
    for path in sorted(evaluation.sample_folder().glob("*.tsv")):
        lines += [f"{path.stem}\t{line.split(chr(9))[1]}" for line in path.read_text(encoding="utf-8").splitlines()]
    (tmp_path / "kinds.tsv").write_text("\n".join(lines), encoding="utf-8")
    target = tmp_path / "out.json"
    assert cli.main(["transfer", str(minilm), str(tmp_path), "--folds", "5", "--json", str(target)]) == 0
    assert "kinds" in capsys.readouterr().out
    result = TransferResult.load(target)
    assert result["kinds"].classes == ["captions", "headlines", "instructions", "questions"]
    assert result.accuracy("kinds") > 0.6
    assert result.encoding["sentences"] == len({line.split("\t")[1] for line in lines})
