"""Sentence vectors from whatever can embed: our encoder, another library's, or a plain function."""

from __future__ import annotations

import inspect
import os
from typing import Any

import numpy as np

from sentpool.errors import shown


def embed(model, sentences, *, batch_size, show_progress_bar, **options) -> tuple[np.ndarray, dict[str, Any]]:
    """Embed sentences with one call of the model and check what comes back.

    Parameters
    ----------
    model : SentenceEncoder, object with ``encode``, or callable
        A callable takes the list of n strings and returns an array (n, d); it gets no options.
    sentences : list of str
    batch_size, show_progress_bar, **options
        Passed to ``model.encode``; the first two only if it takes them.

    Returns
    -------
    vectors : ndarray, shape (n, d), float32
    facts : dict
        ``sentences`` (n), ``dimension`` (d), ``truncated`` (sentences cut at the maximum length, None where
        the model does not tell) and the options that the model got.

    Raises
    ------
    TypeError
        `model` can neither encode nor be called, or `options` are given that it does not take.
    ValueError
        The result is no array of numbers of shape (n, d), or holds NaN or infinity (the sentence is named). Packed bits
        are asked for, which are numbers of eight dimensions each.
    """
    if str(options.get("precision")).endswith("binary"):
        raise ValueError(
            f"precision is {shown(options['precision'])}: packed bits are not compared as numbers are; give a function "
            "that encodes, and unpacks them (numpy.unpackbits)"
        )
    if isinstance(model, (str, os.PathLike, type)) or not (hasattr(model, "encode") or callable(model)):
        raise TypeError(
            f"model is {shown(model)}: expected a SentenceEncoder (sentpool.SentenceEncoder(folder)), an "
            "object with encode(sentences), or a callable from a list of n strings to an array (n, d)"
        )
    truncated = None
    options = {name: value for name, value in options.items() if value is not None}
    if hasattr(model, "encode"):
        encode = getattr(model, "encode_with_info", model.encode)
        unknown = [name for name in options if not _takes(encode, name)]
        if unknown:
            raise TypeError(f"{', '.join(unknown)}: the {encode.__name__} method of the model takes no such option")
        if _takes(encode, "batch_size"):
            options["batch_size"] = batch_size
        bar = {"show_progress_bar": show_progress_bar} if _takes(encode, "show_progress_bar") else {}
        vectors = encode(sentences, **bar, **options)
        if hasattr(model, "encode_with_info"):
            vectors, info = vectors
            truncated = int(info.n_truncated)
    elif not options:
        vectors = model(sentences)
    else:
        raise TypeError(
            f"{', '.join(options)}: only a model with an encode method takes such options; a plain callable "
            "gets them beforehand, by functools.partial"
        )
    vectors = _checked(vectors, sentences)
    facts = {"sentences": len(vectors), "dimension": vectors.shape[1], "truncated": truncated}
    return vectors, facts | options


def refuse_codes(options: dict[str, Any]) -> None:
    """Raise ValueError where vectors of several calls are compared, and these would be codes: each has its ranges."""
    if options.get("precision", "float32") != "float32":
        raise ValueError(
            f"precision is {shown(options['precision'])}; only float32 vectors of several calls of encode can be "
            "compared here: search codes with sentpool.search.search_quantized"
        )


def describe_model(model) -> dict[str, Any]:
    """What identifies a model in a saved result: its provenance, or at least its name."""
    if hasattr(model, "provenance"):
        provenance = {name: value for name, value in model.provenance().items() if name != "versions"}
        folder = getattr(model, "folder", None)
        if folder is not None:
            provenance.setdefault("name", os.path.basename(os.path.abspath(folder.path)))
        return provenance
    named = model if hasattr(model, "__qualname__") else type(model)
    return {"name": f"{named.__module__}.{named.__qualname__}"}


def _takes(function, name: str) -> bool:
    """Whether a function has a keyword of this name; one that does not tell is taken to have any."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD or (parameter.name == name and parameter.kind in by_name)
        for parameter in parameters.values()
    )


def _checked(vectors, sentences: list[str]) -> np.ndarray:
    try:
        vectors = np.asarray(vectors)
        # Complex numbers would lose a part, and strings of digits are no vectors.
        if vectors.dtype.kind not in "biufO":
            raise TypeError(f"its dtype is {vectors.dtype}")
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32, copy=False)
    # A torch tensor that requires grad raises RuntimeError, and says what to do.
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the model returned no array of numbers ({error}): expected shape (n, d)") from error
    if vectors.ndim != 2 or len(vectors) != len(sentences) or not vectors.shape[1]:
        raise ValueError(
            f"the model returned an array of shape {vectors.shape} for {len(sentences)} sentences: expected "
            f"({len(sentences)}, d), one row per sentence"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        sentence = shown(sentences[int(np.argmin(finite))])
        raise ValueError(
            f"the model's vector of {sentence} holds NaN or infinity as float32, so no cosine is defined "
            f"({(~finite).sum()} of {len(finite)} vectors are like that)"
        )
    return vectors
