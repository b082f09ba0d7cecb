"""CTranslate2 in float32 or int8; it runs the network, pooling is NumPy's."""

from __future__ import annotations

from functools import cache

import ctranslate2
import numpy as np

from peers.base import BATCH_SIZES, BatchEncoder, Job, pool, pooling_of, streams_for


class Encoder(BatchEncoder):
    """One encoder per number of streams."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.pooling = pooling_of(job.folder)
        self.encoders = cache(self._encoder)
        self.configure(streams=1)

    @staticmethod
    def prepare(job: Job) -> None:
        converter = ctranslate2.converters.TransformersConverter(str(job.folder))
        converter.convert(str(job.exported), quantization="float32", force=True)

    def choices(self, purpose: str) -> dict[str, tuple]:
        if purpose == "latency":
            return {"streams": (1,)}
        return {"streams": streams_for(self.job.threads), "batch": BATCH_SIZES}

    def configure(self, **settings) -> None:
        super().configure(**settings)
        self.encoder = self.encoders(self.job.settings["streams"])

    def _encoder(self, streams: int) -> ctranslate2.Encoder:
        return ctranslate2.Encoder(
            str(self.job.exported),
            device="cpu",
            compute_type={"fp32": "float32", "int8": "int8"}[self.job.precision],
            inter_threads=streams,
            intra_threads=max(1, self.job.threads // streams),
        )

    def run_batch(self, ids: list[list[int]]) -> np.ndarray:
        hidden = np.asarray(self.encoder.forward_batch(ids).last_hidden_state)
        return pool(hidden, np.array([len(row) for row in ids]), self.pooling)
