"""The product: sentences in, vectors out. Tokenise, run the core, pool, in blocks that keep memory bounded."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sentpool import _core, weights
from sentpool.checks import one_of, positive_integer, sentence_list
from sentpool.config_report import versions
from sentpool.errors import shown, warn
from sentpool.folder import open_folder
from sentpool.pooling import Pooling
from sentpool.threads import resolve

# A block is tokenised, then encoded: enough to keep threads busy, little enough for Ctrl-C and the bar.
_BLOCK_SENTENCES, _BLOCK_CHARACTERS = 512, 1 << 17
_BAR_AFTER_SECONDS = 2.0


class EncodeInfo(NamedTuple):
    """What `encode` did besides the vectors: texts cut at `max_seq_length`, tokens computed."""

    n_truncated: int
    n_tokens: int


class LayerStates(NamedTuple):
    """Token poolings of every layer.

    Attributes
    ----------
    array : ndarray, float32, shape (n, L + 1, P, H)
        Layer 0 is the embedding output.
    tokens : tuple of str
        The P token poolings.
    layers : tuple of int
        0 … L.
    lengths : ndarray, int64, shape (n,)
        Tokens per sentence, special tokens included.
    """

    array: np.ndarray
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    lengths: np.ndarray


class SentenceEncoder:
    """A sentence encoder read from a model folder.

    Parameters
    ----------
    model_name_or_path : str or Path
        A sentence-transformers folder, a plain Hugging Face BERT folder, or (with the extra `hub`) a name on the hub.
        A folder never touches the network.
    pooling : str, sequence of str or Pooling, optional
        Replaces everything behind the encoder; by default what the folder says, `mean` for a plain encoder.
    device : None or "cpu"
        For scripts written for sentence-transformers.

    Raises
    ------
    FileNotFoundError
        No such folder.
    ModelFolderError
        The folder is no model, is broken, or holds something that is not understood; names file, field and value.

    Examples
    --------
    >>> model = SentenceEncoder("all-MiniLM-L6-v2/")                          # doctest: +SKIP
    >>> model.encode(["A dog runs.", "A puppy is running."]).shape           # doctest: +SKIP
    (2, 384)
    """

    def __init__(self, model_name_or_path: str | os.PathLike[str], *, pooling=None, device=None) -> None:
        _check_device(device)
        self.folder = open_folder(model_name_or_path)
        self._own_pooling = Pooling(self.folder.pooling_modes, self.folder.head, self.folder.include_prompt)
        self.pooling = self._own_pooling if pooling is None else Pooling.from_name(pooling)
        self._core = _core.Model(**self.folder.config.core_arguments())
        weights.load_into(self._core, self.folder.transformer_path, self.folder.config)
        self._core.finish()

    @classmethod
    def from_pretrained(cls, model_name_or_path: str | os.PathLike[str], **options) -> SentenceEncoder:
        """The same as the constructor."""
        return cls(model_name_or_path, **options)

    # ---- what the model is -----------------------------------------------------------------------------------

    @property
    def tokenizer(self):
        """The TextTokenizer."""
        return self.folder.tokenizer

    @property
    def prompts(self) -> dict[str, str]:
        """The model's prompts by name."""
        return self.folder.prompts

    @property
    def max_seq_length(self) -> int:
        """The most tokens of a text that are read, special tokens included; settable."""
        return self.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.tokenizer.max_seq_length = value

    @property
    def n_layers(self) -> int:
        """L: layers above the embedding output."""
        return self.folder.config.num_hidden_layers

    @property
    def hidden_size(self) -> int:
        """H: numbers in a token's state."""
        return self.folder.config.hidden_size

    def get_sentence_embedding_dimension(self) -> int:
        """How many numbers `encode` gives per sentence."""
        dimension = self.pooling.dimension(self.hidden_size)
        return min(dimension, self.folder.truncate_dim or dimension)

    def provenance(self) -> dict:
        """What is needed to get the same vectors again, ready for JSON.

        Reads the weight files once more for their SHA-256.
        """
        files = weights.weight_files(self.folder.transformer_path)
        return {
            "model": str(self.folder.path),
            "weights_sha256": {path.name: weights.sha256(path) for path in files},
            "pooling": str(self.pooling),
            "max_seq_length": self.max_seq_length,
            "truncate_dim": self.folder.truncate_dim,
            "default_prompt_name": self.folder.default_prompt_name,
            "versions": versions(),
            "kernels": _core.config(),
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self._facts().items())
        return f"SentenceEncoder({str(self.folder.path)!r}, {facts})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in {"folder": self.folder.path, **self._facts()}.items()
        )
        return f"<table><caption>SentenceEncoder</caption>{rows}</table>"

    def _facts(self) -> dict:
        return {
            "layers": self.n_layers,
            "hidden": self.hidden_size,
            "dimension": self.get_sentence_embedding_dimension(),
            "pooling": str(self.pooling),
            "max_seq_length": self.max_seq_length,
        }

    def __reduce__(self):
        # Workers of joblib, Ray or multiprocessing read the folder themselves: no weights travel between processes.
        return _reopen, (str(self.folder.path), self.pooling, self.max_seq_length)

    # ---- vectors ---------------------------------------------------------------------------------------------

    def encode(self, sentences, **options) -> np.ndarray | list[np.ndarray]:
        """Sentence embeddings.

        A sentence's vector does not depend on the other sentences, their order, `batch_size`, `threads` or the CPU: the
        bits are the same.

        Parameters
        ----------
        sentences : str or iterable of str
            List, tuple, generator, NumPy array or pandas Series of str.
        batch_size : int, default 32
            The most sentences that go through the network together. Changes neither results nor peak memory.
        show_progress_bar : bool, optional
            By default a bar appears where somebody can see it and the work takes more than two seconds.
        normalize_embeddings : bool, default False
            Scale every vector to length 1, after truncation.
        truncate_dim : int, optional
            Keep the first so many numbers; by default what the folder says.
        prompt, prompt_name : str, optional
            A text put before every sentence, or the name of one of `prompts`.
        output_value : {"sentence_embedding", "token_embeddings"}
            "token_embeddings" gives one array (T, H) per sentence: the last layer's states.
        precision : "float32"
        convert_to_numpy : bool, default True
            If False, a list of vectors instead of one array.
        convert_to_tensor : False
        device : None or "cpu"
        pooling : str, sequence of str or Pooling, optional
            Instead of the model's.
        threads : int, optional
            See `set_num_threads` for the default.
        on_truncate : {"ignore", "warn", "raise"}
            What happens when a text has more tokens than `max_seq_length`.

        Returns
        -------
        ndarray, float32, shape (n, d)
            Shape (d,) for a single str. See `output_value` and `convert_to_numpy` for the other forms.

        Raises
        ------
        TypeError
            An item is no str (its index is named), or an argument has a wrong type.
        ValueError
            An argument has a value that is not allowed, or the vector of a sentence is not finite.
        MemoryError
            Memory is out; the model stays usable.
        """
        return self.encode_with_info(sentences, **options)[0]

    def encode_with_info(
        self,
        sentences,
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        pooling=None,
        threads: int | None = None,
        on_truncate: str = "ignore",
    ) -> tuple[np.ndarray | list[np.ndarray], EncodeInfo]:
        """As `encode`, and an `EncodeInfo` about truncation and the number of tokens."""
        _check_device(device)
        if convert_to_tensor:
            raise ValueError(
                "convert_to_tensor is True; sentpool gives NumPy arrays: torch.from_numpy(model.encode(…))"
            )
        one_of("precision", precision, ("float32",))
        one_of("output_value", output_value, ("sentence_embedding", "token_embeddings"))
        chosen = self.pooling if pooling is None else Pooling.from_name(pooling)
        texts, single = sentence_list(sentences)
        run = _Run(
            self._core,
            self.tokenizer,
            texts,
            prompt=self._prompt(prompt, prompt_name),
            batch_size=positive_integer("batch_size", batch_size),
            threads=resolve(threads),
            on_truncate=on_truncate,
            show_progress_bar=show_progress_bar,
        )
        if output_value == "token_embeddings":
            vectors = run.token_states(self.n_layers, self.hidden_size)
            return (vectors[0] if single else vectors), run.info()

        dimension = chosen.dimension(self.hidden_size)
        kept = self._kept_dimensions(truncate_dim, dimension)
        layers = chosen.layers(self.n_layers)

        def finish(states: np.ndarray) -> np.ndarray:
            embeddings = chosen.forward(states)[:, :kept]
            return _core.normalize(embeddings) if normalize_embeddings else embeddings

        vectors = run.pooled(layers, chosen.tokens, (kept,), finish, skip_prompt=not chosen.include_prompt)
        if single:
            return vectors[0], run.info()
        return (vectors if convert_to_numpy else list(vectors)), run.info()

    def layer_states(self, sentences, tokens=("cls", "mean"), *, batch_size=32, threads=None, show_progress_bar=None):
        """Token poolings of every layer from one pass; hidden states are never piled up.

        Parameters
        ----------
        sentences : str or iterable of str
            A single str counts as a list of one.
        tokens : sequence of str
            Of "cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token".
        batch_size, threads, show_progress_bar
            As in `encode`.

        Returns
        -------
        LayerStates
            `.array` has shape (n, L + 1, len(tokens), H).
        """
        wanted = Pooling.from_name(tokens).tokens
        run = self._run(sentences, batch_size, threads, show_progress_bar)
        layers = tuple(range(self.n_layers + 1))
        shape = (len(layers), len(wanted), self.hidden_size)
        array = run.pooled(layers, wanted, shape, lambda states: states)
        return LayerStates(array, wanted, layers, run.lengths())

    def hidden_states(self, sentences, *, threads=None) -> list[np.ndarray] | np.ndarray:
        """Every token's state at every layer.

        Returns
        -------
        list of ndarray, float32, shape (L + 1, T, H)
            One array per sentence; for a single str, the array itself. Layer 0 is the embedding output.
        """
        texts, single = sentence_list(sentences)
        states = self._run(texts, 32, threads, False).hidden_states()
        return states[0] if single else states

    def _run(self, sentences, batch_size, threads, show_progress_bar) -> _Run:
        return _Run(
            self._core,
            self.tokenizer,
            sentence_list(sentences)[0],
            prompt=self._prompt(None, None),
            batch_size=positive_integer("batch_size", batch_size),
            threads=resolve(threads),
            show_progress_bar=show_progress_bar,
        )

    # ---- similarity --------------------------------------------------------------------------------------------

    def similarity(self, a, b) -> np.ndarray:
        """Every vector of `a` (n, d) against every vector of `b` (m, d), by the folder's `similarity_fn_name`.

        Computed in float64; the cosine of equal vectors is exactly 1, of a zero vector 0. Distances are negated.

        Returns
        -------
        ndarray, float32, shape (n, m)
        """
        return _core.similarity(_matrix("a", a), _matrix("b", b), self.folder.similarity_fn_name)

    def similarity_pairwise(self, a, b) -> np.ndarray:
        """Vector i of `a` against vector i of `b`, both (n, d), as `similarity` does.

        Returns
        -------
        ndarray, float32, shape (n,)
        """
        metric = self.folder.similarity_fn_name
        return _core.similarity_pairwise(_matrix("a", a), _matrix("b", b), metric).astype(np.float32)

    # ---- small decisions ---------------------------------------------------------------------------------------

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise TypeError(f"prompt must be a str, not {type(prompt).__name__} {shown(prompt)}")
            return prompt
        if prompt_name is None:
            prompt_name = self.folder.default_prompt_name
        if prompt_name is None:
            return ""
        if prompt_name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise ValueError(f"prompt_name is {shown(prompt_name)}; the model's prompts are: {known}")
        return self.prompts[prompt_name]

    def _kept_dimensions(self, truncate_dim: int | None, dimension: int) -> int:
        wanted = self.folder.truncate_dim if truncate_dim is None else positive_integer("truncate_dim", truncate_dim)
        if truncate_dim is not None and wanted > dimension:
            raise ValueError(f"truncate_dim is {wanted}; the embedding has only {dimension} dimensions")
        return min(wanted or dimension, dimension)


