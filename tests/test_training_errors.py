"""What goes wrong in training, and what is refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from fabricate import bert_folder
from training_runs import TEXTS, TRIPLETS, bits, quiet, trained

from sentpool import SentenceEncoder, Trainer
from sentpool.errors import SentpoolWarning
from sentpool.objectives import InfoNCE
from sentpool.pooling import Layers, Pooling


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("model"))


class Failing(InfoNCE):
    """A loss that is not finite at some calls."""

    def __init__(self, bad, gradient=False):
        super().__init__()
        self.bad, self.gradient, self.calls = bad, gradient, 0

    def __call__(self, embeddings, scores=None, threads=None):
        loss, d_embeddings = super().__call__(embeddings, scores, threads)
        self.calls += 1
        if self.calls in self.bad:
            return (loss, np.full_like(d_embeddings, np.inf)) if self.gradient else (math.nan, d_embeddings)
        return loss, d_embeddings


@pytest.mark.parametrize("gradient", [False, True])
def test_a_step_that_is_not_finite_is_not_taken(folder, gradient):
    states = {}

    def note(model, row):
        states[row["step"]] = bits(model)

    model = SentenceEncoder(folder, pooling="mean")
    trainer = Trainer(model, Failing({3}, gradient), batch_size=8, max_steps=6, callbacks=[note])
    what = "gradient" if gradient else "loss"
    with pytest.warns(SentpoolWarning, match=f"step 3: the {what} is not finite, and the step is not taken"):
        history = trainer.fit(TEXTS)
    assert states[2] == states[3] != states[4]
    assert math.isfinite(history.log[2]["loss"]) == gradient
    assert np.isfinite(model.encode(TEXTS)).all()


def test_good_checkpoints_stay_where_steps_cannot_be_taken(folder, tmp_path):
    trainer = Trainer(
        SentenceEncoder(folder, pooling="mean"),
        Failing(set(range(5, 40))),
        batch_size=8,
        max_steps=30,
        output_dir=tmp_path,
        save_steps=2,
    )
    with pytest.warns(SentpoolWarning, match="not taken"), pytest.raises(ValueError, match="10th time in a row"):
        trainer.fit(TEXTS)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000002", "step-00000004"]


def test_ten_such_steps_in_a_row_end_the_run(folder, tmp_path):
    model = SentenceEncoder(folder, pooling="mean")
    trainer = Trainer(model, Failing(set(range(4, 40))), batch_size=8, max_steps=30, output_dir=tmp_path, save_steps=3)
    said = "step 13: the loss is not finite.*10th time in a row.*learning_rate"
    with pytest.warns(SentpoolWarning, match="the step is not taken"), pytest.raises(ValueError, match=said):
        trainer.fit(TEXTS)
    assert np.isfinite(model.encode(TEXTS)).all()
    for row in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(row, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


class Together:
    """A loss that pulls everything to one point."""

    def roles(self, columns):
        return (0, 0)

    def __call__(self, embeddings, scores=None, threads=None):
        wanted = np.full(embeddings.shape[2], 3, np.float32)
        return float(((embeddings - wanted) ** 2).sum()), 2 * (embeddings - wanted)


@pytest.mark.parametrize(
    ("roles", "gradient", "message"),
    [
        ((0, 1), lambda embeddings: embeddings, r"has the roles \(0, 1\); the data have 1 columns"),
        ((), lambda embeddings: embeddings, r"has the roles \(\)"),
        (
            (0, 0),
            lambda embeddings: embeddings.reshape(-1, 24),
            r"a gradient of shape \(16, 24\); .* \(2, 8, 24\)",
        ),
        ((0, 0), lambda embeddings: embeddings.swapaxes(0, 1), r"gave a gradient of shape \(8, 2, 24\)"),
    ],
)
def test_an_objective_of_ones_own_is_checked(folder, roles, gradient, message):
    class Own:
        def roles(self, columns):
            return roles

        def __call__(self, embeddings, scores, threads):
            return 1.0, gradient(embeddings)

    with pytest.raises(ValueError, match=message):
        trained(folder, objective=Own())


def test_collapse_is_said_once(folder):
    model = SentenceEncoder(folder, pooling="mean")
    trainer = Trainer(model, Together(), batch_size=8, max_steps=150, learning_rate=3e-2, max_grad_norm=None)
    with pytest.warns(SentpoolWarning, match="the embeddings collapse, the mean cosine") as caught:
        trainer.fit(TEXTS)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": "simcse"}, ValueError, "simcse"),
        ({"objective": 3}, TypeError, "objective is 3"),
        ({"batch_size": 1}, ValueError, "batch_size is 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be a positive integer"),
        ({"epochs": 0, "max_steps": None}, ValueError, "epochs is 0"),
        ({"learning_rate": -1}, ValueError, "learning_rate is -1"),
        ({"max_length": 1000}, ValueError, "max_length is 1000; the encoder has positions for 32"),
        ({"dropout": 1}, ValueError, "dropout is 1; it must be a probability below 1"),
        ({"schedule": "cosine"}, ValueError, "schedule is 'cosine'; it must be 'linear' or 'constant'"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"warmup_steps": -2}, ValueError, "warmup_steps is -2; it must be an integer from 0"),
        ({"warmup_steps": False}, TypeError, "warmup_steps must be an integer from 0, not bool False"),
        ({"output_dir": 5}, TypeError, "output_dir is 5; it must be a path"),
        ({"resume": "yes"}, ValueError, "resume is 'yes'; it must be False or True"),
        ({"objective": InfoNCE}, TypeError, r"objective is <class.*such as InfoNCE\(\)"),
        ({"eval_data": 5}, TypeError, "eval_data must be a file, .* not int 5"),
        ({"eval_data": ["a", 5]}, TypeError, r"eval_data\[1\] is int 5"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay is -0.1; it must be a number from 0"),
        ({"dropout": "none"}, TypeError, "dropout must be a number from 0, not str 'none'"),
        ({"freeze_layers": 7}, ValueError, "freeze_layers is 7"),
        ({"callbacks": 3}, TypeError, "callbacks is 3"),
        ({"callbacks": [3]}, TypeError, "callbacks holds 3"),
        ({"temperature": 0}, ValueError, "temperature"),
        ({"hard_negative_alpha": 2, "hard_negative_weight": 1}, ValueError, "hard_negative"),
        (
            {"objective": InfoNCE(), "temperature": 0.1},
            ValueError,
            "temperature is 0.1, and the objective is an object",
        ),
        ({"head_only": True, "mlm_weight": 0.1}, ValueError, "leave out mlm_weight"),
        ({"pooling": "sbert_wk"}, ValueError, "SbertWk.* has no gradients"),
    ],
)
def test_bad_arguments_are_named(folder, options, error, message):
    with pytest.raises(error, match=message):
        trained(folder, **options)


def test_a_model_in_low_precision_is_not_trained(folder, tmp_path):
    trainer = Trainer(SentenceEncoder(folder, dtype="bfloat16"), InfoNCE(), output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="computes in bfloat16, and only its pooling can be trained"):
        trainer.fit(TEXTS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_heads_are_trained_on_states_in_low_precision(folder, tmp_path, dtype):
    def head(model, data, **options):
        shared = {"pooling": "layer_attention", "batch_size": 8, "max_steps": 4, "learning_rate": 1e-2}
        with quiet():
            return Trainer(model, InfoNCE(), **shared, **options).fit(data)

    model, other = (SentenceEncoder(folder, dtype=dtype) for _ in range(2))
    before = model.encode(TEXTS, pooling="mean")
    history = head(model, TRIPLETS, head_only=True, output_dir=tmp_path / "run")
    states = tuple(other.layer_states(list(column)) for column in zip(*TRIPLETS, strict=True))
    assert len(history.log) == len(head(other, states).log) == 4
    assert model.encode(TEXTS, pooling="mean").tobytes() == before.tobytes()
    saved = SentenceEncoder(tmp_path / "run" / "last", dtype=dtype)
    assert saved.encode(TEXTS).tobytes() == model.encode(TEXTS).tobytes()
    # Texts that are their own positives are told apart by dropout, which low precision has too.
    head(model, TEXTS, head_only=True)


def test_a_run_that_ends_before_its_warm_up_is_said(folder):
    with pytest.warns(SentpoolWarning, match="warmup_steps is 6, and the run has 6 steps: .* never gets to 0.001"):
        trained(folder, warmup_steps=6)


def test_a_path_is_no_model(folder):
    with pytest.raises(TypeError, match="model is .*it must be a SentenceEncoder"):
        Trainer(str(folder))


def test_a_preset_warns_of_another_pooling(folder):
    with pytest.warns(SentpoolWarning, match="layer_attention"):
        Trainer(SentenceEncoder(folder, pooling="mean"), "oh2022-sup")
    with pytest.warns(SentpoolWarning, match="cls"):
        Trainer(SentenceEncoder(folder, pooling="mean"), "simcse-unsup")


def test_a_callback_ends_the_run(folder, tmp_path):
    seen = []

    def stop(model, row):
        seen.append(row["step"])
        return row["step"] == 3

    _, history = trained(folder, callbacks=stop, output_dir=tmp_path)
    assert seen == [1, 2, 3] and len(history.log) == 3
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000003"]


def test_what_a_comparison_of_numpy_gives_ends_a_run_too(folder):
    _, history = trained(folder, callbacks=lambda model, row: np.float64(row["step"]) > 1)
    assert len(history.log) == 2
    _, history = trained(folder, callbacks=lambda model, row: row)  # whatever else it returns does not
    assert len(history.log) == 6


def test_no_sentence_is_its_own_negative(folder):
    """Of a batch, the objective never sees one sentence under two items."""
    seen = []

    class Watch(InfoNCE):
        def __call__(self, embeddings, scores=None, threads=None):
            seen.append(embeddings[0].copy())
            return super().__call__(embeddings, scores, threads)

    trained(folder, TEXTS[:20] * 3, Watch(), dropout=0, max_steps=None, epochs=1)
    for embeddings in seen:
        assert len(np.unique(embeddings, axis=0)) == len(embeddings)


def test_layers_pooling_with_several_tokens(folder):
    model, history = trained(folder, pooling=Pooling(Layers([0, -1], tokens=("cls", "mean"))))
    assert model.encode(TEXTS[:1]).shape == (1, 48) and math.isfinite(history.log[-1]["loss"])
