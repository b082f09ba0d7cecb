"""OpenVINO in float32 or bfloat16, tuned by itself for latency or for throughput, whichever is faster."""

from __future__ import annotations

from functools import cache

import numpy as np
import openvino

from peers.base import BATCH_SIZES, BatchEncoder, Job, by_length, padded, tokenise


class Encoder(BatchEncoder):
    """One compiled model per performance hint; batches go to as many requests as OpenVINO finds best."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.core = openvino.Core()
        self.queues = cache(self._queue)
        self.configure(hint="LATENCY")

    @staticmethod
    def prepare(job: Job) -> None:
        from peers.torch_module import PooledEncoder, example

        model = openvino.convert_model(PooledEncoder(job.folder, "sdpa"), example_input=example())
        openvino.save_model(model, job.exported / "model.xml", compress_to_fp16=False)

    def choices(self, purpose: str) -> dict[str, tuple]:
        hints = {"hint": ("THROUGHPUT", "LATENCY")}
        return hints if purpose == "latency" else {**hints, "batch": BATCH_SIZES}

    def configure(self, **settings) -> None:
        super().configure(**settings)
        self.queue = self.queues(self.job.settings["hint"])

    def _queue(self, hint: str) -> openvino.AsyncInferQueue:
        precision = {"fp32": "f32", "bf16": "bf16"}[self.job.precision]
        options = {"INFERENCE_NUM_THREADS": self.job.threads, "INFERENCE_PRECISION_HINT": precision}
        compiled = self.core.compile_model(
            self.job.exported / "model.xml", "CPU", {"PERFORMANCE_HINT": hint, **options}
        )
        return openvino.AsyncInferQueue(compiled)

    def encode(self, texts: list[str]) -> np.ndarray:
        ids = tokenise(self.tokenizer, texts)
        if len(ids) == 1:
            return self.queue[0].infer(padded(ids))[0]
        out: list[np.ndarray | None] = [None] * len(texts)

        def keep(request, positions) -> None:
            for position, row in zip(positions, request.get_output_tensor().data.copy(), strict=True):
                out[position] = row

        self.queue.set_callback(keep)
        for positions, rows in by_length(ids, self.job.settings.get("batch", 32)):
            self.queue.start_async(padded(rows), positions)
        self.queue.wait_all()
        return np.stack(out)
