"""One run of a Trainer: from data to a trained model, step by step."""

from __future__ import annotations

import hashlib
import math
import time
from functools import cached_property

import numpy as np

from sentpool import _core
from sentpool.config_report import versions
from sentpool.errors import shown, warn
from sentpool.layer_states import LayerStates
from sentpool.optimizer import AdamW, ParameterRules, learning_rate_at
from sentpool.parameter_store import ParameterStore
from sentpool.pooling import LayerAttention
from sentpool.progress import progress_bar
from sentpool.threads import resolve
from sentpool.training.batches import Batches
from sentpool.training.checkpoint import Checkpoint
from sentpool.training.data import TrainingData
from sentpool.training.history import History
from sentpool.training.interrupts import interrupts_deferred
from sentpool.training.output_folder import OutputFolder
from sentpool.training.settings import Settings, differences
from sentpool.training.sources import EncodedTexts, MaskedTexts, StoredStates
from sentpool.training.trained_pooling import TrainedPooling

# So many steps in a row that could not be taken end a run.
_MOST_SKIPPED = 10
# Above this, all embeddings of a batch point the same way.
_COLLAPSED = 0.99


class TrainingRun:
    """The state of a run.

    Parameters
    ----------
    model : SentenceEncoder
        Trained in place.
    settings : Settings
    data : TrainingData, or tuple of LayerStates
        With layer states, one for each column, only the pooling is trained.
    texts : TrainingData, optional
        What layer states are those of, where that is known: its scores, and which sentences are equal.
    """

    def __init__(
        self, model, settings: Settings, data, *, texts=None, development=None, callbacks=(), show_progress_bar=None
    ):
        self.model, self.settings, self.data = model, settings, data
        self.texts: TrainingData | None = data if isinstance(data, TrainingData) else texts
        self.development, self.callbacks, self.show_progress_bar = development, callbacks, show_progress_bar
        self.threads = resolve(settings.threads)
        self.step, self.skipped, self.collapse_said = 0, 0, False
        self.history = History(settings=settings.describe())
        self.output: OutputFolder | None = None
        if not model.pooling.tokens:
            raise ValueError(f"the pooling {model.pooling} has no gradients: train with another one")
        self.head = TrainedPooling(model.pooling)
        self._take_columns(data)
        self._prepare_encoder()
        self.optimizer = AdamW(
            {name: (store, rules) for name, (store, rules) in self._groups().items() if store.slices},
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            threads=settings.threads,
        )
        self.total_steps = settings.max_steps or self.batches.steps(settings.epochs)
        if settings.warmup_steps >= self.total_steps:
            warn(
                f"warmup_steps is {settings.warmup_steps}, and the run has {self.total_steps} steps: the learning rate "
                f"never gets to {settings.learning_rate}"
            )

    # ---- what is trained, and on what --------------------------------------------------------------------------------

    def _take_columns(self, data) -> None:
        """Roles and batches of texts or of layer states."""
        columns = data.columns if isinstance(data, TrainingData) else data
        objective, texts = self.settings.objective, self.texts
        self.roles = tuple(objective.roles(len(columns)))
        if not self.roles or not set(self.roles) <= set(range(len(columns))):
            raise ValueError(f"{shown(objective)} has the roles {self.roles}; the data have {len(columns)} columns")
        self.scores = None if texts is None else texts.scores
        needs_scores = getattr(objective, "needs_scores", False)
        if needs_scores and self.scores is None:
            remedy = "give pairs with a score" if texts is not None else "give pairs with a score, and head_only=True"
            raise ValueError(f"{objective!r} learns from scores, and {shown(data)} has none: {remedy}")
        if not needs_scores and self.scores is not None:
            raise ValueError(
                f"{objective!r} takes all pairs for alike, and {shown(texts)} says by scores how alike they are: train "
                f"with CoSENT, or give the pairs without scores"
            )
        self._warn_of_equal_views()
        # Of layer states alone nobody knows which were of equal sentences.
        sentences = [range(len(columns[0]))] if texts is None else texts.columns
        self.batches = Batches(sentences, self.settings.batch_size, self.settings.seed, self.settings.shuffle)

    def _warn_of_equal_views(self) -> None:
        """Where a text is its own positive, only chance in the forward pass makes two vectors of it."""
        is_drawn = isinstance(self.model.pooling.layers, LayerAttention)  # its RReLU
        columns = self.data if self.texts is None else self.texts.columns
        if len(columns) > 1 or len(self.roles) == 1 or is_drawn:
            return
        said = "each text is its own positive, and no dropout tells its two embeddings apart"
        if self.texts is None:
            warn(f"{said}, for both are of the same layer states: give two, with a dropout_seed each")
        elif not any(self.settings.dropout):
            warn(f"{said}, for all probabilities are 0: dropout=0.1 is usual")

    def _prepare_encoder(self) -> None:
        settings = self.settings
        self.training = self.language_model = None
        shared = {"threads": self.threads, "seed": settings.seed}
        if not isinstance(self.data, TrainingData):
            if settings.mlm_weight:
                raise ValueError("layer states teach the pooling alone, and not the MLM loss: leave out mlm_weight")
            self.source = StoredStates(self.data, self.head, **shared)
            return
        self.training = _core.Training(self.model._core, dropout=settings.dropout, seed=settings.seed)
        self.source = EncodedTexts(
            self.model,
            self.training,
            self.head,
            max_length=settings.max_length,
            chunk_size=settings.chunk_size,
            **shared,
        )
        if settings.mlm_weight:
            from sentpool.masked_language_model import MaskedLanguageModel  # few runs have it

            self.language_model = MaskedLanguageModel(
                self.model, seed=settings.seed, weight=settings.mlm_weight, threads=settings.threads
            )
            self.masked = MaskedTexts(self.source, self.language_model)

    def _groups(self) -> dict[str, tuple[ParameterStore, ParameterRules]]:
        """What the optimiser walks through."""
        groups = {"pooling": (self.head.store, ParameterRules())}
        if self.training is not None:
            encoder = ParameterStore(self.training.masters, self.training.gradients, self.training.slices)
            rules = ParameterRules(
                freeze_embeddings=self.settings.freeze_embeddings, freeze_layers=self.settings.freeze_layers
            )
            groups = {"encoder": (encoder, rules)} | groups
        if self.language_model is not None:
            groups["mlm"] = (self.language_model.store, ParameterRules())
        self.stores = {name: store for name, (store, _) in groups.items() if store.slices}
        return groups

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def run(self, output: OutputFolder | None) -> History:
        """Train, from the newest checkpoint of `output` if there is one."""
        self.output = output
        if output is not None:
            checkpoint = output.newest()
            if checkpoint is not None:
                self._restore(checkpoint)
            output.open_log(self.history)
        bar = progress_bar(self.total_steps, "Training", "steps", self.show_progress_bar)
        try:
            if bar is not None:
                bar.update(self.step)
            self._loop(bar)
        except KeyboardInterrupt:
            if output is not None:
                with interrupts_deferred():
                    self._save_checkpoint()
            raise
        finally:
            if bar is not None:
                bar.close()
        if output is not None:
            output.save_model(self.model, "last")
        return self.history

    def _loop(self, bar) -> None:
        # At the beginning; or where the run was broken off while it was evaluated.
        self._evaluate_if_due()
        stopped = False
        while self.step < self.total_steps and not stopped:
            row = self.take_step()
            if bar is not None:
                bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
                bar.update(1)
            row = row | self._evaluate_if_due()
            for callback in self.callbacks:
                answer = callback(self.model, row)
                stopped |= isinstance(answer, bool | np.bool_) and bool(answer)
            last = stopped or self.step == self.total_steps
            # After steps that could not be taken the weights may be spoilt, and would push out a good checkpoint.
            due = self.step % self.settings.save_steps == 0 and not self.skipped
            if self.output is not None and (last or due):
                self._save_checkpoint()

    def take_step(self) -> dict:
        """Take the next step; its row of the log. The model is the trained one afterwards."""
        settings, began = self.settings, time.perf_counter()
        epoch, items = self.batches.at(self.step)
        rate = learning_rate_at(
            self.step,
            learning_rate=settings.learning_rate,
            total_steps=self.total_steps,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
        )
        for store in self.stores.values():
            store.clear_gradients()
        embeddings = self.source.forward(self._rows(items), self.step)
        embeddings = embeddings.reshape(len(self.roles), len(items), -1)
        loss, gradients = self._loss(embeddings, items)
        row = {
            "step": self.step + 1,
            "epoch": epoch,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": math.nan,
            "mean_cosine": mean_cosine(embeddings[0]),
        }
        if math.isfinite(loss):
            self.source.backward(gradients.reshape(-1, embeddings.shape[2]))
            if self.language_model is not None:
                self._add_language_model(row)
        # From here on, the step is taken as a whole or not at all.
        with interrupts_deferred():
            if math.isfinite(row["loss"]):
                row["grad_norm"] = self.optimizer.step(rate)
            if math.isfinite(row["grad_norm"]):
                if self.training is not None:
                    self.training.update(threads=self.threads)
                self.head.update()
            self.step += 1
            self._hand_over()
            row["seconds"] = time.perf_counter() - began
            self.history.log.append(row)
            if self.output is not None:
                self.output.append(row)
        self._watch(row)
        return row

    def _loss(self, embeddings: np.ndarray, items: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective's loss of the embeddings (roles, n, d) of a step's items, and its gradient."""
        objective = self.settings.objective
        loss, gradients = objective(embeddings, None if self.scores is None else self.scores[items], self.threads)
        if np.shape(gradients) != embeddings.shape:
            raise ValueError(
                f"{shown(objective)} gave a gradient of shape {np.shape(gradients)}; that of embeddings of shape "
                f"{embeddings.shape} has the same"
            )
        return float(loss), np.asarray(gradients, np.float32)

    def _add_language_model(self, row: dict) -> None:
        row["contrastive_loss"], row["mlm_loss"] = row["loss"], self.masked.backward()
        row["loss"] += self.settings.mlm_weight * row["mlm_loss"]

    def _rows(self, items: np.ndarray) -> list:
        """What the source makes embeddings of, role by role."""
        if isinstance(self.data, TrainingData):
            return [self.data.columns[column][item] for column in self.roles for item in items]
        return [(column, int(item)) for column in self.roles for item in items]

    def _watch(self, row: dict) -> None:
        """Warn of what goes wrong, and raise where it does not get better."""
        if not math.isfinite(row["grad_norm"]):
            self.skipped += 1
            what = "gradient" if math.isfinite(row["loss"]) else "loss"
            said = f"step {row['step']}: the {what} is not finite, and the step is not taken"
            if self.skipped == _MOST_SKIPPED:
                raise ValueError(
                    f"{said}, for the {self.skipped}th time in a row: the model keeps the weights from before; try a "
                    f"lower learning_rate (it is {self.settings.learning_rate}), or warmup_steps"
                )
            warn(said)
            return
        self.skipped = 0
        first = self.history.log[0]["mean_cosine"]
        if not self.collapse_said and row["mean_cosine"] > max(_COLLAPSED, first):
            self.collapse_said = True
            warn(
                f"step {row['step']}: the embeddings collapse, the mean cosine of different items being "
                f"{row['mean_cosine']:.4f} ({first:.4f} at the start): try a lower learning_rate or a larger "
                f"batch_size"
            )

    def _evaluate_if_due(self) -> dict:
        """An evaluation's row, if there is one after this step; a model that is better than all before is kept."""
        due = self.step == self.total_steps or self.step % self.settings.eval_steps == 0
        done = any(row["step"] == self.step for row in self.history.evaluations[-1:])
        if self.development is None or not due or done:
            return {}
        best = self.history.best
        row = {"step": self.step} | self.development.evaluate(self.model, self.threads)
        # The model before the row: where this is broken off, the run evaluates anew when it goes on.
        if self.output is not None and (best is None or row["score"] > best["score"]):
            self.output.save_model(self.model, "best")
        with interrupts_deferred():
            self.history.evaluations.append(row)
            if self.output is not None:
                self.output.append(row)
        return row

    def _hand_over(self) -> None:
        """Give the model its pooling, MLM head and a note of its training; the encoder's weights it has already."""
        self.model.pooling = self.head.pooling
        if self.training is not None:
            self.model._trained = {"steps": self.step, "data_sha256": self.data.fingerprint} | self.settings.decisive()
        if self.language_model is not None:
            self.model._mlm_head = self.language_model.head

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        arrays = {f"{name}.parameters": store.masters for name, store in self.stores.items()}
        state = {
            "settings": self._begun_with(),
            "data": self._data_fingerprint,
            "parameters": self._layout(),
            "optimizer_steps": self.optimizer.step_count,
            "skipped": self.skipped,
            "collapse_said": self.collapse_said,
            "versions": versions(),
        }
        self.output.save_checkpoint(Checkpoint(self.step, arrays | self.optimizer.moments(), state))

    def _restore(self, checkpoint: Checkpoint) -> None:
        state, where = checkpoint.state, f"{self.output.path} cannot be resumed"
        changed = differences(state["settings"], self._begun_with())
        if changed:
            raise ValueError(f"{where}: {changed}; give what it was begun with, or another output_dir")
        if state["data"] != self._data_fingerprint:
            raise ValueError(f"{where}: it was begun with other data than {shown(self.texts or self.data)}")
        if state["parameters"] != self._layout():
            raise ValueError(f"{where}: it was begun with a model of other parameters than {self.model!r}")
        for name, store in self.stores.items():
            store.masters[...] = checkpoint.arrays[f"{name}.parameters"]
        moments = {name: checkpoint.arrays[name] for name in self.optimizer.moments()}
        self.optimizer.restore(state["optimizer_steps"], moments)
        if self.training is not None:
            self.training.update(threads=self.threads)
        self.head.update()
        self.step, self.skipped, self.collapse_said = checkpoint.step, state["skipped"], state["collapse_said"]
        if self.step > 0:
            self._hand_over()
        logged = self.output.log_until(self.step)
        self.history.log, self.history.evaluations = logged.log, logged.evaluations
        if state["versions"] != versions():
            warn(f"the run was begun with other versions: {differences(state['versions'], versions())}")

    def _begun_with(self) -> dict:
        """The settings and the pooling on which the weights depend."""
        try:
            pooling = self.head.pooling.config()
        except TypeError:  # the user's own, whose repr may be another in every process
            pooling = type(self.head.pooling.layers).__name__
        return self.settings.decisive() | {"pooling": pooling}

    @cached_property
    def _data_fingerprint(self) -> str:
        """Of the data, and of the scores that belong to layer states."""
        if self.texts is None or self.texts is self.data or self.texts.scores is None:
            return fingerprint(self.data)
        return f"{fingerprint(self.data)} {self.texts.fingerprint}"

    def _layout(self) -> str:
        """A digest of the names and shapes of all parameters."""
        names = [(name, *item) for name, store in self.stores.items() for item in store.slices.items()]
        return hashlib.sha256(repr(names).encode()).hexdigest()


def fingerprint(data) -> str:
    """SHA-256 of texts and scores, or of the numbers of layer states."""
    if isinstance(data, TrainingData):
        return data.fingerprint
    digest = hashlib.sha256()
    for states in data:
        digest.update(repr((states.array.shape, states.tokens, states.layers)).encode())
        for row in states.array:
            digest.update(np.ascontiguousarray(row, "<f4").tobytes())
    return digest.hexdigest()


def mean_cosine(embeddings: np.ndarray) -> float:
    """The mean cosine of different rows: (|Σ x̂|² - n) / (n (n - 1)), x̂ being x at length 1."""
    wide = embeddings.astype(np.float64)
    with np.errstate(all="ignore"):
        total = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).sum(axis=0)
        n = len(wide)
        return float((total @ total - n) / (n * (n - 1)))


def columns_of(data) -> TrainingData | tuple[LayerStates, ...]:
    """The data of `Trainer.fit`: one LayerStates or several are columns of stored states."""
    if isinstance(data, LayerStates):
        return (data,)
    if isinstance(data, tuple | list) and data and all(isinstance(part, LayerStates) for part in data):
        if len({len(part) for part in data}) > 1:
            raise ValueError(f"data are layer states of {', '.join(str(len(part)) for part in data)} sentences")
        return tuple(data)
    return TrainingData.of(data)
