"""In what precision an encoder computes, and what int8 needs besides the weights: factors that smooth its inputs, and
which layers' inputs gain most by a second digit.

Before a linear layer in int8, column c of its input x is divided by s_c and the weights are multiplied by it, with
s_c = sqrt(max |x_c| / max |w_c|), as SmoothQuant has it (Xiao et al., ICML 2023, equation 4 with α = 1/2). The ranges
of x come from a few hundred sentences. Each factor is rounded to a power of 2^(1/8) and kept as that power, found by
comparisons alone, so that every CPU finds the same. A second digit's gain is measured layer by layer, by exact sums.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sentpool import _core, weights
from sentpool.checks import one_of, sentence_list
from sentpool.digests import sha256
from sentpool.errors import ModelFolderError, shown
from sentpool.fields import Fields, is_there
from sentpool.precision_quality import Quality, measure, read_quality
from sentpool.tensor_file import StoredTensor

DTYPES = ("float32", "bfloat16", "int8")
INT8_MODES = ("balanced", "fast")
SCALES_FILE = "sentpool_int8.json"
_FORMAT = 2
# What reads a feed-forward's inner activations; up to so many sentences say where a second digit pays.
_FEED_FORWARD = re.compile(r"encoder\.layer\.\d+\.output\.dense\.weight")
_COMPARED = 100
# 2^(1/8) to this power is a factor of 256, beyond which smoothing never needs to go.
_MOST = 64


@dataclass(frozen=True)
class Precision:
    """The precision of an encoder.

    Attributes
    ----------
    dtype : {"float32", "bfloat16", "int8"}
    int8 : {"balanced", "fast"} or None
        With int8: whether the inner activations of a third of the feed-forwards have two digits, 15 bits ("balanced"),
        or all have one of 8 bits ("fast").
    powers : dict of str to ndarray, int8
        By the name of a linear layer's weight, the power of 2^(1/8) that each of its columns is smoothed by.
    two_digits : tuple of str
        Weights, by their names, of the feed-forwards that gain most by a second digit; "fast" makes no use of it.
    calibrated_on : str
        Whose sentences gave these powers and names.
    quality : Quality or None
        What the precision costs, where that was measured.
    """

    dtype: str = "float32"
    int8: str | None = None
    powers: Mapping[str, np.ndarray] | None = None
    two_digits: tuple[str, ...] = ()
    calibrated_on: str = ""
    quality: Quality | None = None

    def __str__(self) -> str:
        return self.dtype if self.int8 is None else f"{self.dtype} ({self.int8})"

    def cost(self) -> str | None:
        """What it costs in words, or how to find out; None in float32, which costs nothing."""
        if self.dtype == "float32":
            return None
        if self.quality is not None:
            return str(self.quality)
        mode = "" if self.int8 is None else f", int8={self.int8!r}"
        return f"not measured (quantize(sentences, dtype={self.dtype!r}{mode}) of the model in float32 measures it)"

    def facts(self) -> dict:
        """What tells this precision from another, ready for JSON."""
        facts = {"dtype": self.dtype}
        if self.dtype == "bfloat16":
            return facts | {"unit": _core.low_precision_units()["bfloat16"]}
        if self.int8 is None:
            return facts
        if self.int8 == "balanced":
            facts["two_digits"] = [int(name.split(".")[2]) for name in self.two_digits]
        return facts | {"int8": self.int8, "calibrated_on": self.calibrated_on, "powers_sha256": self._powers_sha256()}

    def _powers_sha256(self) -> str:
        """Other sentences give other powers, and these other bits."""
        digest = sha256()
        for name, powers in sorted((self.powers or {}).items()):
            digest.update(name.encode() + b"\0" + powers.astype(np.int8).tobytes())
        return digest.hexdigest()

    def open_core(self, folder):
        """The folder's encoder as a `_core.Model` in this precision, its weights loaded."""
        core = _core.Model(**folder.config.core_arguments(), dtype=self.dtype)
        if self.powers is not None:
            _check_layers(self.powers, core.linear_layers(), folder.transformer_path / SCALES_FILE)
        self.spend_digits(core)
        for name, powers in (self.powers or {}).items():
            core.smooth(name, powers)
        weights.load_into(core, folder.transformer_path, folder.config, folder.head_tensors)
        core.finish()
        return core

    def spend_digits(self, core) -> None:
        """Give the layers of a core in int8 their second digits."""
        if self.int8 == "balanced":
            for name in self.two_digits:
                core.set_digits(name, 2)

    def save(self, folder: Path, tensors: Mapping[str, StoredTensor], source) -> None:
        """Write `sentpool_int8.json` into a folder with these weights; in another precision that of `source`, a
        ModelFolder with the same weights, if it has one."""
        if self.dtype != "int8":
            with contextlib.suppress(ModelFolderError):  # what int8 would refuse there stays behind
                if saved(source, check("int8", None)) is not None:
                    shutil.copyfile(source.transformer_path / SCALES_FILE, folder / SCALES_FILE)
            return
        quality = None if self.quality is None else vars(self.quality)
        content = {
            "format": _FORMAT,
            "int8": self.int8,
            "calibrated_on": self.calibrated_on,
            "weights_sha256": weights.fingerprint(tensors),
            "quality": quality,
            "two_digits": self.two_digits,
            "powers": {name: powers.tolist() for name, powers in (self.powers or {}).items()},
        }
        (folder / SCALES_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def check(dtype: object, int8: object) -> Precision:
    """The arguments of a constructor as a Precision without powers.

    Raises
    ------
    TypeError, ValueError
        If one has a value that is not allowed, or `int8` is given for another dtype.
    """
    one_of("dtype", dtype, DTYPES)
    if int8 is not None:
        one_of("int8", int8, INT8_MODES)
        if dtype != "int8":
            raise ValueError(f"int8 is {shown(int8)}, but dtype is {shown(dtype)}; int8= goes with dtype='int8'")
    return Precision(dtype, (int8 or "balanced") if dtype == "int8" else None)


def saved(folder, wanted: Precision) -> Precision | None:
    """`wanted` with the powers and second digits that a ModelFolder holds; None where it holds none.

    Raises
    ------
    ModelFolderError
        If the file is broken, or is not about the encoder that lies beside it.
    """
    path = folder.transformer_path / SCALES_FILE
    if wanted.dtype != "int8" or not is_there(path):
        return None
    fields = Fields.read(path)
    if type(fields.values.get("format")) is not int or fields.values["format"] != _FORMAT:
        raise fields.error("format", f"{_FORMAT}: another version of sentpool wrote this file; quantize the model anew")
    shapes = folder.config.core_shapes()
    powers = {
        name: _powers(fields, name, values, shapes.get(name)) for name, values in fields.object("powers").values.items()
    }
    tensors, _ = weights.match(folder.transformer_path, folder.config, folder.head_tensors)
    if fields.string("weights_sha256") != weights.fingerprint(tensors):
        raise ModelFolderError(
            f"{path}: made for other weights than those beside it; quantize the model anew, or delete this file"
        )
    precision = replace(
        wanted, powers=powers, two_digits=_two_digits(fields, shapes), calibrated_on=fields.string("calibrated_on")
    )
    # What was measured for the other mode says nothing of this one.
    if fields.choice("int8", INT8_MODES) == wanted.int8 and fields.has("quality"):
        return replace(precision, quality=read_quality(fields.object("quality")))
    return precision


def _powers(fields: Fields, name: str, values: object, shape: tuple[int, ...] | None) -> np.ndarray:
    whole = isinstance(values, list) and all(type(value) is int and -_MOST <= value <= _MOST for value in values)
    if shape is None or len(shape) != 2 or not whole or len(values) != shape[1]:
        columns = "no tensor of this encoder" if shape is None else f"{shape[-1]} integers from -{_MOST} to {_MOST}"
        raise ModelFolderError(f"{fields.path}: powers of {shown(name)}: expected {columns}")
    return np.array(values, np.int8)


def _two_digits(fields: Fields, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    names = fields.values.get("two_digits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.error("two_digits", "a list of names of weights")
    for name in names:
        if name not in shapes or not _FEED_FORWARD.fullmatch(name):
            raise ModelFolderError(
                f"{fields.path}: two_digits has {shown(name)}: that is no feed-forward's second weight; quantize anew"
            )
    return tuple(names)


def _check_layers(powers: Mapping[str, np.ndarray], linear_layers: Sequence[str], path: Path) -> None:
    missing, others = set(linear_layers) - set(powers), set(powers) - set(linear_layers)
    if missing:
        raise ModelFolderError(f"{path}: powers of {shown(min(missing))} are missing; quantize the model anew")
    if others:
        raise ModelFolderError(f"{path}: powers of {shown(min(others))}: that is no first weight of a linear layer")


def smoothing_powers(ranges: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """The powers for a core's `input_ranges()`: of each linear layer the least and the largest input per column and the
    largest absolute weight."""
    powers = {}
    for name, (low, high, weight) in ranges.items():
        largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
        usable = (largest > 0) & (weight > 0) & np.isfinite(largest)
        ratio = np.where(usable, largest, 1.0) / np.where(usable, weight, 1.0).astype(np.float64)
        powers[name] = np.clip(nearest_power(ratio), -_MOST, _MOST).astype(np.int8)
    return powers


def nearest_power(ratio: np.ndarray) -> np.ndarray:
    """The n for which 2^(n/8) is nearest to the square root of a positive ratio, on a logarithmic scale."""
    mantissa, exponent = np.frexp(ratio)  # mantissa of 0.5 … 1: 4 log2 of it is -4 … 0
    steps = np.searchsorted(_MIDDLES, mantissa, side="right")
    return 4 * exponent.astype(np.int64) - 4 + steps


# Halfway from one quarter of a power of two to the next: 2^(-7/8), 2^(-5/8), 2^(-3/8), 2^(-1/8).
_MIDDLES = np.array([0.5452538663326288, 0.6484197773255048, 0.7711054127039704, 0.9170040432046712])


def bundled_sentences() -> list[str]:
    """The sentences of the bundled pairs, written for sentpool: a few hundred, from no benchmark."""
    from sentpool.evaluation.sample import sample_folder

    lines = (line for file in sorted(sample_folder().glob("*.tsv")) for line in file.read_text("utf-8").splitlines())
    return list(dict.fromkeys(text for line in lines for text in line.split("\t")[1:3]))


class _Calibrated(NamedTuple):
    """A precision with powers, what the sentences gave in float32, and some of them with their last layer's means."""

    precision: Precision
    embeddings: np.ndarray
    some: Sequence[str]
    states: np.ndarray


def _calibrate(model, precision: Precision, sentences: Sequence[str], named: str) -> _Calibrated:
    """Powers from the inputs that sentences give rise to in float32.

    Inputs are those of a core of its own, for others may use the model's meanwhile; the model is left without one.
    """
    prompt = model._prompt(None, None)
    core = _FewWords(model.folder, model.tokenizer.encode([prompt + text for text in sentences]).ids)
    core.watch(True)
    model._core = core
    embeddings = model.encode(sentences, threads=1, show_progress_bar=False)
    step = -(-len(sentences) // _COMPARED)
    if max(model.pooling.needed_layers(model.n_layers)) == model.n_layers:
        states = _last_states(model, sentences[::step], threads=1)
    else:  # another pooling may need the layers above this one's
        states = _last_states(model, sentences, step, threads=1)
    del model._core
    _core.release_freed_memory()  # before the next one takes some
    precision = replace(precision, powers=smoothing_powers(core.input_ranges()), calibrated_on=named)
    return _Calibrated(precision, embeddings, sentences[::step], states)


def _last_states(model, sentences: Sequence[str], step: int = 1, *, threads: int | None = None) -> np.ndarray:
    """Means over tokens in the last layer (n, H), in float64, of every `step`-th sentence."""
    states = model.layer_states(sentences, tokens=("mean",), threads=threads, show_progress_bar=False)
    return states.array[::step, -1, 0].astype(np.float64)


def _gaining_most(model, some: Sequence[str], states: np.ndarray) -> tuple[str, ...]:
    """The third of the feed-forwards that come nearest to float32, each given a second digit alone.

    Sums are exact, so that every CPU finds the same.
    """
    core = model._core
    errors = {}
    for name in filter(_FEED_FORWARD.fullmatch, core.linear_layers()):
        core.set_digits(name, 2)
        errors[name] = math.fsum(((_last_states(model, some) - states) ** 2).ravel())
        core.set_digits(name, 1)
    kept = sorted(errors, key=errors.__getitem__)[: -(-len(errors) // 3)]
    return tuple(name for name in errors if name in kept)


class _FewWords:
    """A folder's encoder in float32 with the words of some tokens alone, to the same bits: beside what is computed, the
    whole table would need more memory than a model in float32."""

    def __init__(self, folder, tokens: np.ndarray) -> None:
        arguments = folder.config.core_arguments()
        padding = arguments.get("padding_id", -1)  # the token that has no position of its own, if the family has one
        self._tokens = np.unique(np.append(tokens, padding) if padding >= 0 else tokens)
        arguments["vocab_size"] = len(self._tokens)
        if padding >= 0:
            arguments["padding_id"] = int(np.searchsorted(self._tokens, padding))
        self._core = _core.Model(**arguments)
        weights.load_into(self._core, folder.transformer_path, folder.config, folder.head_tensors, words=self._tokens)
        self._core.finish()
        self.watch, self.input_ranges = self._core.watch, self._core.input_ranges

    def layer_states(self, ids, *arguments, **options) -> np.ndarray:
        return self._core.layer_states(self._rows(ids), *arguments, **options)

    def sbert_wk(self, ids, *arguments, **options) -> np.ndarray:
        return self._core.sbert_wk(self._rows(ids), *arguments, **options)

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._tokens, ids).astype(np.int32)


def open_into(model, wanted: Precision) -> None:
    """Load the weights of a model's folder in a precision, int8 after a look at what its layers read if nothing is
    known of that."""
    if wanted.dtype != "int8" or wanted.powers is not None:
        model._core, model.precision = wanted.open_core(model.folder), wanted
        return
    _calibrate_into(model, wanted, bundled_sentences(), "bundled sentences")


def _calibrate_into(model, wanted: Precision, sentences: Sequence[str], named: str) -> None:
    """Find out by sentences how the layers are best read in int8, load the weights so, and see what it costs."""
    calibrated = _calibrate(model, wanted, sentences, named)
    open_into(model, calibrated.precision)
    two_digits = _gaining_most(model, calibrated.some, calibrated.states)
    model.precision = replace(calibrated.precision, two_digits=two_digits)
    model.precision.spend_digits(model._core)
    _measure(model, sentences, calibrated.embeddings, named)


def _measure(model, sentences, reference: np.ndarray, named: str) -> None:
    """See what a precision costs beside the vectors in float32."""
    embeddings = model.encode(sentences, show_progress_bar=False)
    quality = measure(embeddings, reference, named, str(model.pooling))
    model.precision = replace(model.precision, quality=quality)


def quantize(model, wanted: Precision, sentences, sts_folder, tasks):
    """See `SentenceEncoder.quantize`."""
    if model.dtype != "float32":
        raise ValueError(f"this model is in {model.dtype}; quantize one that was opened with dtype='float32'")
    if model._trained is not None:
        raise ValueError(
            "this model was trained since it was opened, and its folder holds other weights: save_pretrained(folder), "
            "and quantize SentenceEncoder(folder)"
        )
    if wanted.dtype == "float32":
        raise ValueError("dtype is 'float32'; quantize makes a model in 'int8' or 'bfloat16'")
    if tasks is not None and sts_folder is None:
        raise ValueError(f"tasks is {shown(tasks)}, but sts_folder is None; tasks= goes with sts_folder=")
    given, named = (bundled_sentences(), "bundled sentences") if sentences is None else (sentences, "given sentences")
    given = sentence_list(given)[0]
    if not given:
        raise ValueError("sentences is empty; give a few hundred")
    model.folder.require_unchanged()
    scores = None if sts_folder is None else _sts_scores(model, sts_folder, tasks)  # first, for it may be refused
    quantized = _with_own_settings(model)
    if wanted.dtype == "int8":
        _calibrate_into(quantized, wanted, given, named)
    else:
        open_into(quantized, wanted)
        _measure(quantized, given, model.encode(given, show_progress_bar=False), named)
    if scores is not None:
        lower = _sts_scores(quantized, sts_folder, list(scores))
        sts = {task: (score, lower[task]) for task, score in scores.items()}
        quantized.precision = replace(quantized.precision, quality=replace(quantized.precision.quality, sts=sts))
    _core.release_freed_memory()  # what calibrating and measuring left
    return quantized


def _with_own_settings(model):
    """The same model with a maximum length and prompts that can be changed alone."""
    twin = object.__new__(type(model))
    vars(twin).update(vars(model))
    twin.folder = replace(model.folder, tokenizer=copy.copy(model.tokenizer), prompts=dict(model.prompts))
    return twin


def _sts_scores(model, folder, tasks) -> dict[str, float]:
    from sentpool import evaluation

    result = evaluation.sts(model, folder, tasks=tasks, resamples=0)
    return {task: 100 * float(result.spearman(task)) for task in result.tasks}
