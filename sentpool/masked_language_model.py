"""Masked language modelling beside another objective: which tokens are masked, their loss, its gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sentpool import _core, checks
from sentpool.errors import shown, warn
from sentpool.mlm_head import MLMHead, read_head
from sentpool.parameter_store import ParameterStore
from sentpool.threads import resolve
from sentpool.tokenizer_files import read_settings

_LONGEST_GROUP = 256  # rows whose gradients are summed in one chain
_PARTS = ("dense.weight", "dense.bias", "norm.weight", "norm.bias")


class MaskedTokens(NamedTuple):
    """Packed sentences in which tokens were chosen.

    Attributes
    ----------
    ids : ndarray, int32, shape (N,)
        What the encoder sees.
    positions : ndarray, int64, shape (m,)
        Which of the N tokens were chosen, in ascending order.
    labels : ndarray, int32, shape (m,)
        What they were.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


class MaskedLanguageModel:
    """The auxiliary loss of masked language modelling (Devlin et al. 2019, as in SimCSE).

    15 % of the tokens that are not special are chosen; 80 % of them are replaced by the mask, 10 % by any token of the
    vocabulary, and 10 % stay. The loss is the mean cross-entropy over the chosen tokens of a batch. The decoder is the
    encoder's word table, unless `config.json` says that they are not tied (`tie_word_embeddings`); the head before it
    is that with which the model was trained before, else the folder's (`cls.predictions.*`, `lm_head.*`), or a fresh
    one, with a warning.

    A step: `choose`; `start` with the number of chosen tokens; `backward` for each chunk of the batch, in order;
    `finish`. How the batch is cut into chunks of whole groups does not show in the bits.

    Parameters
    ----------
    model : SentenceEncoder
        Whose folder and tokenizer are used.
    weight
        What the loss is multiplied by, above 0, when gradients are taken.
    seed
        Of the choice and of fresh parameters.
    threads
        How many threads to use; None means `get_num_threads()`. The bits do not depend on it.

    Attributes
    ----------
    store : ParameterStore
        The head's parameters and gradients, with a decoder that is not tied. The word table is the encoder's.

    Raises
    ------
    ModelFolderError
        If the folder's head does not fit.
    TypeError, ValueError
        If an argument is not as said, or the tokenizer has no mask token.

    Warns
    -----
    SentpoolWarning
        The folder has no head, or has a decoder that is not used.
    """

    def __init__(self, model, *, weight: float = 0.1, seed: int = 0, threads: int | None = None) -> None:
        self.weight = checks.positive_number("weight", weight)
        self._seed, self._threads = checks.seed("seed", seed), resolve(threads)
        folder = model.folder
        self._head = model._mlm_head or read_head(folder.transformer_path, folder.config, self._seed)
        if self._head.is_fresh:
            warn(
                f"{folder.transformer_path}: there is no head for masked language modelling (cls.predictions.* or "
                f"lm_head.*); a fresh one is trained, of N(0, 0.02)"
            )
        self.store = ParameterStore.of(self._head.parameters)
        vocabulary = folder.config.vocab_size
        if self._head.is_tied:
            self._d_decoder = np.zeros((vocabulary, folder.config.embedding_size), np.float32)
        else:
            self._d_decoder = self.store.gradient("decoder.weight")
        self._mask_id, self._special = _special_tokens(folder, vocabulary)
        self._total, self._losses = 0, []

    def choose(self, ids: np.ndarray, offsets: np.ndarray, *, step: int, first_row: int = 0) -> MaskedTokens:
        """Choose tokens of packed sentences.

        The choice depends on seed, step, the sentence's row and the token's place in it alone.

        Parameters
        ----------
        ids
            (N,), sentence i owning ids[offsets[i]:offsets[i + 1]].
        offsets
            (n + 1,).
        step
            The number of the step, below 2**32.
        first_row
            Which row of the batch the first sentence is.
        """
        return MaskedTokens(*_core.mlm_choice(ids, offsets, self._special, self._mask_id, self._seed, step, first_row))

    def cuts(self, positions: np.ndarray, offsets: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Where the groups of a chunk begin and end among its chosen tokens.

        Parameters
        ----------
        positions
            (m,), the chosen ones of the chunk's tokens, ascending.
        offsets
            (n + 1,), where the chunk's sentences begin and end among its tokens.
        groups
            (k + 1,), where its groups begin and end among the sentences: whole sentences up to 256 tokens; a longer one
            is a group of its own, and is cut every 256.
        """
        bounds = np.asarray(offsets)[np.asarray(groups)]
        tokens = [np.arange(first, end, _LONGEST_GROUP) for first, end in zip(bounds[:-1], bounds[1:], strict=True)]
        cuts = np.searchsorted(positions, np.concatenate([*tokens, bounds[-1:]]))
        return np.unique(cuts)

    def start(self, total: int) -> None:
        """Begin a step in whose batch `total` tokens are chosen."""
        self._total, self._losses = total, []
        self._d_decoder.fill(0)

    def backward(self, rows: np.ndarray, labels: np.ndarray, cuts: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Take the losses of a chunk's chosen tokens, and add to the gradients of the head.

        Parameters
        ----------
        rows
            (m, H), their states in the last layer.
        labels
            (m,), what they were.
        cuts
            Of `cuts`.
        words
            (V, E), the word table.

        Returns
        -------
        numpy.ndarray
            float32 (m, H): the gradient of `rows`.
        """
        if len(rows) == 0:
            return np.zeros_like(rows)
        decoder = words if self._head.is_tied else self.store.parameter("decoder.weight")
        losses, d_rows = _core.mlm_head(
            rows,
            labels,
            cuts,
            (*map(self.store.parameter, _PARTS), decoder, self.store.parameter("bias")),
            (*map(self.store.gradient, _PARTS), self._d_decoder, self.store.gradient("bias")),
            self._head.eps,
            self._head.activation,
            self.weight / self._total,
            self._threads,
        )
        self._losses.append(losses)
        return d_rows

    def finish(self, words_gradient: np.ndarray) -> float:
        """End a step: add a tied decoder's gradient to that of the word table (V, E), and return the loss.

        The loss is the mean cross-entropy, without `weight`; 0 where no token was chosen.
        """
        if self._head.is_tied:
            np.add(words_gradient, self._d_decoder, out=words_gradient)
        for part in self._head.absent:
            self.store.gradient(part).fill(0)
        # rounded once, so that it does not depend on the order either
        return math.fsum(np.concatenate(self._losses)) / self._total if self._losses else 0.0

    @property
    def head(self) -> MLMHead:
        """The head as it is now: its parameters are those of `store`."""
        return replace(self._head, parameters=self.store.parameters(), is_fresh=False)


def _special_tokens(folder, vocabulary: int) -> tuple[int, np.ndarray]:
    """The id of the mask, and which ids are special, uint8 (V,)."""
    backend = folder.tokenizer.backend
    given = read_settings(folder.transformer_path).values.get("mask_token")
    name = given.get("content") if isinstance(given, dict) else given
    found = (backend.token_to_id(mask) for mask in (name, "[MASK]", "<mask>") if isinstance(mask, str))
    mask_id = next((token for token in found if token is not None and token < vocabulary), None)
    if mask_id is None:
        raise ValueError(
            f"the tokenizer of {folder.transformer_path} has no mask token ({shown(name or '[MASK]')}), which masked "
            f"language modelling needs: set mlm_weight to 0"
        )
    special = np.zeros(vocabulary, np.uint8)
    added = [token for token, about in backend.get_added_tokens_decoder().items() if about.special]
    around = [token for token, is_special in _around(backend) if is_special]
    special[[token for token in (*added, *around, mask_id) if token < vocabulary]] = 1
    return mask_id, special


def _around(backend):
    """Tokens of a text, and whether they are those that are put around every text."""
    encoding = backend.encode("a")
    return zip(encoding.ids, encoding.special_tokens_mask, strict=True)


__all__ = ["MaskedLanguageModel", "MaskedTokens"]
