"""Unsupervised SimCSE with sentpool, a step at a time."""

from __future__ import annotations

from peers.base import Job
from sentpool import SentenceEncoder, Trainer


class Encoder:
    """Trains on batches of texts in the order in which they come."""

    def __init__(self, job: Job) -> None:
        self.model = SentenceEncoder(job.folder)
        self.threads = job.threads
        self.run = None

    @staticmethod
    def prepare(job: Job) -> None:
        """The folder itself is read."""

    def train(self, texts: list[str], batch_size: int, max_length: int, steps: int) -> list[float]:
        """The next `steps` steps over the texts; their losses."""
        if self.run is None:
            trainer = Trainer(
                self.model,
                "simcse-unsup",
                batch_size=batch_size,
                max_length=max_length,
                dropout=0.1,
                threads=self.threads,
                schedule="constant",
                shuffle=False,
            )
            self.run = trainer.prepared(texts)
        return [self.run.take_step()["loss"] for _ in range(steps)]
