"""Token poolings of every layer, kept: pooled in any way later, sliced, saved, mapped from a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sentpool.atomic_file import replacing
from sentpool.errors import ModelFolderError, shown
from sentpool.pooling import Pooling
from sentpool.pooling.layers import token_poolings
from sentpool.tensor_file import read_header, read_metadata
from sentpool.threads import resolve

# Larger files are mapped rather than read, unless the caller says otherwise.
_MAP_FROM_BYTES = 256 << 20
_ROWS_AT_A_TIME = 4096
_FORMAT = "sentpool.layer_states"


@dataclass(frozen=True, eq=False)
class LayerStates:
    """Token poolings of every layer.

    Slicing and indexing by an array select sentences: `states[10:20]`.

    Attributes
    ----------
    array : ndarray, float32, shape (n, L + 1, P, H)
        Layer 0 is the embedding output. A `numpy.memmap` where the states are in a file.
    tokens : tuple of str
        The P token poolings.
    layers : tuple of int
        0 … L.
    lengths : ndarray, int64, shape (n,)
        Tokens per sentence, special tokens included.
    prompt_pooled : bool or None
        Whether the tokens of a prompt were pooled too; None without a prompt.
    """

    array: np.ndarray
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    lengths: np.ndarray
    prompt_pooled: bool | None = None

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, sentences) -> LayerStates:
        array = self.array[sentences]
        if array.ndim != 4:
            raise IndexError(
                f"states[{shown(sentences)}]: select sentences by a slice, a mask or an array; a single one is "
                f"states[i : i + 1], numbers are in states.array"
            )
        return replace(self, array=array, lengths=self.lengths[sentences])

    def __repr__(self) -> str:
        n, layers, _, hidden = self.array.shape
        return f"LayerStates({n} sentences, layers 0 to {layers - 1}, tokens={self.tokens}, H={hidden})"

    def pool(self, pooling, threads: int | None = None) -> np.ndarray:
        """The embeddings that `encode` gives with this pooling, bit for bit, before any truncation (`truncate_dim`).

        Parameters
        ----------
        pooling : Pooling, or whatever `Pooling.from_name` takes
        threads : int, optional
            See `set_num_threads` for the default.

        Returns
        -------
        ndarray, float32, shape (n, d)

        Raises
        ------
        ValueError
            If the pooling needs a token pooling that is not here, or the states of all tokens (`sbert_wk`), or takes a
            prompt in another way than these states; or if a vector is not finite.
        """
        pooling = Pooling.from_name(pooling)
        width = pooling.dimension(self.array.shape[3], self.layers[-1])
        out = np.empty((len(self), width), np.float32)
        threads = resolve(threads)
        for start in range(0, len(self), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            vectors = pooling.combine(*self._views(pooling, rows), threads)
            if vectors.shape != out[rows].shape:
                raise ValueError(f"{pooling!r} gave shape {vectors.shape}; expected {out[rows].shape}")
            if not np.isfinite(vectors).all():
                bad = start + int(np.argmin(np.isfinite(vectors).all(axis=1)))
                raise ValueError(f"the vector of sentence {bad} is not finite; check states and pooling")
            out[rows] = vectors
        return out

    def layer_weights(self, pooling, threads: int | None = None) -> np.ndarray:
        """The weights (n, layers) float32 with which the pooling takes the layers that it needs; for `LayerAttention`
        the mean attention ā that each layer gets."""
        pooling = Pooling.from_name(pooling)
        views, index = self._views(pooling, slice(None))
        return pooling.layers.layer_weights(views, index, resolve(threads))

    def taken_by(self, pooling: Pooling) -> np.ndarray:
        """What `pooling.forward` and `pooling.forward_with_cache` take of these states: (n, k, P, H), a view where the
        layers and token poolings that it needs lie at equal distances.

        Raises
        ------
        ValueError
            As `pool`.
        """
        _, layers = self._views(pooling, slice(None))
        places = [self.tokens.index(name) for name in pooling.tokens]
        return self.array[:, _as_slice(layers)][:, :, _as_slice(places)]

    def _views(self, pooling: Pooling, rows: slice) -> tuple[list[np.ndarray], tuple[int, ...]]:
        if self.prompt_pooled not in (None, pooling.include_prompt):
            raise ValueError(
                f"pooling has include_prompt={pooling.include_prompt}, and these states were taken with the opposite: "
                f"layer_states(…, include_prompt={pooling.include_prompt})"
            )
        for name in pooling.tokens:
            if name not in self.tokens:
                raise ValueError(
                    f"pooling needs the token pooling {name!r}; these states hold {', '.join(self.tokens)}: pass "
                    f"tokens={pooling.tokens!r} to layer_states"
                )
        views = [self.array[rows, :, self.tokens.index(name)] for name in pooling.tokens]
        return views, pooling.needed_layers(self.layers[-1])

    def save(self, path) -> None:
        """Write a safetensors file: `array` and `lengths`, with tokens and layers as metadata. The file is replaced
        at once, when it is whole."""
        with replacing(path) as file:
            file.write(header(self.array.shape, self.tokens, self.layers, self.prompt_pooled))
            self.lengths.astype("<i8").tofile(file)
            for start in range(0, len(self), _ROWS_AT_A_TIME):
                np.ascontiguousarray(self.array[start : start + _ROWS_AT_A_TIME], "<f4").tofile(file)

    @classmethod
    def load(cls, path, mmap: bool | None = None) -> LayerStates:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or Path
        mmap : bool, optional
            Whether `array` is mapped instead of read, read-only; by default from 256 MB on.

        Raises
        ------
        FileNotFoundError
        ModelFolderError
            If it is no such file.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no file {str(path)!r}")
        tensors, metadata = read_header(path), read_metadata(path)
        tokens, layers, prompt_pooled = _checked_header(path, tensors, metadata)
        stored = tensors["array"]
        if mmap or (mmap is None and path.stat().st_size >= _MAP_FROM_BYTES):
            array = _mapped(path, "<f4", "r", stored.offset, stored.shape)
        else:
            array = stored.read()
        lengths = np.fromfile(path, "<i8", stored.shape[0], offset=tensors["lengths"].offset)
        return cls(array, tokens, layers, lengths, prompt_pooled)


def _as_slice(indices: Sequence[int]) -> slice | list[int]:
    """The same selection as a slice, which makes it a view, where that is possible."""
    if not indices:
        return slice(0)
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    even = step > 0 and list(indices) == list(range(indices[0], indices[-1] + 1, step))
    return slice(indices[0], indices[-1] + 1, step) if even else list(indices)


def _checked_header(path: Path, tensors: dict, metadata: dict) -> tuple[tuple[str, ...], tuple[int, ...], bool | None]:
    """Tokens, layers and `prompt_pooled` of a file of layer states, if that is what it is."""
    try:
        array, lengths = tensors["array"], tensors["lengths"]
        tokens = token_poolings(json.loads(metadata["tokens"]))
        layers, prompt_pooled = json.loads(metadata["layers"]), json.loads(metadata["prompt_pooled"])
        n, n_layers, n_tokens, _ = array.shape
        whole = (
            metadata["format"] == _FORMAT
            and (array.dtype, lengths.dtype, lengths.shape) == ("F32", "I64", (n,))
            and layers == list(range(n_layers))
            and len(tokens) == n_tokens
            and prompt_pooled in (None, True, False)
        )
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ModelFolderError(f"{path}: not a file of layer states, which LayerStates.save writes")
    return tokens, tuple(layers), prompt_pooled


def header(
    shape: tuple[int, ...], tokens: tuple[str, ...], layers: tuple[int, ...], prompt_pooled: bool | None
) -> bytes:
    """The beginning of a file of layer states: `lengths` follow, then `array`."""
    lengths_end = 8 * shape[0]
    entries = {
        "__metadata__": {
            "format": _FORMAT,
            "tokens": json.dumps(tokens),
            "layers": json.dumps(layers),
            "prompt_pooled": json.dumps(prompt_pooled),
        },
        "lengths": {"dtype": "I64", "shape": [shape[0]], "data_offsets": [0, lengths_end]},
        "array": {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [lengths_end, lengths_end + 4 * math.prod(shape)],
        },
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def filling(
    path, shape: tuple[int, ...], tokens: tuple[str, ...], layers: tuple[int, ...], prompt_pooled: bool | None
) -> Iterator:
    """A file of layer states to be filled: yields `array` and `lengths`, both mapped. It gets its name when the block
    has succeeded."""
    with replacing(path) as file:
        start = header(shape, tokens, layers, prompt_pooled)
        file.write(start)
        array_at = len(start) + 8 * shape[0]
        file.flush()
        size = array_at + 4 * math.prod(shape)
        try:  # all of it now: where a mapped file finds no room later, the process is killed
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(error.errno, f"no room for {size} bytes of layer states", os.fspath(path)) from error
        arrays = _mapped(file, "<f4", "r+", array_at, shape), _mapped(file, "<i8", "r+", len(start), shape[:1])
        yield arrays
        for array in arrays:
            if isinstance(array, np.memmap):
                array.flush()


def _mapped(file, dtype: str, mode: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    # Nothing cannot be mapped.
    return np.memmap(file, dtype, mode, offset, shape) if math.prod(shape) else np.empty(shape, dtype)
