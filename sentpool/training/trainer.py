"""The Trainer: an encoder and its pooling learn from pairs, contrastively."""

from __future__ import annotations

import os
from collections.abc import Iterable

from sentpool.checks import one_of
from sentpool.dropout import Dropout
from sentpool.encoder import SentenceEncoder
from sentpool.errors import shown
from sentpool.pooling import Pooling, initial
from sentpool.threads import resolve
from sentpool.training.data import TrainingData
from sentpool.training.development import DevelopmentSet
from sentpool.training.history import History
from sentpool.training.output_folder import OutputFolder
from sentpool.training.run import TrainingRun, columns_of
from sentpool.training.settings import SETTING_NAMES, resolve_settings
from sentpool.training.sources import computed_states


class Trainer:
    """Trains a model in place.

    The same data and seed give the same weights to the bit, for any `threads` and `chunk_size`, on AVX2 and AVX-512
    machines alike, and after an interruption.

    Parameters
    ----------
    model : SentenceEncoder
    objective : str or object, default "simcse-unsup"
        A recipe: ``simcse-unsup``, ``simcse-sup`` (Gao et al. 2021), ``oh2022-unsup``, ``oh2022-sup`` (Oh et al. 2022),
        whose numbers hold where None is given below; or an object of `sentpool.objectives`, or of your own with
        `roles(columns)` and a call as `objectives.InfoNCE` has them, with which None means the numbers of
        ``simcse-unsup``. It never changes the model's pooling.
    pooling : str or Pooling, optional
        Replaces the model's pooling before training. A name whose parameters the model's folder does not hold, such as
        ``layer_attention`` or ``cls_mlp_train_only``, starts with fresh ones.
    epochs, batch_size, learning_rate, max_length : optional
        1, 64 items, 3e-5 and 32 tokens in ``simcse-unsup``.
    max_steps : int, optional
        Instead of `epochs`: so many steps, over as many epochs as that takes.
    seed : int, default 0
        Of shuffling, dropout and fresh parameters.
    threads : int, optional
        See `set_num_threads` for the default.
    dropout : float, optional
        Instead of the probabilities of the model's `config.json`, wherever the family drops values; 0 for none.
    chunk_size : int, optional
        How many rows (twice the items, three times with hard negatives) go through the encoder together; it bounds the
        memory and changes no bit. By default all.
    weight_decay : float, default 0
        Of weights, not of biases and layer norms.
    temperature, scale, hard_negative_alpha, hard_negative_weight : float, optional
        Of a recipe's loss, see `objectives.InfoNCE`.
    warmup_steps : int, default 0
    max_grad_norm : float or None, default 1
        The longest gradient; a longer one is scaled down.
    schedule : {"linear", "constant"}
        The learning rate falls to 0 at the end, or does not.
    shuffle : bool, default True
    mlm_weight : float, optional
        Weight of the auxiliary masked language model loss; 0 without it. Its head is trained and saved with the model.
    freeze_embeddings : bool, default False
    freeze_layers : int, default 0
        So many lower layers keep their weights, and the embeddings too.
    head_only : bool, default False
        Only the pooling is trained, on layer states that are computed once. An encoder in bfloat16 or int8 trains so
        alone.
    output_dir : path, optional
        For ``checkpoints/``, ``log.jsonl``, the ``last/`` model and the ``best/`` one of the evaluations.
    save_steps : int, optional
        Steps between checkpoints, 500 by default.
    eval_data : optional
        A folder in SentEval's layout, of which STS-B's development pairs are taken; scored pairs or a file of them; or
        a function that gives a number for a model, higher being better.
    eval_steps : int, optional
        Steps between evaluations; what the recipe says, or 125.
    callbacks : callable or sequence of callables
        Each is called with the model and the log's row after every step, with the evaluation's numbers where there was
        one. If one returns True, the run ends.
    show_progress_bar : bool, optional
        By default a bar appears where somebody can see it.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it must be; it is named.

    Warns
    -----
    SentpoolWarning
        The pooling is not the recipe's.

    Examples
    --------
    >>> trainer = sentpool.Trainer(model, "simcse-sup", output_dir="run", eval_data="data/sts")  # doctest: +SKIP
    >>> trainer.fit("nli_for_simcse.csv").best                                                  # doctest: +SKIP
    {'step': 1250, 'score': 0.862, 'alignment': 0.21, 'uniformity': -2.4}
    """

    def __init__(
        self,
        model,
        objective="simcse-unsup",
        *,
        pooling=None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        max_steps: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        dropout: float | None = None,
        chunk_size: int | None = None,
        weight_decay: float = 0.0,
        temperature: float | None = None,
        scale: float | None = None,
        hard_negative_alpha: float | None = None,
        hard_negative_weight: float | None = None,
        warmup_steps: int = 0,
        max_grad_norm: float | None = 1.0,
        schedule: str = "linear",
        shuffle: bool = True,
        mlm_weight: float | None = None,
        freeze_embeddings: bool = False,
        freeze_layers: int = 0,
        head_only: bool = False,
        output_dir: str | os.PathLike[str] | None = None,
        save_steps: int | None = None,
        eval_data=None,
        eval_steps: int | None = None,
        callbacks: Iterable = (),
        show_progress_bar: bool | None = None,
    ) -> None:
        if not isinstance(model, SentenceEncoder):
            raise TypeError(f"model is {shown(model)}; it must be a SentenceEncoder")
        given = {name: value for name, value in locals().items() if name in SETTING_NAMES}
        self.model = model
        self.settings, self._recipe = resolve_settings(model, objective, given)
        if output_dir is not None and not isinstance(output_dir, str | os.PathLike):
            raise TypeError(f"output_dir is {shown(output_dir)}; it must be a path")
        self.output_dir, self.show_progress_bar = output_dir, show_progress_bar
        if not callable(callbacks) and not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks is {shown(callbacks)}; it must be a function, or a sequence of them")
        self.callbacks = (callbacks,) if callable(callbacks) else tuple(callbacks)
        for callback in self.callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks holds {shown(callback)}; each is called with the model and a row")
        self.development = None if eval_data is None else DevelopmentSet(eval_data)
        if pooling is not None:
            model.pooling = self._initial_pooling(pooling)
        if self._recipe is not None:
            self._recipe.warn_of_pooling(model.pooling)

    def fit(self, data, *, resume: bool = False) -> History:
        """Train on data; the model is the trained one afterwards.

        Parameters
        ----------
        data : path, sequence, TrainingData, LayerStates or tuple of LayerStates
            Texts (each its own positive, told apart by dropout), pairs, triplets with a hard negative, or scored pairs;
            see `TrainingData`. Layer states, one for each column of such data, train the pooling alone.
        resume : bool, default False
            Go on from the newest checkpoint of `output_dir`; where there is none, begin.

        Returns
        -------
        History

        Raises
        ------
        FileExistsError
            `output_dir` has checkpoints, and `resume` is False.
        ValueError
            The data do not suit the objective, a resumed run was begun with other data or settings, or ten steps in a
            row had no finite gradient.
        KeyboardInterrupt
            Ctrl-C; `output_dir` has a checkpoint of the last whole step then.

        Warns
        -----
        SentpoolWarning
            The data are not what the recipe takes; a step is not taken, for its loss or gradient is not finite; the
            embeddings collapse; a checkpoint is damaged; texts are their own positives, and nothing is dropped; the run
            ends before its warm-up.
        """
        one_of("resume", resume, (False, True))
        columns = self._columns(data)
        if resume and self.output_dir is None:
            raise ValueError("resume is True, and there is no output_dir in which a checkpoint could be")
        output = None if self.output_dir is None else OutputFolder(self.output_dir, resume=resume)
        try:
            return self.prepared(columns).run(output)
        finally:
            if output is not None:
                output.close()

    def prepared(self, data) -> TrainingRun:
        """A run on data that has not begun; its `take_step` is for loops of one's own."""
        columns, texts = self._columns(data), None
        # Layer states of pairs may be those of texts under two dropouts.
        if self._recipe is not None and isinstance(columns, TrainingData):
            self._recipe.warn_of_data(len(columns.columns))
        if self.settings.head_only and isinstance(columns, TrainingData):
            columns, texts = self._stored(columns), columns
        return TrainingRun(
            self.model,
            self.settings,
            columns,
            texts=texts,
            development=self.development,
            callbacks=self.callbacks,
            show_progress_bar=self.show_progress_bar,
        )

    def _columns(self, data):
        """Texts or layer states; ValueError for texts that would train an encoder in low precision."""
        columns = columns_of(data)
        if isinstance(columns, TrainingData) and not self.settings.head_only and self.model.dtype != "float32":
            raise ValueError(
                f"the model computes in {self.model.dtype}, and only its pooling can be trained: open it with "
                "dtype='float32', or pass head_only=True or layer states"
            )
        return columns

    def _initial_pooling(self, pooling) -> Pooling:
        if isinstance(pooling, str) and self.model.folder.trained_pooling(pooling) is None:
            return initial(pooling, self.model.n_layers, self.model.hidden_size, self.settings.seed)
        return pooling

    def _stored(self, data: TrainingData):
        """Layer states of every column; two with different dropout where texts are their own positives."""
        settings = self.settings
        columns = [(column, None) for column in data.columns]
        if len(columns) == 1:
            columns = [(data.columns[0], Dropout(settings.dropout, (settings.seed + k) % 2**64)) for k in range(2)]
        return tuple(
            computed_states(
                self.model,
                column,
                max_length=settings.max_length,
                threads=resolve(settings.threads),
                dropout=dropout,
                show_progress_bar=self.show_progress_bar,
            )
            for column, dropout in columns
        )
