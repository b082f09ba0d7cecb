"""Masked language modelling: tokens chosen by Philox, the head against its twin, folders' heads, equal bits."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from fabricate import VOCABULARY, bert_folder
from fabricate_families import family_folder
from numpy_dropout import draws
from numpy_losses import central_differences
from numpy_mlm import mlm
from safetensors.numpy import load_file, save_file

from sentpool import ModelFolderError, SentenceEncoder, SentpoolWarning, Trainer, _core, objectives
from sentpool.masked_language_model import MaskedLanguageModel
from sentpool.mlm_head import read_head

pytestmark = pytest.mark.training

PARTS = ("dense", "dense_bias", "norm", "norm_bias", "words", "bias")


def parameters(seed, H, E, V):
    rng = np.random.default_rng(seed)
    shapes = {"dense": (E, H), "dense_bias": (E,), "norm": (E,), "norm_bias": (E,), "words": (V, E), "bias": (V,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def cuts_of(m, length=256):
    return np.append(np.arange(0, m, length), m)


def run(p, x, labels, *, cuts=None, scale=None, threads=1, gradients=None):
    """Losses, gradient of x, and gradients of the parameters, added to those given."""
    gradients = {name: np.zeros_like(array) for name, array in p.items()} if gradients is None else gradients
    losses, dx = _core.mlm_head(
        x,
        labels,
        cuts_of(len(x)) if cuts is None else cuts,
        tuple(p[name] for name in PARTS),
        tuple(gradients[name] for name in PARTS),
        1e-5,
        "gelu",
        1 / len(x) if scale is None else scale,
        threads,
    )
    return losses, dx, gradients


# ---- the head ------------------------------------------------------------------------------------------------------


def test_twin_has_the_gradients_of_central_differences():
    p = {name: array.astype(np.float64) for name, array in parameters(0, 4, 5, 7).items()}
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((3, 4)), np.array([6, 0, 2])
    _, dx, gradients = mlm(x, labels, p)
    np.testing.assert_allclose(dx, central_differences(lambda z: mlm(z, labels, p)[0], x), rtol=1e-6, atol=1e-7)
    for name in PARTS:
        numeric = central_differences(lambda z, name=name: mlm(x, labels, p | {name: z})[0], p[name])
        np.testing.assert_allclose(gradients[name], numeric, rtol=1e-6, atol=1e-7, err_msg=name)


SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 48, 65)


def shapes():
    rng = np.random.default_rng(0)
    fixed = [(1, 1, 2, 1), (1, 384, 384, 1000), (300, 24, 24, 40), (70, 48, 32, 200), (40, 33, 17, 2)]
    return fixed + [tuple(int(n) for n in (*rng.choice(SIZES, 3), rng.integers(1, 300))) for _ in range(45)]


@pytest.mark.parametrize(("m", "H", "E", "V"), shapes())
def test_core_equals_the_twin(m, H, E, V):
    p = parameters(m + H, H, E, V)
    rng = np.random.default_rng(V)
    x, labels = rng.standard_normal((m, H)).astype(np.float32), rng.integers(0, V, m)
    loss, dx, gradients = mlm(x.astype(np.float64), labels, {name: a.astype(np.float64) for name, a in p.items()})
    losses, core_dx, core = run(p, x, labels)
    assert losses.mean() == pytest.approx(loss, rel=2e-5, abs=2e-5)
    # of the widest tensor of its kind: with one column or one word a gradient is zero, and rounding is all there is
    scale = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(core[name], gradient, rtol=0, atol=1e-4 * scale + 1e-7, err_msg=name)
    np.testing.assert_allclose(core_dx, dx, rtol=0, atol=1e-4 * max(scale, np.abs(dx).max()) + 1e-7)


def problem(m=300, H=24, E=20, V=500):
    rng = np.random.default_rng(3)
    return parameters(2, H, E, V), rng.standard_normal((m, H)).astype(np.float32), rng.integers(0, V, m)


def assert_same(one, other):
    for a, b in zip((*one[:2], *one[2].values()), (*other[:2], *other[2].values()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bits_do_not_depend_on_threads_or_calls():
    p, x, labels = problem()
    cuts = np.array([0, 38, 40, 120, 121, 300])
    whole = run(p, x, labels, cuts=cuts)
    for threads in (2, 3, 5):
        assert_same(run(p, x, labels, cuts=cuts, threads=threads), whole)
    gradients, parts = {name: np.zeros_like(array) for name, array in p.items()}, []
    for groups in (cuts[:3], cuts[2:4], cuts[3:]):
        rows = slice(groups[0], groups[-1])
        cut = run(p, x[rows], labels[rows], cuts=groups - groups[0], scale=1 / 300, gradients=gradients)
        parts.append(cut[:2])
    losses, dx = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert_same((losses, dx, gradients), whole)


@pytest.mark.parametrize("V", [30522, 120000])
def test_logits_are_computed_in_blocks_of_rows(V):
    """More logits than a block holds: the same as row by row, but for sums inside a group."""
    p, x, labels = problem(m=300, H=8, E=8, V=V)
    losses, dx, gradients = run(p, x, labels, cuts=np.array([0, 100, 130, 260, 300]))
    for i in (0, 99, 100, 299):
        one = run(p, x[i : i + 1], labels[i : i + 1], scale=1 / 300)
        assert one[0][0] == losses[i]
        np.testing.assert_array_equal(one[1][0], dx[i])
    assert gradients["bias"].sum() == pytest.approx(0, abs=1e-5)


HASH = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_mlm import problem, run
losses, dx, gradients = run(*problem(), threads=2)
digest = hashlib.sha256(losses.tobytes() + dx.tobytes())
for gradient in gradients.values():
    digest.update(gradient.tobytes())
print(digest.hexdigest())
"""


