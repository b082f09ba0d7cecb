"""Trainer: what a run gives, that its bits depend on data and seed alone, and what happens when something fails."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from fabricate import VOCABULARY, bert_folder
from test_bits import environments

from sentpool import SentenceEncoder, Trainer, cli, evaluation
from sentpool.errors import SentpoolWarning
from sentpool.objectives import CoSENT, InfoNCE
from sentpool.pooling import Layers, Pooling, initial
from sentpool.trained_weights import digest, trained_tensors
from sentpool.training import History, TrainingData
from sentpool.training.output_folder import OutputFolder

HERE = Path(__file__).resolve().parent
WORDS = "the a cat dog sat on mat big small runs happy unhappy".split()


def sentences(n: int, seed: int = 0) -> list[str]:
    """Different sentences of two to seven words."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        found[" ".join(rng.choices(WORDS, k=rng.randint(2, 7)))] = None
    return list(found)


TEXTS = sentences(60)
TRIPLETS = list(zip(TEXTS[:40], sentences(40, seed=1), sentences(40, seed=2), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("model"))


def trained(folder, data=TEXTS, objective="simcse-unsup", *, resume=False, pooling="mean", **options):
    """A model and its history after a short run; `digest` tells its bits."""
    model = SentenceEncoder(folder, pooling=None if pooling == "folder's" else pooling)
    options = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3} | options
    with quiet():
        history = Trainer(model, objective, **options).fit(data, resume=resume)
    return model, history


@contextmanager
def quiet():
    """Without warnings of a pooling that is not the recipe's, of missing dropout, of much the same for all texts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(pooling|collapse|fresh one|its own positive)", SentpoolWarning)
        yield


def bits(model) -> str:
    """All that was trained: encoder and pooling."""
    whole = hashlib.sha256(digest(trained_tensors(model._core)).encode())
    for name, array in model.pooling.parameters().items():
        whole.update(name.encode() + array.tobytes())
    return whole.hexdigest()


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
    def warned(**options):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            Trainer(SentenceEncoder(folder, pooling="mean"), max_steps=1, batch_size=8, **options).fit(TEXTS)
        return any("its own positive" in str(warning.message) for warning in seen)

    assert warned(dropout=0)
    assert not warned()
    assert not warned(dropout=0, pooling="layer_attention")  # RReLU's slopes are drawn


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


# ---- the end of a process, and going on ------------------------------------------------------------------------------

KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_training import TEXTS, bits, trained
model, history = trained(sys.argv[2], TEXTS, output_dir=sys.argv[3], resume=True, save_steps=3, max_steps=30,
                         pooling="folder's", eval_data=[(TEXTS[k], TEXTS[k + 1], k) for k in range(20)], eval_steps=5)
assert [row["step"] for row in history.log] == list(range(1, 31)), history.log
assert [row["step"] for row in history.evaluations] == list(range(0, 31, 5)), history.evaluations
print(bits(model))
"""


