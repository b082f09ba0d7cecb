"""How two results were made, and what of it differs, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sentpool.errors import shown

_ABSENT = "not recorded"
# What of a run cannot change the numbers of our own encoder, whose bits depend on none of it.
_WITHOUT_INFLUENCE = ("batch_size", "threads", "kernels", "python", "numpy", "safetensors")
# Written down again under another name, or no setting at all.
_NOT_SETTINGS = ("name", "model", "versions", "sentences", "dimension", "truncated", "pooling", "weights_sha256")
_EXPLAINED = {
    "max_seq_length": "longer texts are cut, so the encoders saw other texts",
    "truncate_dim": "only the first dimensions of the vectors were compared",
    "normalize_embeddings": "cosines do not change by it, dot products do",
    "prompt": "the encoders saw other texts",
    "prompt_name": "the encoders saw other texts",
    "default_prompt_name": "the encoders saw other texts",
    "tokenizer_sha256": "the same text may become other tokens",
    "tokenizers": "the same text may become other tokens",
    "sentpool": "the CHANGELOG names changes of bits",
    "precision": "linear layers round otherwise",
    "device": "another library's bits depend on it",
}
_LAYER_CONVENTION = (
    'papers call both "first-last": SimCSE averages layers 1 and L (first_last), early code the embedding output, '
    "layer 0, and L (embedding_last)"
)
_SICK_SPLITS = ("SICKR-test", "SICKR-all")


class Difference(NamedTuple):
    """One thing that differs between two results.

    Attributes
    ----------
    what : str
        The setting's name.
    a, b
        Its value in each.
    words : str
        The difference as a sentence for people.
    matters : bool
        Whether it can change numbers.
    """

    what: str
    a: Any
    b: Any
    words: str
    matters: bool


def differences(a, b) -> list[Difference]:
    """What differs between how two results were made: what can change numbers first.

    Parameters
    ----------
    a, b : results of evaluations
        Their ``model``, ``encoding``, ``data`` and ``versions`` are looked at.
    """
    found = [*_weights(a, b), *_pooling(a, b), *_settings(a, b), *_truncation(a, b), *_data(a, b)]
    return sorted(found, key=lambda one: not one.matters)


def label(result) -> str:
    """A result's model in a few words."""
    pooling = _pooling_of(result)
    name = result.model.get("name", "a model")
    return name if pooling == _ABSENT else f"{name}, pooling {pooling}"


def _weights(a, b) -> Iterator[Difference]:
    hashes = [result.model.get("weights_sha256") for result in (a, b)]
    if None in hashes or any(None in files.values() for files in hashes):
        names = [result.model.get("name", "a model") for result in (a, b)]
        if hashes[0] != hashes[1] or names[0] != names[1]:
            words = f"model: {names[0]} and {names[1]}; the weights of at least one are not recorded"
            yield Difference("model", *names, words, True)
    # The folder may have been renamed: what is in it counts.
    elif sorted(hashes[0].values()) != sorted(hashes[1].values()):
        changed = [name for name in {**hashes[0], **hashes[1]} if hashes[0].get(name) != hashes[1].get(name)]
        yield Difference("weights", *hashes, f"weights: other files by their SHA-256 ({', '.join(changed)})", True)


def _pooling(a, b) -> Iterator[Difference]:
    poolings = [_pooling_of(result) for result in (a, b)]
    if poolings[0] != poolings[1]:
        words = f"pooling: {poolings[0]} and {poolings[1]}"
        conventions = {pooling.split(",")[0] for pooling in poolings}
        if conventions & {"avg_first_last", "first_last"} and "embedding_last" in conventions:
            words += f"; {_LAYER_CONVENTION}"
        yield Difference("pooling", *poolings, words, True)


def _pooling_of(result) -> str:
    return str(result.encoding.get("pooling", result.model.get("pooling", _ABSENT)))


def _settings(a, b) -> Iterator[Difference]:
    """Every other setting that is recorded, known to us or not."""
    sides = [
        {**result.versions, **result.model, **result.encoding, **getattr(result, "protocol", {})} for result in (a, b)
    ]
    ours = all("kernels" in result.model for result in (a, b))
    bfloat16 = any(_dtype(side) == "bfloat16" for side in sides)
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        values = [side.get(name) for side in sides]
        if name in _NOT_SETTINGS or values[0] == values[1]:
            continue
        kernels_matter = name == "kernels" and bfloat16
        matters = not (ours and name in _WITHOUT_INFLUENCE) or kernels_matter
        words = f"{name}: {_shown(values[0])} and {_shown(values[1])}"
        if not matters:
            words += "; changes no bit of our vectors"
        elif kernels_matter:
            words += "; the bits of bfloat16 are promised on one CPU model only"
        elif name in _EXPLAINED:
            words += f"; {_EXPLAINED[name]}"
        yield Difference(name, *values, words, matters)


def _dtype(side: Mapping) -> str | None:
    precision = side.get("precision")
    return precision.get("dtype") if isinstance(precision, Mapping) else None


def _shown(value) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return _ABSENT if value is None else value if isinstance(value, str) else shown(value)


def _truncation(a, b) -> Iterator[Difference]:
    counts = [result.encoding.get("truncated") for result in (a, b)]
    if counts[0] != counts[1] and a.encoding.get("sentences") == b.encoding.get("sentences"):
        texts = [_ABSENT if count is None else f"{count:,}" for count in counts]
        words = f"truncated: {texts[0]} and {texts[1]} of {a.encoding['sentences']:,} texts"
        yield Difference("truncated", *counts, words, True)


def _data(a, b) -> Iterator[Difference]:
    pairs = [result.data.get("pairs", result.data.get("texts", {})) for result in (a, b)]
    for name in _SICK_SPLITS:
        other = _SICK_SPLITS[name == _SICK_SPLITS[0]]
        if name in pairs[0] and other in pairs[1] and not (other in pairs[0] and name in pairs[1]):
            words = (
                f"SICK-R: {pairs[0][name]:,} pairs ({name}) and {pairs[1][other]:,} pairs ({other}); the literature "
                "quotes both splits under one name"
            )
            yield Difference("SICK split", name, other, words, True)
    for side, (here, there) in zip("ab", (pairs, pairs[::-1]), strict=True):
        alone = [name for name in here if name not in there]
        if alone:
            values = (alone, []) if side == "a" else ([], alone)
            yield Difference("tasks", *values, f"tasks: only {side} has {', '.join(alone)}", True)
    files = [_hashes_by_task(result.data) for result in (a, b)]
    for task in files[0].keys() & files[1].keys():
        if files[0][task] != files[1][task]:
            words = f"data of {task}: other files by their SHA-256"
            yield Difference(f"data of {task}", files[0][task], files[1][task], words, True)


def _hashes_by_task(data: Mapping) -> dict[str, list[str]]:
    digests = data.get("sha256", {})
    return {task: [digests.get(file) for file in files] for task, files in data.get("files", {}).items()}
