"""sentpool as a user calls it."""

from __future__ import annotations

from peers.base import Job
from sentpool import SentenceEncoder

PRECISIONS = {
    "fp32": {},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"dtype": "int8"},
    "int8 fast": {"dtype": "int8", "int8": "fast"},
}


class Encoder:
    """`SentenceEncoder.encode` with its defaults."""

    def __init__(self, job: Job) -> None:
        self.model = SentenceEncoder(job.folder, **PRECISIONS[job.precision])
        self.threads = job.threads

    @staticmethod
    def prepare(job: Job) -> None:
        """The folder itself is read."""

    def choices(self, _purpose: str) -> dict[str, tuple]:
        return {}

    def configure(self) -> None:
        """Nothing to choose."""

    def encode(self, texts: list[str]):
        self.model.tokenizer.forget_words()  # passes over the same texts shall not gain by it
        return self.model.encode(texts, threads=self.threads)