def child(folder, output):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(HERE), str(folder), str(output)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(folder, tmp_path, kills):
    process = child(folder, tmp_path / "whole")
    began = time.perf_counter()
    expected = process.communicate()[0]
    assert process.returncode == 0
    whole = time.perf_counter() - began
    rng = random.Random(kills)
    for _ in range(kills):
        process = child(folder, tmp_path / "killed")
        time.sleep(rng.uniform(0.4, 1.0) * whole)
        process.kill()
        process.communicate()
    process = child(folder, tmp_path / "killed")
    assert process.communicate()[0] == expected and process.returncode == 0
    assert History.load(tmp_path / "killed" / "log.jsonl").best == History.load(tmp_path / "whole" / "log.jsonl").best
    for name in ("best", "last"):
        one, other = (SentenceEncoder(tmp_path / run / name).encode(TEXTS) for run in ("whole", "killed"))
        np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(folder, tmp_path):
    expected = bits(trained(folder, max_steps=12)[0])

    def interrupt(model, row):
        if row["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(folder, max_steps=12, output_dir=tmp_path, callbacks=[interrupt])
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000005"]
    model, history = trained(folder, max_steps=12, output_dir=tmp_path, resume=True)
    assert bits(model) == expected
    assert [row["step"] for row in history.log] == list(range(1, 13))


def test_an_evaluation_that_was_broken_off_is_made_up_for(folder, tmp_path):
    scores = {0: 0.1, 2: 0.2, 4: 0.9, 6: 0.3}
    steps = iter(scores)

    def score(model, fail_at=None):
        step = next(steps)
        if step == fail_at:
            raise KeyboardInterrupt
        return scores[step]

    with pytest.raises(KeyboardInterrupt):
        trained(folder, output_dir=tmp_path, eval_data=lambda model: score(model, 4), eval_steps=2)
    steps = iter([4, 6])
    _, history = trained(folder, output_dir=tmp_path, eval_data=score, eval_steps=2, resume=True)
    assert [(row["step"], row["score"]) for row in history.evaluations] == list(scores.items())
    assert history.best["step"] == 4


def test_ctrl_c_at_any_moment_leaves_whole_steps(folder, tmp_path):
    """Whenever it comes, the model has the weights of a whole number of steps."""
    states = {}

    def note(model, row):
        states[row["step"]] = bits(model)

    trained(folder, max_steps=25, callbacks=[note])
    initial = bits(SentenceEncoder(folder, pooling="mean"))
    for delay in np.linspace(0.001, 0.15, 12):
        model = SentenceEncoder(folder, pooling="mean")
        with quiet():
            trainer = Trainer(model, batch_size=8, max_steps=25, learning_rate=1e-3)
        timer = threading.Timer(delay, signal.raise_signal, (signal.SIGINT,))
        with suppress(KeyboardInterrupt):
            timer.start()
            trainer.fit(TEXTS)
            timer.join()
        assert bits(model) in {initial, *states.values()}, delay


def test_resume_starts_afresh_where_nothing_is(folder, tmp_path):
    one, _ = trained(folder, output_dir=tmp_path, resume=True)
    two, _ = trained(folder)
    assert bits(one) == bits(two)
    with pytest.raises(FileExistsError, match="has checkpoints of a run: fit.*resume=True.* another output_dir"):
        trained(folder, output_dir=tmp_path)
    again, history = trained(folder, output_dir=tmp_path, resume=True)  # nothing is left to do
    assert bits(again) == bits(two) and len(history.log) == 6
    with pytest.raises(ValueError, match="there is no output_dir"):
        trained(folder, resume=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is 0.002"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"objective": InfoNCE(0.1)}, "objective was .*temperature=0.05"),
        ({"data": TEXTS[1:]}, "other data than TrainingData.59 texts"),
        ({"pooling": "layers=[1]"}, "pooling was"),
    ],
)
def test_a_run_goes_on_only_as_it_began(folder, tmp_path, changes, said):
    trained(folder, output_dir=tmp_path)
    with pytest.raises(ValueError, match=f"cannot be resumed: .*{said}"):
        trained(folder, output_dir=tmp_path, resume=True, **changes)
    trained(folder, output_dir=tmp_path, resume=True, threads=1, chunk_size=4, save_steps=1)


# ---- evaluation, best and last ---------------------------------------------------------------------------------------


def scored():
    return [(TEXTS[k], TEXTS[k + 1], float(k % 5)) for k in range(30)]


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


# ---- what goes wrong -------------------------------------------------------------------------------------------------


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
        ({"warmup_steps": -2}, ValueError, "warmup_steps is -2"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay is -0.1"),
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
    capsys.readouterr()
    assert cli.main([*command[:2], str(tmp_path / "no.csv"), "--output", str(tmp_path / "x")]) == 1
    assert "no.csv" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