@pytest.mark.every_way
def test_bits_do_not_depend_on_the_instruction_set():
    hashes = set()
    for isa, blis in (("generic", "haswell"), ("avx2", "haswell"), ("avx512", "skx")):
        if isa in _core.isas():
            environment = os.environ | {"SENTPOOL_ISA": isa, "SENTPOOL_BLIS_ARCH": blis}
            command = [sys.executable, "-c", HASH, os.path.dirname(__file__)]
            hashes.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(hashes) == 1


def test_every_allocation_may_fail():
    p, x, labels = problem(m=20)
    failures = 0
    for n in range(1, 60):
        _core.fail_allocation(n)
        try:
            run(p, x, labels)
            break
        except MemoryError:
            failures += 1
        finally:
            _core.fail_allocation(0)
    assert failures >= 4 and n < 59


def test_a_signal_ends_a_long_call():
    import signal
    import time

    class Stop(Exception):
        pass

    def handler(*_):
        raise Stop

    p, x, labels = problem(m=4000, H=64, E=64, V=30000)
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.perf_counter()
        with pytest.raises(Stop):
            run(p, x, labels)
        assert time.perf_counter() - start < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_what_does_not_fit_is_refused():
    p, x, labels = problem(m=5)
    with pytest.raises(ValueError, match=r"labels\[4\] is 500"):
        run(p, x, np.array([1, 2, 3, 4, 500]))
    with pytest.raises(ValueError, match="labels has 4 values for 5 rows"):
        run(p, x, labels[:4])
    for cuts in ([0], [0, 4], [1, 5], [0, 3, 3, 5], [0, 6], [0, 4, 3, 5]):
        with pytest.raises(ValueError, match="cuts must ascend from 0 to 5"):
            run(p, x, labels, cuts=np.array(cuts))
    with pytest.raises(ValueError, match="cuts"):
        run(p, np.zeros((257, 24), np.float32), np.zeros(257, int), cuts=np.array([0, 257]))
    for name in PARTS:
        with pytest.raises(ValueError, match=r"with words \("):
            run(p | {name: np.zeros([n + 1 for n in p[name].shape], np.float32)}, x, labels)
        wrong = {part: np.zeros_like(array) for part, array in p.items()}
        wrong[name] = wrong[name].astype(np.float64)
        with pytest.raises(TypeError, match=f"gradient of {name} must be a writable float32"):
            run(p, x, labels, gradients=wrong)


# ---- the choice ----------------------------------------------------------------------------------------------------


