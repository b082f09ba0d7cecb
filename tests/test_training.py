"""Trainer: what a run gives, and that its bits depend on data and seed alone."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from fabricate import VOCABULARY, bert_folder
from safetensors.numpy import load_file
from test_bits import environments
from training_runs import TEXTS, TRIPLETS, bits, quiet, scored, trained

from sentpool import SentenceEncoder, Trainer
from sentpool.errors import SentpoolWarning
from sentpool.objectives import CoSENT, InfoNCE
from sentpool.pooling import Pooling, initial
from sentpool.trained_weights import digest, trained_tensors
from sentpool.training import TrainingData

pytestmark = pytest.mark.training

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("model"))


# ---- what a run gives ------------------------------------------------------------------------------------------------


def test_history_and_the_model_in_place(folder):
    before = SentenceEncoder(folder, pooling="mean").encode(TEXTS)
    model, history = trained(folder, max_steps=10)
    assert [row["step"] for row in history.log] == list(range(1, 11))
    assert [row["epoch"] for row in history.log] == [0] * 8 + [1] * 2  # 60 texts in batches of 8
    for name in ("loss", "grad_norm", "mean_cosine", "seconds"):
        assert all(math.isfinite(row[name]) for row in history.log)
    np.testing.assert_allclose([row["learning_rate"] for row in history.log], 1e-3 * (1 - np.arange(10) / 10))
    after = model.encode(TEXTS)
    assert np.isfinite(after).all() and (after != before).any(axis=1).all()
    assert "trained_steps=10" in repr(model)


def test_the_loss_falls(folder):
    _, history = trained(folder, TRIPLETS, "simcse-sup", max_steps=60, learning_rate=3e-3, dropout=0)
    losses = [row["loss"] for row in history.log]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_epochs_make_steps(folder):
    _, history = trained(folder, max_steps=None, epochs=2)
    assert len(history.log) == 16


def test_scored_pairs(folder):
    pairs = [(a, b, k / 20) for k, (a, b, _) in enumerate(TRIPLETS)]
    _, history = trained(folder, pairs, CoSENT(), max_steps=60, learning_rate=3e-3, dropout=0)
    losses = [row["loss"] for row in history.log]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    with pytest.raises(ValueError, match="learns from scores"):
        trained(folder, [pair[:2] for pair in pairs], CoSENT())
    with pytest.raises(ValueError, match="takes all pairs for alike, and .*40 scored pairs"):
        trained(folder, pairs)


def test_dropout_alone_tells_a_text_from_itself(folder):
    """Two copies of a text have masks of their own; with none, both embeddings are one."""
    seen = []

    class Watch(InfoNCE):
        def __call__(self, embeddings, scores=None, threads=None):
            seen.append(embeddings.copy())
            return super().__call__(embeddings, scores, threads)

    trained(folder, objective=Watch(), max_steps=1)
    assert (seen[-1][0] != seen[-1][1]).any(axis=1).all()
    trained(folder, objective=Watch(), max_steps=1, dropout=0)
    np.testing.assert_array_equal(seen[-1][0], seen[-1][1])


def test_no_dropout_at_all_is_said(folder):
    def warned(data=TEXTS, **options):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            Trainer(SentenceEncoder(folder, pooling="mean"), max_steps=1, batch_size=8, **options).fit(data)
        return any("its own positive" in str(warning.message) for warning in seen)

    assert warned(dropout=0)
    assert not warned()
    assert not warned(dropout=0, pooling="layer_attention")  # RReLU's slopes are drawn
    states = [SentenceEncoder(folder).layer_states(TEXTS, dropout_seed=seed) for seed in range(2)]
    assert warned(data=states[0], pooling="scalar_mix")
    assert not warned(data=states, pooling="scalar_mix")
    assert not warned(data=states[0], pooling="layer_attention")


def test_masked_language_model(folder):
    _, history = trained(folder, mlm_weight=0.5, max_steps=60, learning_rate=3e-3, dropout=0)
    for row in history.log:
        assert row["loss"] == pytest.approx(row["contrastive_loss"] + 0.5 * row["mlm_loss"], rel=1e-12)
    losses = [row["mlm_loss"] for row in history.log]
    # At first all words of the vocabulary are alike.
    assert losses[0] == pytest.approx(np.log(len(VOCABULARY)), rel=0.05)
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])


def test_frozen_parts_keep_their_bits(folder):
    before = trained_tensors(SentenceEncoder(folder)._core)
    model, _ = trained(folder, freeze_layers=1)
    after = trained_tensors(model._core)
    for name, array in after.items():
        frozen = name.startswith("embeddings.") or ".layer.0." in name
        assert np.array_equal(array, before[name]) == (frozen or ".key.bias" in name and frozen), name
    model, _ = trained(folder, freeze_embeddings=True)
    after = trained_tensors(model._core)
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert not any(name.startswith("embeddings.") for name in changed)
    assert any(".layer.0." in name for name in changed)


def test_a_loop_of_ones_own_trains_the_model_too(folder, tmp_path):
    def trainer():
        model = SentenceEncoder(folder)
        with quiet():
            shared = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-2, "mlm_weight": 0.1}
            return model, Trainer(model, pooling="scalar_mix", **shared)

    model, one = trainer()
    with quiet():
        run = one.prepared(TEXTS)
    seen = []
    for _ in range(run.total_steps):
        run.take_step()
        seen.append(bits(model))
    assert len(set(seen)) == 6
    other, two = trainer()
    with quiet():
        two.fit(TEXTS)
    assert bits(model) == bits(other) and model.provenance() == other.provenance()
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(SentenceEncoder(tmp_path / "saved").encode(TEXTS), other.encode(TEXTS))
    assert "cls.predictions.bias" in load_file(tmp_path / "saved" / "model.safetensors")


# ---- poolings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer_attention", "scalar_mix", "weighted_layer", "cls_mlp", "first_last"])
def test_every_pooling_trains_and_is_saved(tmp_path, name):
    model = SentenceEncoder(bert_folder(tmp_path / "model", num_hidden_layers=5))
    with quiet():
        trainer = Trainer(model, pooling=name, batch_size=8, max_steps=4, learning_rate=1e-3, output_dir=tmp_path / "o")
    start = model.pooling.parameters()
    with quiet():
        trainer.fit(TEXTS)
    for parameter, array in model.pooling.trainable_parameters().items():
        assert not np.array_equal(array, start[parameter]), parameter
    again = SentenceEncoder(tmp_path / "o" / "last")
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


class Gate:
    """A pooling of the user's own: the last layer's mean, each dimension times a weight."""

    tokens = ("mean",)

    def __init__(self, width):
        self.weight = np.ones(width, np.float32)

    def parameters(self):
        return {"weight": self.weight}

    def forward(self, states):
        last = states[:, -1, 0]
        return last * self.weight, last

    def backward(self, d_embeddings, last):
        d_states = np.zeros((len(last), 3, 1, last.shape[1]), np.float32)
        d_states[:, -1, 0] = d_embeddings * self.weight
        return d_states, {"weight": (d_embeddings * last).sum(axis=0)}


def test_a_pooling_of_the_users_own_trains_with_the_encoder(folder, tmp_path):
    gate = Gate(24)
    before = trained_tensors(SentenceEncoder(folder)._core)
    with pytest.warns(SentpoolWarning, match="the model is not saved, only checkpoints are"):
        model = SentenceEncoder(folder, pooling=gate)
        settings = {"batch_size": 8, "max_steps": 40, "learning_rate": 1e-3, "dropout": 0}
        history = Trainer(model, InfoNCE(), **settings, output_dir=tmp_path).fit(TRIPLETS)
    assert history.log[-1]["loss"] < history.log[0]["loss"]
    assert not np.array_equal(model.pooling.trainable_parameters()["layers.weight"], np.ones(24))
    after = trained_tensors(model._core)
    assert not np.array_equal(
        after["encoder.layer.0.output.dense.weight"], before["encoder.layer.0.output.dense.weight"]
    )
    # the same without the gate's gradient is what Layers gives
    plain, _ = trained(folder, TRIPLETS, InfoNCE(), max_steps=1, dropout=0)
    gated, _ = trained(folder, TRIPLETS, InfoNCE(), pooling=Pooling(Gate(24)), max_steps=1, dropout=0)
    for name, array in trained_tensors(plain._core).items():
        np.testing.assert_allclose(trained_tensors(gated._core)[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pooling", ["layer_attention", "scalar_mix"])
def test_head_only(folder, pooling, tmp_path):
    model = SentenceEncoder(folder)
    before = trained_tensors(model._core)
    states = [model.layer_states(list(column)) for column in zip(*TRIPLETS, strict=True)]
    results = []
    for data in (TRIPLETS, tuple(states)):
        with quiet():
            trainer = Trainer(
                model, "simcse-sup", pooling=pooling, head_only=True, batch_size=8, max_steps=40, learning_rate=1e-2
            )
            history = trainer.fit(data)
        losses = [row["loss"] for row in history.log]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
        results.append(model.pooling)
    assert results[0].parameters().keys() == results[1].parameters().keys()
    assert results[0] == results[1]
    for name, array in trained_tensors(model._core).items():
        assert np.array_equal(array, before[name]), name
    states[0].save(tmp_path / "states")
    mapped = (type(states[0]).load(tmp_path / "states", mmap=True), *states[1:])
    with quiet():
        Trainer(model, InfoNCE(), pooling=pooling, head_only=True, batch_size=8, max_steps=40, learning_rate=1e-2).fit(
            mapped
        )
    assert model.pooling == results[0]
    with pytest.raises(ValueError, match="leave out mlm_weight"):
        Trainer(model, InfoNCE(), mlm_weight=0.1).fit(mapped)
    with pytest.raises(ValueError, match="give pairs with a score, and head_only=True"):
        Trainer(model, CoSENT()).fit(mapped[:2])
    with quiet(), pytest.raises(ValueError, match="nothing is trained"):
        Trainer(SentenceEncoder(folder), "simcse-sup", pooling="mean", head_only=True).fit(TRIPLETS)


def test_head_only_sees_what_training_sees(folder):
    """Texts cut at max_length, the dropout that is asked for, no sentence twice in a batch, scores."""
    seen = []

    class Watch(InfoNCE):
        def __call__(self, embeddings, scores=None, threads=None):
            seen.append(embeddings.copy())
            return super().__call__(embeddings, scores, threads)

    encoder = SentenceEncoder(folder)
    mix = initial("scalar_mix", encoder.n_layers, encoder.hidden_size, 0)
    shared = {"pooling": mix, "max_steps": 1, "max_length": 4}
    for data in (TEXTS, TRIPLETS, TRIPLETS[:12] * 3):
        for head_only in (False, True):
            trained(folder, data, Watch(), dropout=0, head_only=head_only, **shared)
        np.testing.assert_array_equal(seen[-1], seen[-2])
    trained(folder, TEXTS, Watch(), dropout=0.5, head_only=True, **shared)
    assert (seen[-1][0] != seen[-1][1]).any(axis=1).all()
    model, _ = trained(folder, scored(), CoSENT(), head_only=True, **shared)
    assert model.max_seq_length == encoder.max_seq_length


# ---- bits ------------------------------------------------------------------------------------------------------------

CASES = {
    "unsup": {"data": TEXTS},
    "sup": {"data": TRIPLETS, "objective": InfoNCE(hard_negative_alpha=2.0), "weight_decay": 0.01},
    "attention": {"data": TEXTS, "pooling": "layer_attention", "warmup_steps": 5},
    "masked": {"data": TEXTS, "mlm_weight": 0.5, "max_steps": 20},
}


def case_bits(folder, name, **options) -> str:
    case = dict(CASES[name])
    pooling = case.pop("pooling", "mean")
    model = SentenceEncoder(folder)
    with quiet():
        data = case.pop("data")
        settings = {"batch_size": 12, "max_steps": 40, "learning_rate": 1e-3, "seed": 7} | case | options
        Trainer(model, settings.pop("objective", "simcse-unsup"), pooling=pooling, **settings).fit(data)
    return bits(model)


@pytest.mark.bits
@pytest.mark.parametrize("name", CASES)
def test_bits_do_not_depend_on_threads_or_chunks(folder, name):
    expected = case_bits(folder, name, threads=1)
    for threads, chunk_size in ((2, None), (3, None), (1, 1), (2, 7), (3, 16)):
        assert case_bits(folder, name, threads=threads, chunk_size=chunk_size) == expected, (threads, chunk_size)
    assert case_bits(folder, name, seed=8) != expected


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_training import CASES, case_bits
print(*(case_bits(sys.argv[2], name) for name in CASES))
"""


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.timeout(600)
def test_bits_do_not_depend_on_the_instruction_set(folder):
    found = {}
    for name, variables in environments().items():
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(HERE), str(folder)],
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        assert child.returncode == 0, child.stderr
        found[name] = child.stdout
    assert len(set(found.values())) == 1, found


