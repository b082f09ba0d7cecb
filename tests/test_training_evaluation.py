"""Evaluations of a run, its best and its last model, and the same from the shell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fabricate import bert_folder
from training_runs import TEXTS, TRIPLETS, bits, quiet, scored, trained

from sentpool import SentenceEncoder, Trainer, cli, evaluation
from sentpool.training import History
from sentpool.training.output_folder import OutputFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("model"))


# ---- evaluation, best and last ---------------------------------------------------------------------------------------


def test_the_best_model_is_kept_apart(folder, tmp_path):
    model, history = trained(folder, output_dir=tmp_path, eval_data=scored(), eval_steps=2, max_steps=8)
    assert [row["step"] for row in history.evaluations] == [0, 2, 4, 6, 8]
    best = SentenceEncoder(tmp_path / "best")
    folder_of_pairs = tmp_path / "dev"
    folder_of_pairs.mkdir()
    (folder_of_pairs / "dev.tsv").write_text("".join(f"{s}\t{a}\t{b}\n" for a, b, s in scored()))
    _, same = trained(folder, eval_data=folder_of_pairs, eval_steps=2, max_steps=8)
    assert same.evaluations == history.evaluations
    result = evaluation.sts(best, folder_of_pairs, resamples=0)
    assert result["dev"].spearman.all == pytest.approx(history.best["score"], abs=1e-12)
    np.testing.assert_array_equal(SentenceEncoder(tmp_path / "last").encode(TEXTS), model.encode(TEXTS))
    loaded = History.load(tmp_path / "log.jsonl")
    assert repr(loaded.log) == repr(history.log) and loaded.evaluations == history.evaluations
    assert loaded.settings["batch_size"] == 8


def test_evaluation_does_not_change_training(folder):
    with_it, history = trained(folder, eval_data=scored(), eval_steps=1)
    assert bits(with_it) == bits(trained(folder)[0])
    vectors = SentenceEncoder(folder, pooling="mean").encode(TEXTS[:31])
    expected = evaluation.uniformity(vectors)
    assert history.evaluations[0]["uniformity"] == pytest.approx(expected, rel=1e-6)
    positive = [k for k in range(30) if k % 5 == 4]
    apart = evaluation.alignment(vectors[positive], vectors[[k + 1 for k in positive]])
    assert history.evaluations[0]["alignment"] == pytest.approx(apart, rel=1e-6)


def test_layer_weights_over_time(folder):
    model = SentenceEncoder(folder)
    with quiet():
        history = Trainer(
            model, pooling="scalar_mix", batch_size=8, max_steps=6, learning_rate=1e-2, eval_data=scored(), eval_steps=3
        ).fit(TEXTS)
    weights = np.array([row["layer_weights"] for row in history.evaluations])
    np.testing.assert_allclose(weights[0], 1 / 3, rtol=1e-6)
    mix = model.pooling.parameters()["layers.weights"].astype(float)
    gamma = float(model.pooling.parameters()["layers.gamma"][0])
    np.testing.assert_allclose(weights[-1], gamma * np.exp(mix) / np.exp(mix).sum(), rtol=1e-5)


def test_the_best_model_is_there_though_its_saving_was_broken_off(folder, tmp_path, monkeypatch):
    save, broken = OutputFolder.save_model, []

    def breaking(self, model, name):
        if name == "best" and not broken:
            broken.append(True)
            raise KeyboardInterrupt
        save(self, model, name)

    monkeypatch.setattr(OutputFolder, "save_model", breaking)
    options = {"eval_data": lambda model: 0.5, "eval_steps": 3, "output_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        trained(folder, **options)
    _, history = trained(folder, resume=True, **options)
    assert [row["step"] for row in history.evaluations] == [0, 3, 6]
    SentenceEncoder(tmp_path / "best")


def test_a_function_can_be_the_score(folder):
    scores = iter([0.1, 0.3, 0.2])
    _, history = trained(folder, eval_data=lambda model: next(scores), eval_steps=3)
    assert history.best == {"step": 3, "score": 0.3}
    with pytest.raises(FileNotFoundError, match="the data .nowhere. does not exist"):
        trained(folder, eval_data="nowhere")
    with pytest.raises(TypeError, match="eval_data gave str 'high'; expected a number"):
        trained(folder, eval_data=lambda model: "high")


@pytest.mark.parametrize(
    ("data", "message"),
    [(TEXTS, "two sentences and a score per item"), ([("a", "b", 1), ("c", "d", 1)], "a single score for all pairs")],
)
def test_bad_eval_data(folder, data, message):
    with pytest.raises(ValueError, match=message):
        trained(folder, eval_data=data)


# ---- the command line ------------------------------------------------------------------------------------------------


def test_train_from_the_shell(folder, tmp_path, capsys):
    (tmp_path / "nli.csv").write_text("sent0,sent1,hard_neg\n" + "".join(",".join(row) + "\n" for row in TRIPLETS))
    (tmp_path / "dev.tsv").write_text("".join(f"{s}\t{a}\t{b}\n" for a, b, s in scored()))
    run = tmp_path / "run"
    command = ["train", folder, tmp_path / "nli.csv", "--output", run, "--objective", "simcse-sup", "--max-steps", 4]
    command += ["--batch-size", 8, "--pooling", "mean", "--eval", tmp_path / "dev.tsv", "--eval-steps", 2]
    command = [str(word) for word in command]
    with quiet():
        assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "History(4 steps, loss" in out and f"{run}/best" in out and f"saved {run}/last" in out
    model = SentenceEncoder(folder, pooling="mean")
    with quiet():
        Trainer(model, "simcse-sup", max_steps=4, batch_size=8).fit(TRIPLETS)
    np.testing.assert_array_equal(SentenceEncoder(run / "last").encode(TEXTS), model.encode(TEXTS))
    with quiet():
        assert cli.main(command) == 1
        assert "resume=True" in capsys.readouterr().err
        assert cli.main([*command, "--resume"]) == 0
    capsys.readouterr()
    pairs = [*command[:2], str(tmp_path / "dev.tsv"), "--output", str(tmp_path / "pairs"), "--max-steps", "2"]
    assert cli.main([*pairs, "--objective", "cosent", "--temperature", "0.1", "--freeze-embeddings"]) == 0
    same = [str(tmp_path / "same") if word.endswith("/pairs") else word for word in pairs]
    assert cli.main([*same, "--objective", "cosent", "--scale", "10", "--freeze-embeddings"]) == 0
    vectors = [SentenceEncoder(tmp_path / name / "last").encode(TEXTS) for name in ("pairs", "same")]
    np.testing.assert_array_equal(*vectors)
    capsys.readouterr()
    for wrong, message in (
        (["--temperature", "0"], "temperature is 0.0; it must be a number above 0"),
        (["--temperature", "0.1", "--scale", "10"], "temperature is 0.1 and scale, its reciprocal, is 10.0; give one"),
    ):
        for objective in ("cosent", "simcse-unsup"):
            assert cli.main([*pairs, "--objective", objective, *wrong]) == 1
            assert message in capsys.readouterr().err
    assert cli.main([*command[:2], str(tmp_path / "no.csv"), "--output", str(tmp_path / "x")]) == 1
    assert "no.csv" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