def choose(ids, offsets, *, special=None, mask=4, vocabulary=1000, seed=7, step=3, first_row=0):
    marks = np.zeros(vocabulary, np.uint8)
    marks[[0, 1, 2, 3, 4] if special is None else special] = 1
    return _core.mlm_choice(ids, offsets, marks, mask, seed, step, first_row)


def sentences(n=200, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 40, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(5, 1000, offsets[-1]).astype(np.int32)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = 2, 3
    return ids, offsets


def test_choice_is_that_of_its_draws():
    ids, offsets = sentences(60)
    masked, positions, labels = choose(ids, offsets, first_row=5)
    expected, chosen = ids.copy(), []
    for sentence in range(60):
        for token in range(offsets[sentence + 1] - offsets[sentence]):
            place = {"seed": 7, "step": 3, "row": 5 + sentence, "layer": 0, "site": 7}
            words = draws(place, token, 0) / 2.0**32
            at = offsets[sentence] + token
            if ids[at] < 5 or words[0] >= 0.15:
                continue
            chosen.append(at)
            if words[1] < 0.8:
                expected[at] = 4
            elif words[1] < 0.9:
                expected[at] = int(words[2] * 1000)
    assert positions.tolist() == chosen and len(chosen) > 100
    np.testing.assert_array_equal(labels, ids[positions])
    np.testing.assert_array_equal(masked, expected)


def test_shares_are_those_of_bert():
    """15 %, of which 80 % are masks and 10 % stay, within four standard errors."""
    ids, offsets = sentences(8000)
    masked, positions, labels = choose(ids, offsets)
    ordinary = (ids >= 5).sum()
    now = masked[positions]
    for count, total, share in (
        (len(positions), ordinary, 0.15),
        ((now == 4).sum(), len(positions), 0.8 + 0.1 / 1000),
        ((now == labels).sum(), len(positions), 0.1 + 0.1 / 1000),
    ):
        assert abs(count / total - share) < 4 * math.sqrt(share * (1 - share) / total)
    others = now[(now != 4) & (now != labels)]
    assert others.min() < 20 and others.max() > 980


def test_choice_does_not_depend_on_how_a_batch_is_cut():
    ids, offsets = sentences(50)
    whole = choose(ids, offsets)
    masked, positions = [], []
    for first, end in ((0, 1), (1, 17), (17, 50)):
        start, stop = offsets[first], offsets[end]
        part = choose(ids[start:stop], offsets[first : end + 1] - start, first_row=first)
        masked.append(part[0])
        positions.append(part[1] + start)
    np.testing.assert_array_equal(np.concatenate(masked), whole[0])
    np.testing.assert_array_equal(np.concatenate(positions), whole[1])


def test_steps_seeds_and_rows_choose_differently():
    ids, offsets = sentences(50)
    first = choose(ids, offsets)[1].tolist()
    for change in ({"step": 4}, {"seed": 8}, {"first_row": 1}):
        assert choose(ids, offsets, **change)[1].tolist() != first


def test_ids_and_offsets_are_checked():
    ids, offsets = sentences(3)
    with pytest.raises(ValueError, match="offsets must ascend"):
        choose(ids, offsets[:-1])
    with pytest.raises(ValueError, match="offsets must ascend"):
        choose(ids, offsets[[0, 2, 1, 3]])
    with pytest.raises(ValueError, match=r"ids\[1\] is 1000"):
        choose(np.array([5, 1000]), [0, 2])
    with pytest.raises(ValueError, match=r"ids\[0\] is -1"):
        choose(np.array([-1, 5]), [0, 2])
    with pytest.raises(ValueError, match="mask_id is 1000"):
        choose(ids, offsets, mask=1000)
    assert [len(part) for part in choose([], [0])] == [0, 0, 0]


# ---- with a model --------------------------------------------------------------------------------------------------


def head_tensors(kind):
    """A head as BertForMaskedLM stores it, as it did with gamma and beta, or as RobertaForMaskedLM does."""
    dense, norm, bias = {
        "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
        "old": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
        "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    }[kind]
    weight, shift = ("gamma", "beta") if kind == "old" else ("weight", "bias")
    p = parameters(5, 24, 24, len(VOCABULARY))
    return {
        f"{dense}.weight": p["dense"],
        f"{dense}.bias": p["dense_bias"],
        f"{norm}.{weight}": p["norm"],
        f"{norm}.{shift}": p["norm_bias"],
        bias: p["bias"],
    }


@pytest.mark.parametrize("kind", ["bert", "old", "roberta"])
def test_a_folders_head_is_read(tmp_path, kind):
    folder = bert_folder(tmp_path, extra=head_tensors(kind))
    model = SentenceEncoder(folder)
    masked = MaskedLanguageModel(model)
    p = parameters(5, 24, 24, len(VOCABULARY))
    names = {"dense": "dense.weight", "dense_bias": "dense.bias", "norm": "norm.weight", "norm_bias": "norm.bias"}
    for ours, name in (names | {"bias": "bias"}).items():
        np.testing.assert_array_equal(masked.store.parameter(name), p[ours])


def test_lm_head_applies_gelu_whatever_the_encoder_does(tmp_path):
    folder = bert_folder(tmp_path, extra=head_tensors("roberta"))
    config = SentenceEncoder(folder).folder.config
    assert read_head(folder, config, 0).activation == "gelu"


def test_a_fresh_head_is_said(tmp_path):
    folder = bert_folder(tmp_path)
    model = SentenceEncoder(folder)
    with pytest.warns(SentpoolWarning, match="no head for masked language modelling"):
        masked = MaskedLanguageModel(model, seed=3)
    weight = masked.store.parameter("dense.weight")
    assert 0.01 < weight.std() < 0.03 and not masked.store.parameter("bias").any()
    assert (masked.store.parameter("norm.weight") == 1).all()
    with pytest.warns(SentpoolWarning):
        again = MaskedLanguageModel(model, seed=3)
    np.testing.assert_array_equal(again.store.masters, masked.store.masters)


def test_a_broken_head_is_refused(tmp_path):
    tensors = head_tensors("bert")
    del tensors["cls.predictions.transform.LayerNorm.bias"]
    folder = bert_folder(tmp_path, extra=tensors)
    with pytest.raises(ModelFolderError, match=r"LayerNorm\.bias' is missing, which belongs to an MLM head"):
        MaskedLanguageModel(SentenceEncoder(folder))
    tensors = head_tensors("bert") | {"cls.predictions.bias": np.zeros(3, np.float32)}
    folder = bert_folder(tmp_path / "other", extra=tensors)
    with pytest.raises(ModelFolderError, match=r"cls\.predictions\.bias' has shape \(3,\)"):
        MaskedLanguageModel(SentenceEncoder(folder))


# ---- a decoder of its own, and saving --------------------------------------------------------------------------------


def decoder(seed=9):
    return np.random.default_rng(seed).standard_normal((len(VOCABULARY), 24)).astype(np.float32)


def trained(model, steps=3, **options):
    """A model that learned with an MLM loss beside its own, and the history."""
    options = {"mlm_weight": 0.5, "batch_size": 4, "learning_rate": 1e-3, "max_steps": steps, "dropout": 0.1} | options
    texts = [
        "the cat sat on the mat",
        "big dog runs",
        "a happy cat",
        "the dog",
        "small cat",
        "a mat",
        "the big mat sat",
    ]
    return model, Trainer(model, objectives.InfoNCE(), **options).fit(texts)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_a_decoder_that_config_ties_and_that_differs_is_named(tmp_path, dtype):
    folder = bert_folder(tmp_path, extra=head_tensors("bert"), dtype=dtype)
    stored = load_file(folder / "model.safetensors")
    words = stored["embeddings.word_embeddings.weight"]
    edited = folder / "model.safetensors"
    save_file(stored | {"cls.predictions.decoder.weight": words.copy()}, edited)
    MaskedLanguageModel(SentenceEncoder(folder))  # tied and equal: nothing to say
    other = words.copy()
    other[-1, -1] += 1
    save_file(stored | {"cls.predictions.decoder.weight": other}, edited)
    model = SentenceEncoder(folder)
    with pytest.warns(SentpoolWarning, match=r"cls\.predictions\.decoder\.weight differs from the word embeddings"):
        masked = MaskedLanguageModel(model)
    assert "decoder.weight" not in masked.store.slices


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_untied_decoder_decodes_and_learns(tmp_path, kind):
    """Its gradients are those of the twin with this table, and the word table gets none of them."""
    name = {"bert": "cls.predictions.decoder.weight", "roberta": "lm_head.decoder.weight"}[kind]
    folder = bert_folder(tmp_path / "m", extra=head_tensors(kind) | {name: decoder()}, tie_word_embeddings=False)
    model = SentenceEncoder(folder)
    masked = MaskedLanguageModel(model, weight=1.0)
    rows, labels = np.random.default_rng(0).standard_normal((30, 24)).astype(np.float32), np.arange(30) % 20
    masked.start(30)
    words_gradient = np.zeros((len(VOCABULARY), 24), np.float32)
    d_rows = masked.backward(rows, labels, np.array([0, 30]), np.full_like(words_gradient, 7))
    loss = masked.finish(words_gradient)
    assert not words_gradient.any()
    p = {"dense": "dense.weight", "dense_bias": "dense.bias", "norm": "norm.weight", "norm_bias": "norm.bias"}
    p |= {"words": "decoder.weight", "bias": "bias"}
    wide = {ours: masked.store.parameter(part).astype(np.float64) for ours, part in p.items()}
    np.testing.assert_array_equal(wide["words"], decoder())
    expected, dx, gradients = mlm(rows.astype(np.float64), labels, wide, eps=1e-12)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(d_rows, dx, rtol=0, atol=1e-4 * np.abs(dx).max())
    for ours, part in p.items():
        gradient = masked.store.gradient(part)
        np.testing.assert_allclose(gradient, gradients[ours], rtol=0, atol=1e-4 * np.abs(gradients[ours]).max())
    trained(model)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["tie_word_embeddings"] is False
    assert saved[name].shape == decoder().shape and (saved[name] != decoder()).mean() > 0.9


def test_an_untied_decoder_that_is_missing_or_does_not_fit_is_named(tmp_path):
    tensors = head_tensors("bert")
    folder = bert_folder(tmp_path / "m", extra=tensors, tie_word_embeddings=False)
    with pytest.raises(ModelFolderError, match=r"cls\.predictions\.decoder\.weight' is missing"):
        MaskedLanguageModel(SentenceEncoder(folder))
    tensors |= {"cls.predictions.decoder.weight": np.zeros((3, 24), np.float32)}
    folder = bert_folder(tmp_path / "other", extra=tensors, tie_word_embeddings=False)
    with pytest.raises(ModelFolderError, match=r"decoder\.weight' has shape \(3, 24\)"):
        MaskedLanguageModel(SentenceEncoder(folder))


def same_head(one, other):
    assert one.tensors().keys() == other.tensors().keys() and one.is_tied == other.is_tied
    for name, array in one.tensors().items():
        np.testing.assert_array_equal(array, other.tensors()[name], err_msg=name)


@pytest.mark.filterwarnings("ignore:.*a fresh one is trained")
@pytest.mark.parametrize("family", ["bert", "bert untied", "bert fresh", "roberta", "modernbert", "electra", "albert"])
def test_a_trained_head_is_saved_and_trained_on(tmp_path, family):
    """In this process, from another one's pickle and from a folder: every time the next run begins with it."""
    if family.startswith("bert"):
        extra = {} if family == "bert fresh" else head_tensors("bert")
        if family == "bert untied":
            extra |= {"cls.predictions.decoder.weight": decoder()}
        folder = bert_folder(tmp_path / "m", extra=extra, tie_word_embeddings=family == "bert fresh" or len(extra) == 5)
    else:
        folder = family_folder(tmp_path / "m", family)
    model, _ = trained(SentenceEncoder(folder), output_dir=tmp_path / "run")
    head = MaskedLanguageModel(model).head
    assert not head.is_fresh and head.parameters["bias"].any()
    model.save_pretrained(tmp_path / "saved")
    opened = SentenceEncoder(tmp_path / "saved")
    for written in (tmp_path / "saved", tmp_path / "run" / "last"):
        same_head(read_head(written, opened.folder.config, 0), head)
    same_head(MaskedLanguageModel(pickle.loads(pickle.dumps(model))).head, head)
    assert opened.encode("the cat").tobytes() == model.encode("the cat").tobytes()
    losses = [[row["mlm_loss"] for row in trained(again, seed=1)[1].log] for again in (model, opened)]
    assert losses[0] == losses[1]


def test_without_a_trained_head_folders_are_as_before(tmp_path):
    folder = bert_folder(tmp_path / "m", extra=head_tensors("bert"))
    model, _ = trained(SentenceEncoder(folder), mlm_weight=0)
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == ["BertModel"]
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(model.folder.config.tensors())


@pytest.fixture
def model(tmp_path):
    return SentenceEncoder(bert_folder(tmp_path, extra=head_tensors("bert")))


def test_a_step_is_the_same_in_chunks_as_in_one_piece(model):
    batch = model.tokenizer.encode(["the cat sat on the mat"] * 40 + ["big dog runs"] * 30)
    table = np.random.default_rng(0).standard_normal((len(VOCABULARY), 24)).astype(np.float32)
    results = []
    for bounds in ([0, 70], [0, 32, 64, 70]):
        masked = MaskedLanguageModel(model, weight=0.3, seed=1, threads=2)
        chosen = masked.choose(batch.ids, batch.offsets, step=2)
        states = np.random.default_rng(1).standard_normal((len(chosen.positions), 24)).astype(np.float32)
        masked.start(len(chosen.positions))
        d_rows = []
        for first, end in zip(bounds[:-1], bounds[1:], strict=True):
            offsets = batch.offsets[first : end + 1] - batch.offsets[first]
            mine = slice(*np.searchsorted(chosen.positions, batch.offsets[[first, end]]))
            positions = chosen.positions[mine] - batch.offsets[first]
            groups = np.unique([*range(0, end - first, 32), end - first])
            cuts = masked.cuts(positions, offsets, groups)
            d_rows.append(masked.backward(states[mine], chosen.labels[mine], cuts, table))
        d_table = np.ones_like(table)
        loss = masked.finish(d_table)
        results.append((loss, np.concatenate(d_rows), d_table, masked.store.gradients.copy()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    loss, d_rows, d_table, _ = results[0]
    p = {"words": table, "bias": masked.store.parameter("bias")}
    p |= {"dense": masked.store.parameter("dense.weight"), "dense_bias": masked.store.parameter("dense.bias")}
    p |= {"norm": masked.store.parameter("norm.weight"), "norm_bias": masked.store.parameter("norm.bias")}
    wide = {name: array.astype(np.float64) for name, array in p.items()}
    expected, dx, gradients = mlm(states.astype(np.float64), chosen.labels, wide, eps=1e-12)
    assert loss == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(d_rows, 0.3 * dx, rtol=0, atol=1e-4 * np.abs(dx).max())
    np.testing.assert_allclose(d_table - 1, 0.3 * gradients["words"], atol=1e-4 * np.abs(gradients["words"]).max())


def test_special_tokens_are_never_chosen(model):
    batch = model.tokenizer.encode(["the cat sat 中 zzz"] * 200)
    masked = MaskedLanguageModel(model)
    chosen = masked.choose(batch.ids, batch.offsets, step=0)
    special = {VOCABULARY.index(token) for token in ("[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]")}
    assert special & set(batch.ids.tolist()) and not special & set(chosen.labels.tolist())
    assert VOCABULARY.index("[MASK]") in chosen.ids and len(chosen.labels) > 50


def test_nothing_chosen_is_no_loss(model):
    masked = MaskedLanguageModel(model)
    masked.start(0)
    rows = np.zeros((0, 24), np.float32)
    table = np.zeros((len(VOCABULARY), 24), np.float32)
    assert masked.backward(rows, [], masked.cuts([], [0, 3], [0, 1]), table).shape == (0, 24)
    assert masked.finish(table) == 0 and not table.any()


def test_groups_of_long_sentences_are_cut(model):
    masked = MaskedLanguageModel(model)
    positions = np.arange(0, 700, 10)
    cuts = masked.cuts(positions, np.array([0, 20, 600, 610, 700]), np.array([0, 1, 2, 4]))
    # tokens 0, 20, 276, 532, 600, 700
    assert cuts.tolist() == [0, 2, 28, 54, 60, 70]


@pytest.mark.parametrize(("arguments", "message"), [({"weight": 0}, "weight is 0"), ({"seed": -1}, "seed is -1")])
def test_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskedLanguageModel(model, **arguments)