# ---- a trained model -------------------------------------------------------------------------------------------------


def test_trained_weights_are_saved_pickled_and_named(folder, tmp_path):
    plain = SentenceEncoder(folder, pooling="mean")
    model, _ = trained(folder)
    vectors = model.encode(TEXTS)
    for again in (pickle.loads(pickle.dumps(model)), _saved(model, tmp_path / "saved")):
        np.testing.assert_array_equal(again.encode(TEXTS), vectors)
        assert again.pooling == model.pooling
    assert "trained" not in plain.provenance()
    of_trained = model.provenance()["trained"]
    assert of_trained["steps"] == 6 and of_trained["data_sha256"] == TrainingData.of(TEXTS).fingerprint
    assert of_trained["weights_sha256"] == digest(trained_tensors(model._core))
    assert of_trained["weights_sha256"] != digest(trained_tensors(plain._core))
    json.dumps(model.provenance())
    assert pickle.loads(pickle.dumps(model)).provenance() == model.provenance()


def _saved(model, path):
    model.save_pretrained(path)
    return SentenceEncoder(path)


def test_half_precision_files_are_written_in_float32_once_trained(folder, tmp_path):
    half = bert_folder(tmp_path / "half", dtype="F16", torch_dtype="float16")
    model, _ = trained(half)
    again = _saved(model, tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["torch_dtype"] == "float32"