class _Run:
    """One pass over a list of texts, block by block; equal texts are computed once (their bits are equal anyway)."""

    def __init__(self, core, tokenizer, texts, *, prompt, batch_size, threads, on_truncate="ignore", show_progress_bar):
        one_of("on_truncate", on_truncate, ("ignore", "warn", "raise"))
        self.core, self.tokenizer = core, tokenizer
        self.prompt, self.batch_size, self.threads = prompt, batch_size, threads
        self.on_truncate, self.show_progress_bar = on_truncate, show_progress_bar
        first_seen = dict.fromkeys(texts)
        self.unique = list(first_seen)
        for position, text in enumerate(self.unique):
            first_seen[text] = position
        repeated = len(self.unique) < len(texts)
        self.positions = np.array([first_seen[text] for text in texts], dtype=np.int64) if repeated else None
        self.texts = texts
        self._lengths = np.zeros(len(self.unique), dtype=np.int64)
        self._truncated = np.zeros(len(self.unique), dtype=bool)

    def pooled(self, layers, tokens, shape, finish, *, skip_prompt=False) -> np.ndarray:
        """`finish` applied to each block's states (b, layers, tokens, H), gathered as (n, *shape) float32."""
        skip = self.tokenizer.count(self.prompt) if skip_prompt and self.prompt else 0
        out = np.empty((len(self.unique), *shape), dtype=np.float32)
        for start, stop, batch in self._blocks():
            states = self.core.layer_states(
                batch.ids,
                batch.offsets,
                layers,
                tokens,
                batch_size=self.batch_size,
                skip=skip,
                threads=self.threads,
            )
            rows = finish(states)
            self._check_finite(rows, start)
            out[start:stop] = rows
        return out if self.positions is None else out[self.positions]

    def hidden_states(self) -> list[np.ndarray]:
        """One array (L + 1, T, H) per text."""
        states: list[np.ndarray] = []
        for _, _, batch in self._blocks():
            block = self.core.hidden_states(batch.ids, batch.offsets, threads=self.threads)
            states += (np.ascontiguousarray(part) for part in np.split(block, batch.offsets[1:-1], axis=1))
        return states if self.positions is None else [states[i].copy() for i in self.positions]

    def token_states(self, layer: int, hidden_size: int) -> list[np.ndarray]:
        """One array (T, H) per text: the states of one layer."""
        return [states[layer].copy() for states in self.hidden_states()]

    def lengths(self) -> np.ndarray:
        """Tokens per text (n,)."""
        return self._lengths if self.positions is None else self._lengths[self.positions]

    def info(self) -> EncodeInfo:
        truncated = self._truncated if self.positions is None else self._truncated[self.positions]
        return EncodeInfo(int(truncated.sum()), int(self._lengths.sum()))

    def _blocks(self) -> Iterator[tuple[int, int, object]]:
        """Tokenised blocks of the distinct texts, with a progress bar."""
        bar = self._bar()
        start = 0
        try:
            while start < len(self.unique):
                stop = self._block_end(start)
                texts = self.unique[start:stop]
                batch = self.tokenizer.encode([self.prompt + text for text in texts] if self.prompt else texts)
                self._note(start, stop, batch)
                yield start, stop, batch
                if bar is not None:
                    bar.update(stop - start)
                start = stop
        finally:
            if bar is not None:
                bar.close()
        if self.on_truncate == "warn" and self._truncated.any():
            warn(
                f"{self.info().n_truncated} of {len(self.texts)} texts have more than "
                f"{self.tokenizer.max_seq_length} tokens and were truncated"
            )

    def _block_end(self, start: int) -> int:
        characters, stop = 0, start
        while stop < len(self.unique) and stop - start < _BLOCK_SENTENCES and characters < _BLOCK_CHARACTERS:
            characters += len(self.unique[stop])
            stop += 1
        return stop

    def _note(self, start: int, stop: int, batch) -> None:
        self._lengths[start:stop] = np.diff(batch.offsets)
        self._truncated[start:stop] = batch.truncated
        if self.on_truncate == "raise" and batch.truncated.any():
            index = self.texts.index(self.unique[start + int(np.argmax(batch.truncated))])
            raise ValueError(
                f"sentences[{index}] has more than max_seq_length = {self.tokenizer.max_seq_length} tokens; "
                f"shorten it, or pass on_truncate='warn' or 'ignore'"
            )

    def _check_finite(self, rows: np.ndarray, start: int) -> None:
        if np.isfinite(rows).all():
            return
        bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        index = self.texts.index(self.unique[start + int(np.argmax(bad))])
        raise ValueError(
            f"the vector of sentences[{index}] is not finite: the model's numbers overflow float32; check its weights"
        )

    def _bar(self):
        show = self.show_progress_bar
        if show is False or (show is None and not _somebody_looks()):
            return None
        from tqdm.auto import tqdm

        delay = _BAR_AFTER_SECONDS if show is None else 0
        return tqdm(total=len(self.unique), desc="Encoding", unit=" sentences", delay=delay)


def _somebody_looks() -> bool:
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def _check_device(device: object) -> None:
    if device not in (None, "cpu"):
        raise ValueError(f"device is {shown(device)}; sentpool runs on the CPU: pass None or 'cpu'")


def _matrix(name: str, vectors) -> np.ndarray:
    array = np.asarray(vectors)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must be a vector or a matrix, not an array of {array.ndim} dimensions")
    return np.atleast_2d(array)


def _reopen(path: str, pooling: Pooling, max_seq_length: int) -> SentenceEncoder:
    model = SentenceEncoder(path, pooling=pooling)
    model.max_seq_length = max_seq_length
    return model
