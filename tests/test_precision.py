"""Encoders in bfloat16 and int8: equal bits, what they cost, saving, and the choice of smoothing powers."""

from __future__ import annotations

import hashlib
import html
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from fabricate import bert_config, bert_folder, bert_tensors, sentence_transformers_folder
from fabricate_families import CONFIGS, family_folder

import sentpool
from sentpool import ModelFolderError, SentenceEncoder, _core, evaluation, precision

LOW = [{"dtype": "bfloat16"}, {"dtype": "int8", "int8": "fast"}, {"dtype": "int8", "int8": "balanced"}]
each_precision = pytest.mark.parametrize("options", LOW, ids=lambda o: o.get("int8") or o["dtype"])
WORDS = "a the dog red runs over 12 lazily, into München's café where nobody — really — waits; 東京 is far".split()
TEXTS = [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % len(WORDS)] for j in range(2 + i)) + f" {i}" for i in range(40)]


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.fixture(scope="module")
def models(minilm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {str(o): SentenceEncoder(minilm, **o) for o in [{}, *LOW]}


# ---- bits --------------------------------------------------------------------------------------------------------


@each_precision
def test_batch_order_and_threads_change_nothing(models, options):
    model = models[str(options)]
    expected = dict(zip(TEXTS, model.encode(TEXTS, threads=1), strict=True))
    for threads in (1, 2, 3):
        for batch_size in (1, 8, 64):
            for texts in (TEXTS, TEXTS[::-1], TEXTS[7:8], TEXTS[3:20] + TEXTS[:2]):
                vectors = model.encode(texts, threads=threads, batch_size=batch_size)
                assert vectors.tobytes() == np.stack([expected[text] for text in texts]).tobytes()


CHILD = """
import hashlib, sys, warnings
warnings.simplefilter("ignore")
from sentpool import SentenceEncoder
for mode in ("fast", "balanced"):
    model = SentenceEncoder(sys.argv[1], dtype="int8", int8=mode)
    print(hashlib.sha256(model.layer_states(sys.argv[2:]).array.tobytes()).hexdigest(), model.precision.quality)
"""


@pytest.mark.parametrize("isa", [isa for isa in _core.isas() if isa in ("avx2", "avx512")])
def test_int8_has_the_same_bits_on_every_instruction_set(minilm, models, isa):
    """Calibration too: the child chooses its powers itself."""
    texts = TEXTS[:12]
    expected = ""
    for mode in ("fast", "balanced"):
        model = models[str({"dtype": "int8", "int8": mode})]
        digest = hashlib.sha256(model.layer_states(texts).array.tobytes()).hexdigest()
        expected += f"{digest} {model.precision.quality}\n"
    for gemm in ("panel", "blis"):
        run = subprocess.run(
            [sys.executable, "-c", CHILD, str(minilm), *texts],
            env=os.environ | {"SENTPOOL_ISA": isa, "SENTPOOL_GEMM": gemm},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout == expected


@pytest.mark.parametrize("mode", ["fast", "balanced"])
def test_int8_has_the_bits_of_the_scalar_twins(tmp_path, mode):
    """A small model, for plain C is slow; odd sizes, so that every panel has parts that are filled up."""
    folder = bert_folder(tmp_path / "m")
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy", "é e ! ?", "the small cat sat on the happy dog ."]
    model = SentenceEncoder(folder, dtype="int8", int8=mode)
    script = (
        "import sys, sentpool; m = sentpool.SentenceEncoder(sys.argv[1], dtype='int8', int8=sys.argv[2]);"
        "sys.stdout.buffer.write(m.layer_states(sys.argv[3:]).array.tobytes())"
    )
    for isa in ("scalar", "generic"):
        run = subprocess.run(
            [sys.executable, "-c", script, str(folder), mode, *texts],
            env=os.environ | {"SENTPOOL_ISA": isa},
            capture_output=True,
        )
        assert run.returncode == 0, run.stderr.decode()
        assert run.stdout == model.layer_states(texts).array.tobytes()


@pytest.mark.parametrize("options", LOW, ids=str)
def test_low_precision_has_the_same_bits_beside_blis(tmp_path, options):
    """Sizes that fill no panel: in low precision there are panels whatever computes the rest."""
    folder = bert_folder(tmp_path / "m", hidden_size=36, num_attention_heads=3, intermediate_size=52)
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy"]
    script = (
        "import json, sys, sentpool; m = sentpool.SentenceEncoder(sys.argv[1], **json.loads(sys.argv[2]));"
        "sys.stdout.buffer.write(m.layer_states(sys.argv[3:]).array.tobytes())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(folder), json.dumps(options), *texts],
        env=os.environ | {"SENTPOOL_GEMM": "blis"},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout == SentenceEncoder(folder, **options).layer_states(texts).array.tobytes()


@pytest.mark.parametrize("isa", [isa for isa in _core.isas() if isa != "avx512"])
def test_bfloat16_without_a_unit_is_float32_with_rounded_weights(tmp_path, isa):
    """Where products are not the unit's: the same bits as a float32 model whose weights were rounded beforehand."""
    tensors = bert_tensors(bert_config())

    def to_nearest_even(x):
        bits = x.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)

    kept = ("position_embeddings", "token_type_embeddings")
    rounded = {
        name: to_nearest_even(array) if array.ndim == 2 and not any(part in name for part in kept) else array
        for name, array in tensors.items()
    }
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy", "é e ! ?"]
    expected = SentenceEncoder(bert_folder(tmp_path / "rounded", tensors=rounded)).layer_states(texts).array
    script = (
        "import sys, sentpool; m = sentpool.SentenceEncoder(sys.argv[1], dtype='bfloat16');"
        "sys.stdout.buffer.write(m.layer_states(sys.argv[2:]).array.tobytes())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(bert_folder(tmp_path / "m", tensors=tensors)), *texts],
        env=os.environ | {"SENTPOOL_ISA": isa},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout == expected.tobytes()


# ---- what it costs -------------------------------------------------------------------------------------------------


def test_loss_on_texts_that_were_not_calibrated_on(models):
    reference = models["{}"].encode(TEXTS)
    lowest = {"bfloat16": 0.9998, "fast": 0.985, "balanced": 0.99}
    for options in LOW:
        name = options.get("int8") or options["dtype"]
        assert cosines(models[str(options)].encode(TEXTS), reference).min() > lowest[name], name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_loss_on_sts(models, minilm_scores, data_dir):
    """At most 0.02 points for bfloat16 and 0.1 for int8 balanced (`all`; 0.05 and 0.25 for the means)."""
    bfloat16, _, balanced = (str(options) for options in LOW)
    bounds = {bfloat16: (0.0002, 0.0005), balanced: (0.001, 0.0025)}
    for name, (of_all, of_mean) in bounds.items():
        scores = evaluation.sts(models[name], data_dir / "sts", resamples=0)
        for task in evaluation.report.STANDARD_SEVEN:
            for aggregation, limit in (("all", of_all), ("mean", of_mean), ("wmean", of_mean)):
                gap = scores.spearman(task, aggregation) - minilm_scores.spearman(task, aggregation)
                assert abs(gap) <= limit, (name, task, aggregation, gap)


@pytest.mark.parametrize("sizes", [{}, {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 200}])
def test_random_models_are_near(tmp_path, sizes):
    folder = bert_folder(tmp_path / "m", **sizes)
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy", "é e ! ?"]
    reference = SentenceEncoder(folder).encode(texts)
    for options, lowest in zip(LOW, (0.9999, 0.998, 0.999), strict=True):
        assert cosines(SentenceEncoder(folder, **options).encode(texts), reference).min() > lowest, options


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_is_near(tmp_path, family):
    folder = family_folder(tmp_path / "m", family)
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy", "the " * 30]
    reference = SentenceEncoder(folder).layer_states(texts).array
    for options, lowest in zip(LOW, (0.999, 0.99, 0.99), strict=True):
        model = SentenceEncoder(folder, **options)
        states = model.layer_states(texts, threads=1).array
        width = states.shape[-1]
        assert cosines(states.reshape(-1, width), reference.reshape(-1, width)).min() > lowest, options
        assert states.tobytes() == model.layer_states(texts, threads=3, batch_size=1).array.tobytes()
        assert bool(model.precision.two_digits) == (model.dtype == "int8")


def test_layers_poolings_and_the_probe_work(models, tmp_path):
    for options in LOW:
        model = models[str(options)]
        states = model.layer_states(TEXTS[:6])
        full = models["{}"].layer_states(TEXTS[:6])
        assert states.array.shape == full.array.shape
        for layer in range(model.n_layers + 1):
            assert cosines(states.array[:, layer, 1], full.array[:, layer, 1]).min() > 0.98
        assert (
            cosines(model.encode(TEXTS, pooling="first_last"), models["{}"].encode(TEXTS, pooling="first_last")).min()
            > 0.98
        )
        assert len(model.hidden_states(TEXTS[0])) == model.n_layers + 1
        assert model.encode(TEXTS[0], pooling="sbert_wk").shape == (384,)


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_process_with_bert_base_is_smaller():
    """At most 0.6 and 0.4 of the memory in float32, the interpreter and all else included, and no more on the way."""
    shape = {"vocab_size": 30522, "max_positions": 512, "type_vocab_size": 2, "hidden": 768, "layers": 12}
    script = (
        "import re, sys, numpy, sentpool; from sentpool import _core\n"
        "used = lambda what: int(re.search(what + ':\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        f"model = _core.Model(**{shape}, heads=12, intermediate=3072, dtype=sys.argv[1])\n"
        "for name, s in model.tensors().items():\n"
        "    for first in range(0, s[0], 500):\n"
        "        model.load(name, first, numpy.full((min(500, s[0] - first), *s[1:]), 0.01, numpy.float32))\n"
        "model.finish()\n"
        "print(used('VmRSS'), used('VmHWM'))"
    )
    used = {
        dtype: [
            int(kilobytes)
            for kilobytes in subprocess.run(
                [sys.executable, "-c", script, dtype], capture_output=True, text=True, check=True
            ).stdout.split()
        ]
        for dtype in precision.DTYPES
    }
    now, peak = used["float32"]
    assert used["bfloat16"][0] <= 0.6 * now and used["int8"][0] <= 0.4 * now, used
    assert used["bfloat16"][1] <= peak and used["int8"][1] <= peak, used


LOADED = """
import re, sys, warnings
warnings.simplefilter("ignore")
from sentpool import SentenceEncoder
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
SentenceEncoder(sys.argv[1], dtype=sys.argv[2])
print(peak() - before)
"""


def test_loading_needs_no_more_memory_than_in_float32(tmp_path):
    """Also where int8 has to look at sentences first, in a part of the float32 model."""
    folder = bert_folder(
        tmp_path / "m", vocab_size=30000, hidden_size=256, num_attention_heads=4, intermediate_size=1024
    )

    def peak(dtype: str) -> int:
        command = [sys.executable, "-c", LOADED, str(folder), dtype]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # Other libraries' threads keep memory by chance, up to two megabytes here: the least of three runs has none of it.
    used = {dtype: min(peak(dtype) for _ in range(3)) for dtype in precision.DTYPES}
    assert used["float32"] > 30_000
    assert used["int8"] < 0.95 * used["float32"] and used["bfloat16"] < 0.95 * used["float32"]


RESIDENT = """
import re, sys, warnings
warnings.simplefilter("ignore")
from sentpool import SentenceEncoder
model = SentenceEncoder(sys.argv[1], dtype="int8")
print(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def test_calibrating_leaves_no_memory_behind(tmp_path):
    folder = bert_folder(
        tmp_path / "m", vocab_size=30000, hidden_size=256, num_attention_heads=4, intermediate_size=1024
    )
    SentenceEncoder(folder, dtype="int8").save_pretrained(tmp_path / "saved")
    calibrated, saved = (
        int(subprocess.run([sys.executable, "-c", RESIDENT, str(f)], capture_output=True, text=True, check=True).stdout)
        for f in (folder, tmp_path / "saved")
    )
    assert calibrated < saved + 8_000  # kilobytes; 13,000 more without giving them back


# ---- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "sbert_wk", "layer_attention"])
def test_opening_calibrates_as_quantize_does(tmp_path, pooling):
    """Behind the prompt both times; the vectors in float32 are those of a part of the model, to the same bits."""
    folder = sentence_transformers_folder(tmp_path / "m")
    settings = {"prompts": {"query": "the big dog runs : "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    whole = SentenceEncoder(folder)
    if pooling == "layer_attention":
        pooling = sentpool.pooling.initial(pooling, whole.n_layers, whole.hidden_size, 0)
    whole.pooling = pooling
    quantized, opened = whole.quantize(), SentenceEncoder(folder, pooling=pooling, dtype="int8")
    assert opened.precision.facts() == quantized.precision.facts()
    assert opened.precision.quality == quantized.precision.quality
    assert opened.encode(TEXTS).tobytes() == quantized.encode(TEXTS).tobytes()
    sentences = precision.bundled_sentences()
    found = cosines(quantized.encode(sentences), whole.encode(sentences))
    assert quantized.precision.quality.n == len(sentences) == 400
    assert quantized.precision.quality.cosine_min == pytest.approx(found.min(), abs=1e-12)
    assert quantized.precision.quality.cosine_mean == pytest.approx(found.mean(), abs=1e-12)


@pytest.mark.parametrize("family", ["bert", *CONFIGS])
def test_powers_are_those_of_the_whole_models_inputs(tmp_path, family):
    folder = bert_folder(tmp_path / "m") if family == "bert" else family_folder(tmp_path / "m", family)
    model = SentenceEncoder(folder)
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy", ""]
    model._core.watch(True)
    model.layer_states(texts, threads=1)
    expected = precision.smoothing_powers(model._core.input_ranges())
    model._core.watch(False)
    found = model.quantize(texts).precision.powers
    assert set(found) == set(expected) == set(model._core.linear_layers())
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_model_encodes_while_it_is_quantized(models):
    """Inputs are watched in a core that nobody else uses."""
    model, expected, stop = models["{}"], models["{}"].encode(TEXTS), threading.Event()
    wrong = []

    def encode():
        while not stop.is_set():
            wrong.extend([1] * (model.encode(TEXTS, threads=2).tobytes() != expected.tobytes()))

    thread = threading.Thread(target=encode)
    thread.start()
    powers = [model.quantize(TEXTS[:4]).precision.facts()["powers_sha256"] for _ in range(3)]
    stop.set()
    thread.join()
    assert not wrong and set(powers) == {model.quantize(TEXTS[:4]).precision.facts()["powers_sha256"]}


def test_a_quantized_model_has_settings_of_its_own(minilm):
    model = SentenceEncoder(minilm)
    model.max_seq_length, model.prompts["q"] = 20, "query: "
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the folder has to say was said
        small = model.quantize(TEXTS[:4], dtype="bfloat16")
    assert small.max_seq_length == 20 and small.prompts == {"q": "query: "}
    small.max_seq_length, small.prompts["r"], small.pooling = 8, "", "cls"
    assert model.max_seq_length == 20 and model.prompts == {"q": "query: "} and str(model.pooling) != "cls"
    # What was measured says how, whatever is set later.
    assert small.precision.quality.pooling == str(model.pooling) == "mean, normalize"
    assert f"on 4 sentences (given sentences; {model.pooling})" in repr(small)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_part_of_the_model_calibrates_every_family_as_all_of_it_does(tmp_path, family):
    folder = family_folder(tmp_path / "m", family)
    texts = ["the cat sat on the mat", "a big dog runs", "unhappy", ""]
    whole = SentenceEncoder(folder)
    part = precision._FewWords(whole.folder, whole.tokenizer.encode(texts).ids)
    batch = whole.tokenizer.encode(texts)
    layers, tokens = range(whole.n_layers + 1), ("mean",)
    states = [core.layer_states(batch.ids, batch.offsets, layers, tokens) for core in (whole._core, part)]
    assert states[0].tobytes() == states[1].tobytes()


def test_layers_above_the_pooling_are_calibrated_too(tmp_path):
    """A folder is opened with other poolings than the one that it was calibrated with."""
    folder = bert_folder(tmp_path / "m")
    digests = {
        SentenceEncoder(folder, pooling=pooling, dtype="int8").precision.facts()["powers_sha256"]
        for pooling in ("mean", "layers=[1]", "layers=[0]")
    }
    assert len(digests) == 1


def test_the_feed_forwards_that_gain_most_have_two_digits(models, tmp_path, monkeypatch):
    """Held against models that were saved with a second digit in one feed-forward alone."""
    monkeypatch.setattr(precision, "_COMPARED", 13)
    some = TEXTS[::4]  # 10 of 40; with every third it would be 14
    small = models["{}"].quantize(TEXTS)
    assert len(small.precision.two_digits) == 2 == small.n_layers / 3
    small.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / precision.SCALES_FILE
    content = json.loads(path.read_text())
    reference = models["{}"].layer_states(some, tokens=("mean",)).array[:, -1].astype(np.float64)
    distances = {}
    for layer in range(small.n_layers):
        name = f"encoder.layer.{layer}.output.dense.weight"
        path.write_text(json.dumps(content | {"two_digits": [name]}))
        states = SentenceEncoder(tmp_path / "m", dtype="int8").layer_states(some, tokens=("mean",)).array[:, -1]
        distances[name] = np.linalg.norm(states - reference)
    assert set(small.precision.two_digits) == set(sorted(distances, key=distances.get)[:2])


def test_digits_that_cannot_be_are_refused(models):
    core = models[str(LOW[2])]._core
    name = "encoder.layer.0.output.dense.weight"
    for arguments, match in (
        ((name, 0), "number of digits"),
        ((name, 3), "number of digits"),
        (("nonsense", 1), "no tensor named"),
        (("encoder.layer.0.attention.self.key.weight", 1), "no first weight"),
    ):
        with pytest.raises(ValueError, match=match):
            core.set_digits(*arguments)
    with pytest.raises(ValueError, match="no first weight of a linear layer in int8"):
        models["{}"]._core.set_digits(name, 2)


# ---- saving ----------------------------------------------------------------------------------------------------------


def test_a_quantized_model_is_saved_and_opened_to_the_same_bits(models, minilm, tmp_path):
    small = models["{}"].quantize(TEXTS, int8="balanced")
    assert small.precision.calibrated_on == "given sentences" and small.precision.quality.n == len(TEXTS)
    small.save_pretrained(tmp_path / "m")
    opened = SentenceEncoder(tmp_path / "m", dtype="int8")
    assert opened.precision.calibrated_on == "given sentences"
    assert opened.precision.quality == small.precision.quality
    assert opened.encode(TEXTS).tobytes() == small.encode(TEXTS).tobytes()
    # The other mode shares the powers; what was measured for one says nothing of the other.
    assert SentenceEncoder(tmp_path / "m", dtype="int8", int8="fast").precision.quality is None
    assert SentenceEncoder(tmp_path / "m").encode(TEXTS).tobytes() == models["{}"].encode(TEXTS).tobytes()
    assert pickle.loads(pickle.dumps(small)).encode(TEXTS[:3]).tobytes() == small.encode(TEXTS[:3]).tobytes()


def test_scales_go_along_with_their_weights(models, tmp_path):
    """Through a model in float32, too, but not to weights that were trained since, nor what int8 would refuse."""
    models["{}"].quantize(TEXTS[:4]).save_pretrained(tmp_path / "int8")
    whole = SentenceEncoder(tmp_path / "int8")
    whole.save_pretrained(tmp_path / "float32")
    files = [(tmp_path / name / precision.SCALES_FILE).read_bytes() for name in ("int8", "float32")]
    assert files[0] == files[1]
    assert SentenceEncoder(tmp_path / "float32", dtype="int8").precision.calibrated_on == "given sentences"
    sentpool.Trainer(whole, sentpool.objectives.InfoNCE(), max_steps=1, batch_size=2).fit([("a", "b"), ("c", "d")])
    whole.save_pretrained(tmp_path / "trained")
    (tmp_path / "int8" / precision.SCALES_FILE).write_text("{}")
    SentenceEncoder(tmp_path / "int8").save_pretrained(tmp_path / "refused")
    assert not any((tmp_path / name / precision.SCALES_FILE).exists() for name in ("trained", "refused"))


def test_a_broken_file_of_powers_is_refused(models, tmp_path):
    models[str(LOW[2])].save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / precision.SCALES_FILE
    good = json.loads(path.read_text())
    name = "encoder.layer.0.attention.self.query.weight"

    def refused(match, **changes):
        path.write_text(json.dumps(good | changes))
        with pytest.raises(ModelFolderError, match=match):
            SentenceEncoder(tmp_path / "m", dtype="int8")

    refused("format", format=1)
    refused("format", format=3)
    for names in ("x", [1], None):
        refused("'two_digits'", two_digits=names)
    for other in ("encoder.layer.0.attention.output.dense.weight", "encoder.layer.6.output.dense.weight"):
        refused(f"{other}': that is no feed-forward", two_digits=[other])
    refused("no tensor of this encoder", powers={"nonsense": [1]})
    refused("384 integers", powers=good["powers"] | {name: [1, 2]})
    refused("384 integers", powers=good["powers"] | {name: [65] * 384})
    refused("384 integers", powers=good["powers"] | {name: [0.5] * 384})
    refused(
        f"powers of '{name}' are missing", powers={key: good["powers"][key] for key in good["powers"] if key != name}
    )
    refused("are missing", powers={})
    refused("key.weight': that is no first", powers=good["powers"] | {name.replace("query", "key"): [0] * 384})
    refused("powers", powers=[1])
    refused("'int8' is 'best'", int8="best")
    refused("'quality.cosine_min' is missing", quality={"nonsense": 1})
    for field, value in {"n": "x", "cosine_mean": 5, "pooling": None, "sts": {"STSB-test": [1.0]}}.items():
        refused(f"quality.{field}", quality=good["quality"] | {field: value})
    path.write_text("{")
    with pytest.raises(ModelFolderError, match="not valid JSON"):
        SentenceEncoder(tmp_path / "m", dtype="int8")


def test_powers_for_other_weights_are_refused(tmp_path):
    """Their names and lengths fit, but neither they nor what was measured are about this model."""
    folders = [bert_folder(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    SentenceEncoder(folders[0]).quantize(["the cat sat"]).save_pretrained(tmp_path / "m")
    powers = tmp_path / "m" / precision.SCALES_FILE
    assert SentenceEncoder(tmp_path / "m", dtype="int8").precision.calibrated_on == "given sentences"
    (folders[0] / powers.name).write_bytes(powers.read_bytes())  # the same weights, in another file
    assert SentenceEncoder(folders[0], dtype="int8").precision.calibrated_on == "given sentences"
    (folders[1] / powers.name).write_bytes(powers.read_bytes())
    with pytest.raises(ModelFolderError, match="made for other weights than those beside it; quantize the model anew"):
        SentenceEncoder(folders[1], dtype="int8")
    assert SentenceEncoder(folders[1]).dtype == "float32"


def test_a_folder_that_changed_is_not_quantized(tmp_path):
    model = SentenceEncoder(bert_folder(tmp_path / "m"))
    bert_folder(tmp_path / "m", seed=1, num_hidden_layers=1)
    for options in ({}, {"dtype": "bfloat16"}):
        with pytest.raises(ModelFolderError, match="changed since the model was opened: config.json, model"):
            model.quantize(["the cat"], **options)


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"int8": "fast"}])
def test_sts_goes_into_the_quality(tmp_path, options):
    """Spearman × 100 of both models, in the file too."""
    data = tmp_path / "sts"
    data.mkdir()
    pairs = [
        ("the cat sat", "a big dog runs !"),
        ("unhappy", "é"),
        ("the dog runs", "the cat runs"),
        ("e ! ?", "e ! ?"),
    ]
    (data / "ours.tsv").write_text("".join(f"{score}\t{a}\t{b}\n" for score, (a, b) in enumerate(pairs)))
    model = SentenceEncoder(bert_folder(tmp_path / "m"))
    small = model.quantize(["the cat", "a dog"], sts_folder=data, tasks=iter(["sts"]), **options)
    expected = [100 * evaluation.sts(encoder, data, resamples=0).spearman("sts") for encoder in (model, small)]
    assert small.precision.quality.sts == {"sts": pytest.approx(tuple(expected))}
    assert abs(expected[0]) > 1
    assert f"Spearman × 100 against float32: sts {expected[1] - expected[0]:+.2f}" in repr(small)
    if small.dtype == "int8":
        small.save_pretrained(tmp_path / "small")
        assert SentenceEncoder(tmp_path / "small", dtype="int8", **options).precision.quality == small.precision.quality


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_arguments_are_checked(models, minilm):
    with pytest.raises(ValueError, match="dtype"):
        SentenceEncoder(minilm, dtype="float16")
    with pytest.raises(ValueError, match="int8 is 'best'"):
        SentenceEncoder(minilm, dtype="int8", int8="best")
    with pytest.raises(ValueError, match="goes with dtype='int8'"):
        SentenceEncoder(minilm, int8="fast")
    with pytest.raises(ValueError, match="float32"):
        models[str(LOW[0])].quantize(TEXTS)
    with pytest.raises(ValueError, match="sentences is empty"):
        models["{}"].quantize([])
    with pytest.raises(ValueError, match="makes a model in"):
        models["{}"].quantize(TEXTS, dtype="float32")
    with pytest.raises(ValueError, match="tasks= goes with sts_folder="):
        models["{}"].quantize(TEXTS, tasks=["STSB-test"])
    with pytest.raises(TypeError, match="sentences"):
        models["{}"].quantize([1])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        models["{}"].quantize(TEXTS, sts_folder="nowhere")


def test_a_model_says_what_it_is(models):
    small = models[str(LOW[2])]
    assert "dtype=int8 (balanced)" in repr(small) and "lowest" in repr(small)
    assert f"quality={small.precision.quality}" in repr(small)
    assert "quality" not in repr(models["{}"])
    facts = small.provenance()["precision"]
    assert facts.pop("powers_sha256") == models[str(LOW[1])].provenance()["precision"]["powers_sha256"]
    two_digits = [int(name.removeprefix("encoder.layer.")[0]) for name in small.precision.two_digits]
    assert facts == {
        "dtype": "int8",
        "int8": "balanced",
        "calibrated_on": "bundled sentences",
        "two_digits": two_digits,
    }
    assert "two_digits" not in models[str(LOW[1])].provenance()["precision"]
    # Two calibrations give other bits, so no folder of shards may hold both.
    others = [models["{}"].quantize(texts).provenance()["precision"] for texts in (TEXTS[:4], TEXTS[30:], TEXTS[:4])]
    assert others[0] == others[2] and others[0]["powers_sha256"] != others[1]["powers_sha256"]
    assert models["{}"].provenance()["precision"] == {"dtype": "float32"}
    assert "unit" in models[str(LOW[0])].provenance()["precision"]


def test_a_model_says_what_was_not_measured_and_what_measures_it(models, tmp_path):
    """What the remedy gives is said by the model that it makes."""
    models[str(LOW[2])].save_pretrained(tmp_path / "m")
    unmeasured = {"bfloat16": models[str(LOW[0])], "fast": SentenceEncoder(tmp_path / "m", **LOW[1])}
    for name, options in zip(unmeasured, LOW, strict=False):
        model = unmeasured[name]
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
        for shown in (repr(model), html.unescape(model._repr_html_())):
            assert model.dtype in shown and f"not measured (quantize(sentences, {arguments}) of the model in" in shown
        measured = models["{}"].quantize(TEXTS, **options)
        assert f"quality={measured.precision.quality}" in repr(measured)


# ---- smoothing -------------------------------------------------------------------------------------------------------


def test_powers_are_the_nearest():
    ratios = np.exp(np.random.default_rng(0).uniform(-20, 20, 5000))
    expected = np.array([round(4 * math.log2(ratio)) for ratio in ratios])
    assert (precision.nearest_power(ratios) == expected).all()
    assert precision.nearest_power(np.array([1.0, 2.0, 16.0, 0.25])).tolist() == [0, 4, 16, -8]


def test_powers_of_columns_that_say_nothing_are_zero():
    low, high = np.array([0, -4, np.inf, 0], np.float32), np.array([0, 1, -np.inf, 2], np.float32)
    weight = np.array([1, 1, 1, 0], np.float32)
    assert precision.smoothing_powers({"w": (low, high, weight)})["w"].tolist() == [0, 8, 0, 0]


def test_ranges_are_those_of_the_inputs(tmp_path):
    folder = bert_folder(tmp_path / "m")
    model = SentenceEncoder(folder)
    texts = ["the cat sat on the mat", "a big dog"]
    model._core.watch(True)
    model.encode(texts, threads=1)
    ranges = model._core.input_ranges()
    model._core.watch(False)
    assert model._core.input_ranges() == {}
    states = np.concatenate(model.hidden_states(texts), axis=1)
    from safetensors.numpy import load_file

    stored = load_file(folder / "model.safetensors")
    for layer in range(model.n_layers):
        names = [f"encoder.layer.{layer}.attention.self.{part}.weight" for part in ("query", "key", "value")]
        low, high, weight = ranges[names[0]]
        assert (low == states[layer].min(0)).all() and (high == states[layer].max(0)).all()
        assert (weight == np.abs(np.concatenate([stored[name] for name in names])).max(0)).all()
        assert names[1] not in ranges


def test_the_core_trains_in_float32_alone(models):
    for options in LOW:
        with pytest.raises(ValueError, match="float32"):
            _core.Training(models[str(options)]._core)


def test_a_model_trained_since_is_not_quantized_as_it_was(tmp_path):
    """Weights are read from the folder, where the trained ones are not."""
    model = SentenceEncoder(bert_folder(tmp_path / "m"))
    sentpool.Trainer(model, sentpool.objectives.InfoNCE(), dropout=0.1, max_steps=1, batch_size=2).fit(
        ["the cat sat", "a big dog runs"]
    )
    for options in ({}, {"dtype": "bfloat16"}):
        with pytest.raises(ValueError, match="trained since it was opened"):
            model.quantize(["the cat", "a dog"], **options)
    model.save_pretrained(tmp_path / "trained")
    opened = SentenceEncoder(tmp_path / "trained")
    assert cosines(opened.quantize(["the cat", "a dog"]).encode(["a cat"]), opened.encode(["a cat"])).min() > 0.99
