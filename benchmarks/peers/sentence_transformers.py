"""sentence-transformers on torch, in float32 or bfloat16."""

from __future__ import annotations

import torch
from sentence_transformers import SentenceTransformer

from peers.base import Job


class Encoder:
    """`SentenceTransformer.encode`; it sorts by length itself."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job.precision]
        self.model = SentenceTransformer(str(job.folder), device="cpu", model_kwargs={"dtype": dtype})
        self.batch = 32

    @staticmethod
    def prepare(job: Job) -> None:
        """The folder itself is read."""

    def choices(self, purpose: str) -> dict[str, tuple]:
        return {"batch": (32, 8, 16, 64, 128)} if purpose == "throughput" else {}

    def configure(self, batch: int = 32) -> None:
        self.batch = batch

    def encode(self, texts: list[str]):
        return self.model.encode(texts, batch_size=self.batch, show_progress_bar=False)
