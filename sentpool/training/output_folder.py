"""What a run leaves on disk: checkpoints, the best and the last model, and a log."""

from __future__ import annotations

import os
from pathlib import Path

from sentpool.errors import warn
from sentpool.training.checkpoint import Checkpoint, has_checkpoints, read_newest, remove_leftovers, write_checkpoint
from sentpool.training.history import History, json_line


class OutputFolder:
    """``checkpoints/``, ``best/``, ``last/`` and ``log.jsonl`` in one folder.

    Raises
    ------
    FileExistsError
        There are checkpoints, and `resume` is False.
    OSError
        The folder cannot be made.
    """

    def __init__(self, path, *, resume: bool) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._log_path = self.path / "log.jsonl"
        self._log = None
        self._saves_models = True
        if has_checkpoints(self.checkpoints) and not resume:
            raise FileExistsError(
                f"{os.fspath(path)!r} has checkpoints of a run: fit(…, resume=True), or --resume, goes on with it; for "
                f"a new run, name another output_dir, or remove this one"
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.checkpoints):
            remove_leftovers(folder)

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from."""
        return read_newest(self.checkpoints)

    def log_until(self, step: int) -> History:
        """What is logged up to a step; what comes behind, which a power cut may have damaged, is not looked at."""
        try:
            return History.load(self._log_path, until=step)
        except FileNotFoundError:
            return History()
        except ValueError as error:
            warn(f"the log of the run's first steps is lost: {error}")
            return History()

    def open_log(self, history: History) -> None:
        """Begin the log anew with a history; rows are appended to it."""
        history.save(self._log_path)
        self._log = open(self._log_path, "ab", buffering=0)  # noqa: SIM115 - `close` closes it

    def append(self, row: dict) -> None:
        """A row to the log, which is whole whenever the process is killed."""
        self._log.write(json_line(row))

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the log up to it is on the disk before."""
        os.fsync(self._log.fileno())
        write_checkpoint(self.checkpoints, checkpoint)

    def save_model(self, model, name: str) -> None:
        """Write the model as the folder `name`; one whose pooling cannot be saved is left out with a warning."""
        if not self._saves_models:
            return
        try:
            model.save_pretrained(self.path / name, overwrite=True)
        except TypeError as error:
            self._saves_models = False
            warn(f"{self.path}: the model is not saved, only checkpoints are: {error}")

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
