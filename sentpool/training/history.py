"""What happened in training, step by step: numbers, plots, a log that survives."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from sentpool.atomic_file import replacing


@dataclass
class History:
    """The history of a run.

    Attributes
    ----------
    log : list of dict
        A row per step: `step` (from 1), `epoch`, `loss`, `learning_rate`, `grad_norm` (before clipping), `mean_cosine`
        (between the first embeddings of different items of the batch), `seconds`; with an auxiliary loss also
        `contrastive_loss` and `mlm_loss`.
    evaluations : list of dict
        A row per evaluation: `step` (0 before the first one), `score`, and for pairs `alignment` and `uniformity`;
        `layer_weights` where the pooling has some.
    settings : dict
        What the run was asked for.
    """

    log: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    @property
    def best(self) -> dict | None:
        """The evaluation with the highest score, the first of equal ones; None without evaluations."""
        scored = [row for row in self.evaluations if not math.isnan(row["score"])]
        return max(scored, key=lambda row: row["score"]) if scored else None

    def save(self, path) -> None:
        """Write the settings, then a line of JSON per step and evaluation; the file is replaced in one step."""
        rows = [{"settings": self.settings}, *sorted([*self.log, *self.evaluations], key=lambda row: row["step"])]
        with replacing(path) as file:
            file.writelines(json_line(row) for row in rows)

    @classmethod
    def load(cls, path, until: int | None = None) -> History:
        """Read what `save` wrote, or the `log.jsonl` of an output folder. A last line that is cut short is left out.

        Parameters
        ----------
        path : str or Path
        until : int, optional
            The last step that is wanted; lines behind it may be broken, as a power cut leaves them.

        Raises
        ------
        FileNotFoundError
        ValueError
            It is no such file.
        """
        history = cls()
        lines = Path(path).read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if number == len(lines) and not line.endswith(b"\n"):
                break  # the process was killed while it wrote
            try:
                row = json.loads(line.decode())
                if "settings" in row:
                    history.settings = row["settings"]
                else:
                    row["step"]
                    (history.log if "loss" in row else history.evaluations).append(_with_nan(row))
            except (ValueError, KeyError, TypeError) as error:
                if until is not None and until <= (history.log[-1]["step"] if history.log else 0):
                    break
                raise ValueError(f"{os.fspath(path)}:{number}: no line of a training log: {error}") from error
        return history if until is None else history.until(until)

    def until(self, step: int) -> History:
        """The part up to a step."""
        return History(
            [row for row in self.log if row["step"] <= step],
            [row for row in self.evaluations if row["step"] <= step],
            self.settings,
        )

    def plot_loss(self, ax=None):
        """The loss over the steps; see `plotting.training_loss`."""
        from sentpool.plotting import training_loss

        return training_loss(self, ax)

    def plot_scores(self, ax=None):
        """The evaluations' scores over the steps; see `plotting.training_scores`."""
        from sentpool.plotting import training_scores

        return training_scores(self, ax)

    def plot_space(self, ax=None):
        """Alignment and uniformity over the steps; see `plotting.training_space`."""
        from sentpool.plotting import training_space

        return training_space(self, ax)

    def plot_layer_weights(self, ax=None):
        """The layers' weights over the steps; see `plotting.training_layer_weights`."""
        from sentpool.plotting import training_layer_weights

        return training_layer_weights(self, ax)

    def __repr__(self) -> str:
        if not self.log:
            return "History(no steps)"
        best = f", best score {self.best['score']:.4f} at step {self.best['step']}" if self.best else ""
        return f"History({len(self.log)} steps, loss {self.log[0]['loss']:.4f} to {self.log[-1]['loss']:.4f}{best})"


def json_line(row: dict) -> bytes:
    """A row of a log; numbers that are not finite, which JSON does not have, become null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    return (json.dumps(finite) + "\n").encode()


def _with_nan(row: dict) -> dict:
    return {name: math.nan if value is None else value for name, value in row.items()}
