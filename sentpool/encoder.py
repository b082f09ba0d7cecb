"""The product: a model folder becomes a SentenceEncoder, sentences become vectors."""

from __future__ import annotations

import contextlib
import functools
import html
import os
from pathlib import Path

import numpy as np

from sentpool import _core, precision
from sentpool.checks import matrix, one_of, positive_integer, seed, sentence_list
from sentpool.config_report import versions
from sentpool.dropout import Dropout
from sentpool.embedding_precision import PRECISIONS, quantize_embeddings
from sentpool.encoding_run import EncodeInfo, EncodingRun
from sentpool.errors import shown, warn
from sentpool.folder import open_folder
from sentpool.layer_states import LayerStates, filling
from sentpool.pooling import Pooling, SbertWk
from sentpool.pooling.layers import token_poolings
from sentpool.threads import resolve
from sentpool.trained_weights import put_tensors, trained_tensors, training_record


class SentenceEncoder:
    """A sentence encoder read from a model folder.

    Parameters
    ----------
    model_name_or_path : str or Path
        A sentence-transformers folder, a plain Hugging Face folder of the BERT family, or (with the extra `hub`) a name
        on the hub. A folder never touches the network.
    pooling : str, sequence of str or Pooling, optional
        Replaces everything behind the encoder; by default what the folder says or was trained with (SimCSE, Oh et al.
        2022), `mean` for a plain encoder. A pooling with parameters is one that the folder holds if given by name.
    device : None or "cpu"
        For scripts written for sentence-transformers.
    dtype : {"float32", "bfloat16", "int8"}, default "float32"
        In what precision linear layers compute; all else stays float32. Their weights take a half or a quarter of the
        memory, tables of embeddings a half.
        "bfloat16" needs nothing else; it is faster where the CPU has a unit for it, and its bits are promised for one
        CPU model. "int8" has the same bits on every CPU and smooths its inputs by factors: those in the folder
        (`quantize`), else from the bundled sentences, which takes as long as encoding some thousand sentences, every
        time: `save_pretrained` of the model keeps them.
    int8 : {"balanced", "fast"}, optional
        With dtype="int8". Activations inside a third of the feed-forwards (rounded up), where calibrating finds that it
        pays most, have two digits, 15 bits ("balanced", the default), or one of 8 bits like all others ("fast").

    Raises
    ------
    FileNotFoundError
        No such folder.
    ModelFolderError
        The folder is no model, is broken, or holds something that is not understood; names file, field and value.

    Warns
    -----
    SentpoolWarning
        Once about stored tensors that nothing uses; once if no `pooling` is given and the folder is a checkpoint of
        SimCSE whose MLP is left out, or that does not say whether it belongs to the embedding.

    Examples
    --------
    >>> model = SentenceEncoder("all-MiniLM-L6-v2/")
    >>> model.encode(["A dog runs.", "A puppy is running."]).shape
    (2, 384)
    """

    def __init__(
        self, model_name_or_path: str | os.PathLike[str], *, pooling=None, device=None, dtype="float32", int8=None
    ) -> None:
        _check_device(device)
        wanted = precision.check(dtype, int8)
        _warn_if_slow()
        self.folder = open_folder(model_name_or_path)
        if pooling is None and self.folder.notice:
            warn(self.folder.notice)
        self.pooling = self.folder.pooling if pooling is None else pooling
        self._trained: dict | None = None  # what a Trainer did to the weights
        self._mlm_head = None  # the MLMHead that it trained beside them
        precision.open_into(self, precision.saved(self.folder, wanted) or wanted)
        _core.release_freed_memory()  # what reading the folder and calibrating left

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
    def pooling(self) -> Pooling:
        """What follows the encoder; settable, to a Pooling or by name."""
        return self._pooling

    @pooling.setter
    def pooling(self, value) -> None:
        self._pooling = self._checked_pooling(value)

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
        dimension = self.pooling.dimension(self.hidden_size, self.n_layers)
        return min(dimension, self.folder.truncate_dim or dimension)

    @property
    def dtype(self) -> str:
        """The precision of linear layers: "float32", "bfloat16" or "int8"."""
        return self.precision.dtype

    def quantize(
        self, sentences=None, *, dtype: str = "int8", int8: str | None = None, sts_folder=None, tasks=None
    ) -> SentenceEncoder:
        """The same model in lower precision, with settings of its own, and what that costs.

        Its weights are read from the folder; other threads may encode with this model meanwhile.

        Parameters
        ----------
        sentences : iterable of str, optional
            A few hundred sentences of the kind that will be encoded; by default the bundled ones. int8 chooses from
            them what its inputs are divided by, and the quality is measured on them.
        dtype : {"int8", "bfloat16"}
        int8 : {"balanced", "fast"}, optional
        sts_folder : str or Path, optional
            STS data as for `evaluation.sts`: Spearman × 100 of both models goes into the quality.
        tasks : sequence of str, optional
            Of these tasks only; goes with `sts_folder`.

        Returns
        -------
        SentenceEncoder
            `.precision.quality` says what it costs; `save_pretrained` keeps it, and `SentenceEncoder(folder,
            dtype="int8")` opens it without looking at sentences again.

        Raises
        ------
        TypeError, ValueError
            This model is not in float32 or was trained since it was opened, `sentences` is empty, or an argument has a
            value that is not allowed.
        ModelFolderError
            The folder has changed since it was opened.

        Examples
        --------
        >>> small = model.quantize(open("sentences.txt").read().splitlines())            # doctest: +SKIP
        >>> print(small.precision.quality)                                               # doctest: +SKIP
        """
        return precision.quantize(self, precision.check(dtype, int8), sentences, sts_folder, tasks)

    def save_pretrained(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a model folder that `SentenceEncoder(path)` opens to the same bits.

        It holds the encoder's weights, byte for byte as the model's own folder stores them or, once trained, in
        float32; its tokenizer, the pooling in use, `max_seq_length` and prompts as they are now. sentence-transformers
        opens it too, to the same vectors, where its modules suffice: token poolings, averages and weighted sums of
        layers, heads of `Dense` and `Normalize`. A folder with another pooling it refuses. The head of a masked
        language model is saved if it was trained (`Trainer(mlm_weight=)`), as transformers' `…ForMaskedLM` reads it.
        What int8 needs (`quantize`) goes along with the weights that it was found for, whatever this model's dtype.

        Parameters
        ----------
        path : str or Path
            A new or an empty folder. It gets its name when it is whole.
        overwrite : bool, default False
            Replace a model folder that is there, with all that is in it.

        Raises
        ------
        FileExistsError
            The folder is there and not empty, and `overwrite` is False or it holds no model.
        TypeError
            The pooling has parts that are not sentpool's.
        ModelFolderError
            The model's own folder, from which the weights are copied, is gone or has changed since it was opened.
        OSError
            Writing fails, for want of space or permission; nothing is left behind.
        """
        from sentpool.saving import save_model  # what most never need

        save_model(self, path, overwrite=overwrite)

    def provenance(self) -> dict:
        """What is needed to get the same vectors again, ready for JSON.

        Reads the weight files once more for their SHA-256; it is None, with a warning, for a file that has changed
        since it was opened. Of a model that was trained since, `trained` says how, with the SHA-256 of its weights.
        """
        return {
            "model": str(self.folder.path),
            "weights_sha256": self.folder.weight_hashes(),
            "tokenizer_sha256": self.folder.tokenizer.sha256(),
            **training_record(self._trained, self._core),
            "pooling": str(self.pooling),
            "max_seq_length": self.max_seq_length,
            "truncate_dim": self.folder.truncate_dim,
            "default_prompt_name": self.folder.default_prompt_name,
            "precision": self.precision.facts(),
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
            "dtype": str(self.precision),
            **({} if self.precision.cost() is None else {"quality": self.precision.cost()}),
            **({} if self._trained is None else {"trained_steps": self._trained["steps"]}),
        }

    def __reduce__(self):
        # Workers of joblib, Ray or multiprocessing read the folder themselves: only weights that were trained since
        # travel between processes.
        return _reopen, (
            str(self.folder.path),
            self.pooling,
            self.max_seq_length,
            dict(self.prompts),
            self.precision,
            None if self._trained is None else (self._trained, trained_tensors(self._core), self._mlm_head),
        )

    # ---- vectors ---------------------------------------------------------------------------------------------

    def encode(
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
        _info: list[EncodeInfo] | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Sentence embeddings.

        A sentence's vector does not depend on the other sentences, their order, `batch_size`, `threads` or the CPU: the
        bits are the same. With dtype="bfloat16" they are on CPUs of one model.

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
        precision : {"float32", "int8", "uint8", "binary", "ubinary"}
            See `sentpool.quantize_embeddings`. Ranges of int8 and uint8 are those of these very sentences.
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
            Shape (d,) for a single str. See `output_value`, `precision` and `convert_to_numpy` for the other forms.

        Raises
        ------
        TypeError
            An item is no str (its index is named), or an argument has a wrong type.
        ValueError
            An argument has a value that is not allowed, or the vector of a sentence is not finite.
        MemoryError
            Memory is out; the model stays usable.
        """
        _check_device(device)
        if convert_to_tensor:
            raise ValueError(
                "convert_to_tensor is True; sentpool gives NumPy arrays: torch.from_numpy(model.encode(…))"
            )
        one_of("precision", precision, PRECISIONS)
        one_of("output_value", output_value, ("sentence_embedding", "token_embeddings"))
        chosen = self.pooling if pooling is None else self._checked_pooling(pooling)
        texts, single = sentence_list(sentences)
        run = self._run(texts, prompt, prompt_name, batch_size, threads, show_progress_bar, on_truncate)
        if output_value == "token_embeddings":
            if normalize_embeddings or truncate_dim is not None or pooling is not None or precision != "float32":
                raise ValueError(
                    "output_value is 'token_embeddings', to which normalize_embeddings, truncate_dim, pooling and "
                    "precision do not apply; leave them out"
                )
            vectors = [states[0] for states in run.hidden_states(first_layer=self.n_layers)]
        else:
            vectors = self._pooled(run, chosen, normalize_embeddings, truncate_dim)
            if precision != "float32":
                vectors = quantize_embeddings(vectors, precision)
        if _info is not None:
            _info.append(run.info())
        if single:
            return vectors[0]
        return vectors if convert_to_numpy else list(vectors)

    def _pooled(self, run: EncodingRun, pooling: Pooling, normalize: bool, truncate_dim: int | None) -> np.ndarray:
        width = pooling.dimension(self.hidden_size, self.n_layers)
        kept = self._kept_dimensions(truncate_dim, width)

        def finish(embeddings: np.ndarray) -> np.ndarray:
            if embeddings.shape[1] != width:
                raise ValueError(f"{pooling!r} gave vectors of {embeddings.shape[1]} numbers; expected {width}")
            embeddings = embeddings[:, :kept]
            return _core.normalize(embeddings) if normalize else embeddings

        skip_prompt = not pooling.include_prompt
        layers = pooling.needed_layers(self.n_layers)
        if isinstance(pooling.layers, SbertWk):
            window = pooling.layers.window
            return run.sbert_wk(
                layers[0], window, (kept,), lambda vectors: finish(pooling.apply_head(vectors)), skip_prompt=skip_prompt
            )
        return run.pooled(
            layers,
            pooling.tokens,
            (kept,),
            lambda states: finish(pooling.forward(states, run.threads)),
            skip_prompt=skip_prompt,
        )

    def _checked_pooling(self, value) -> Pooling:
        """A pooling that fits this encoder; a name whose parameters the folder holds means the folder's."""
        trained = self.folder.trained_pooling(value) if isinstance(value, str) else None
        pooling = Pooling.from_name(value) if trained is None else trained
        pooling.dimension(self.hidden_size, self.n_layers)
        return pooling

    def encode_with_info(self, sentences, **options) -> tuple[np.ndarray | list[np.ndarray], EncodeInfo]:
        """As `encode`, and an `EncodeInfo` about truncation and the number of tokens."""
        info: list[EncodeInfo] = []
        vectors = self.encode(sentences, **options, _info=info)
        return vectors, info[0]

    def layer_states(
        self,
        sentences,
        tokens=("cls", "mean"),
        *,
        batch_size: int = 32,
        threads: int | None = None,
        show_progress_bar: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        out=None,
        dropout_seed: int | None = None,
        include_prompt: bool | None = None,
    ) -> LayerStates:
        """Token poolings of every layer from one pass; hidden states are never piled up.

        Parameters
        ----------
        sentences : str or iterable of str
            A single str counts as a list of one.
        tokens : sequence of str
            Of "cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token".
        batch_size, threads, show_progress_bar, prompt, prompt_name
            As in `encode`.
        out : str or Path, optional
            A file for states that do not fit into memory: they are written there as they are computed, and `.array` is
            the file's, mapped read-only. `LayerStates.load` opens it again. It gets its name when it is whole.
        include_prompt : bool, optional
            Whether the tokens of a prompt are pooled too; by default as the model's own pooling says.
        dropout_seed : int, optional
            From 0 to 2**64 - 1. Drops values as in training, where the family does and with the probabilities of
            config.json: in BERT `hidden_dropout_prob` of the embedding output and of both sublayers' outputs before
            the residual, `attention_probs_dropout_prob` of attention probabilities. The masks depend on the seed and
            on the sentence's index alone: one seed gives the same bits whatever `batch_size` and `threads` are, equal
            sentences of one call differ, and so do the views of a sentence under two seeds. Draws are those of
            Philox4x32-10 (Salmon et al., 2011).

        Returns
        -------
        LayerStates
            `.array` has shape (n, L + 1, len(tokens), H).

        Raises
        ------
        TypeError, ValueError
            As in `encode`; also for a `dropout_seed` that is no such integer.
        """
        wanted = token_poolings(tokens)
        texts, _ = sentence_list(sentences)
        dropout = self._dropout(dropout_seed)
        run = self._run(texts, prompt, prompt_name, batch_size, threads, show_progress_bar, dropout=dropout)
        layers = tuple(range(self.n_layers + 1))
        shape = (len(layers), len(wanted), self.hidden_size)
        if include_prompt is None:
            include_prompt = self.pooling.include_prompt
        # Without a prompt there is nothing to leave out, and any pooling goes.
        prompt_pooled = include_prompt if run.prompt else None
        options = {"skip_prompt": not include_prompt}
        if out is None:
            array = run.pooled(layers, wanted, shape, lambda states: states, **options)
            return LayerStates(array, wanted, layers, run.lengths(), prompt_pooled)
        with filling(out, (len(run.texts), *shape), wanted, layers, prompt_pooled) as (array, lengths):
            run.pooled(layers, wanted, shape, lambda states: states, **options, out=array)
            lengths[:] = run.lengths()
        return LayerStates.load(out, mmap=True)

    def layer_weights(
        self,
        sentences,
        *,
        pooling=None,
        batch_size: int = 32,
        threads: int | None = None,
        show_progress_bar: bool | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> np.ndarray:
        """With which weight each layer enters a sentence's vector.

        Parameters
        ----------
        sentences : str or iterable of str
            A single str counts as a list of one.
        pooling : str, sequence of str or Pooling, optional
            Instead of the model's.
        batch_size, threads, show_progress_bar, prompt, prompt_name
            As in `encode`.

        Returns
        -------
        ndarray, float32, shape (n, L + 1)
            For `LayerAttention` ā (Oh et al. 2022), the mean over sources of the attention that each layer gets; for
            other poolings what they say, 0 for layers that they leave out.

        Raises
        ------
        ValueError
            If the pooling has no layer weights: `sbert_wk`, or an object of your own.
        """
        chosen = self.pooling if pooling is None else self._checked_pooling(pooling)
        needed = chosen.needed_layers(self.n_layers)
        run = self._run(sentence_list(sentences)[0], prompt, prompt_name, batch_size, threads, show_progress_bar)
        index = range(len(needed))

        def finish(states: np.ndarray) -> np.ndarray:
            views = [states[:, :, p] for p in range(states.shape[2])]
            weights = np.zeros((len(states), self.n_layers + 1), np.float32)
            for layer, column in zip(needed, chosen.layers.layer_weights(views, index, run.threads).T, strict=True):
                weights[:, layer] += column
            return weights

        shape = (self.n_layers + 1,)
        return run.pooled(needed, chosen.tokens, shape, finish, skip_prompt=not chosen.include_prompt)

    def hidden_states(
        self,
        sentences,
        *,
        threads: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dropout_seed: int | None = None,
    ) -> list[np.ndarray] | np.ndarray:
        """Every token's state at every layer.

        Parameters are those of `encode`, and `dropout_seed` as in `layer_states`, with the same masks.

        Returns
        -------
        list of ndarray, float32, shape (L + 1, T, H)
            One array per sentence; for a single str, the array itself. Layer 0 is the embedding output.
        """
        texts, single = sentence_list(sentences)
        dropout = self._dropout(dropout_seed)
        states = self._run(texts, prompt, prompt_name, threads=threads, dropout=dropout).hidden_states()
        return states[0] if single else states

    def map_states(
        self,
        sentences,
        fn,
        *,
        threads: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        show_progress_bar: bool | None = None,
    ) -> list:
        """What `fn` makes of each sentence's hidden states, which never pile up.

        Parameters
        ----------
        sentences : str or iterable of str
            A single str counts as a list of one.
        fn : callable
            Called with every sentence's states, a float32 array (L + 1, T, H), one at a time and in the order of the
            sentences, for equal ones too. The array is its own: it may be changed or kept. What it raises comes out
            unchanged.
        threads, prompt, prompt_name, show_progress_bar
            As in `encode`.

        Returns
        -------
        list
            What `fn` returned, sentence by sentence.

        Raises
        ------
        TypeError
            `fn` cannot be called.

        Examples
        --------
        >>> norms = model.map_states(sentences, lambda h: np.linalg.norm(h, axis=2).mean(1))     # doctest: +SKIP
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable with an array (L + 1, T, H), not {type(fn).__name__} {shown(fn)}")
        texts = sentence_list(sentences)[0]
        run = self._run(
            texts, prompt, prompt_name, threads=threads, show_progress_bar=show_progress_bar, one_by_one=True
        )
        with contextlib.closing(run.each_hidden_states()) as each:
            return [fn(states) for states in each]

    def _dropout(self, dropout_seed: int | None) -> Dropout | None:
        if dropout_seed is None:
            return None
        return Dropout(self.folder.config.dropout, seed("dropout_seed", dropout_seed))

    def _run(
        self,
        texts,
        prompt=None,
        prompt_name=None,
        batch_size=32,
        threads=None,
        show_progress_bar=False,
        on_truncate="ignore",
        one_by_one=False,
        dropout=None,
    ) -> EncodingRun:
        return EncodingRun(
            self._core,
            self.tokenizer,
            texts,
            n_layers=self.n_layers,
            hidden_size=self.hidden_size,
            prompt=self._prompt(prompt, prompt_name),
            batch_size=positive_integer("batch_size", batch_size),
            threads=resolve(threads),
            on_truncate=on_truncate,
            show_progress_bar=show_progress_bar,
            one_by_one=one_by_one,
            dropout=dropout,
        )

    # ---- similarity --------------------------------------------------------------------------------------------

    def similarity(self, a, b) -> np.ndarray:
        """Every vector of `a` (n, d) against every vector of `b` (m, d), by the folder's `similarity_fn_name`.

        Vectors are read as float32 and compared in float64; the cosine of equal vectors is exactly 1, of a zero vector
        0. Distances are negated.

        Returns
        -------
        ndarray, float32, shape (n, m)
        """
        metric = self.folder.similarity_fn_name
        return _core.similarity(matrix("a", a), matrix("b", b), metric, resolve(None))

    def similarity_pairwise(self, a, b) -> np.ndarray:
        """Vector i of `a` against vector i of `b`, both (n, d), as `similarity` does.

        Returns
        -------
        ndarray, float32, shape (n,)
        """
        metric = self.folder.similarity_fn_name
        return _core.similarity_pairwise(matrix("a", a), matrix("b", b), metric).astype(np.float32)

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
        if not isinstance(prompt_name, str) or prompt_name not in self.prompts:
            known = ", ".join(map(repr, self.prompts)) or "none"
            raise ValueError(f"prompt_name is {shown(prompt_name)}; the model's prompts are: {known}")
        return self.prompts[prompt_name]

    def _kept_dimensions(self, truncate_dim: int | None, dimension: int) -> int:
        wanted = self.folder.truncate_dim if truncate_dim is None else positive_integer("truncate_dim", truncate_dim)
        if truncate_dim is not None and wanted > dimension:
            raise ValueError(f"truncate_dim is {wanted}; the embedding has only {dimension} dimensions")
        return min(wanted or dimension, dimension)


@functools.cache
def _warn_if_slow() -> None:
    """Say once that this CPU has no fused multiply-add; silent where the user chose the kernels."""
    if _core.config()["isa"] == "generic" and not os.environ.get("SENTPOOL_ISA"):
        warn("this CPU has no AVX2 and FMA: results are the same, but computed in software, which is slow")


def _check_device(device: object) -> None:
    if device is not None and str(device) != "cpu":
        raise ValueError(f"device is {shown(device)}; sentpool runs on the CPU: pass None or 'cpu'")


def _reopen(
    path: str,
    pooling: Pooling,
    max_seq_length: int,
    prompts: dict[str, str],
    wanted: precision.Precision,
    trained: tuple | None,
) -> SentenceEncoder:
    model = SentenceEncoder.__new__(SentenceEncoder)
    model.folder = open_folder(Path(path))  # a Path is never looked up on the hub
    model.pooling = pooling
    precision.open_into(model, wanted)
    model._trained, tensors, model._mlm_head = trained or (None, None, None)
    if trained is not None:
        put_tensors(model._core, tensors)
    model.max_seq_length = max_seq_length
    model.prompts.clear()
    model.prompts.update(prompts)
    return model
