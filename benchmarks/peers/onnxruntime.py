"""ONNX Runtime: the exported graph as it is, or rewritten by its transformer optimiser, whichever is faster; for int8
both with dynamically quantised products."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime

from peers.base import BATCH_SIZES, BatchEncoder, Job, padded, streams_for

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Encoder(BatchEncoder):
    """One session per graph and number of streams, made when first asked for."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.sessions = cache(self._session)
        self.configure(graph="optimised", streams=1)

    @staticmethod
    def prepare(job: Job) -> None:
        export_onnx(job)
        optimise(job)
        if job.precision == "int8":
            quantize(job)

    def choices(self, purpose: str) -> dict[str, tuple]:
        graphs = {"graph": ("optimised", "raw")}
        if purpose == "latency":
            return {"streams": (1,), **graphs}
        return {"streams": streams_for(self.job.threads), **graphs, "batch": BATCH_SIZES}

    def configure(self, **settings) -> None:
        super().configure(**settings)
        self.session = self.sessions(self.job.settings["graph"], self.job.settings["streams"])

    def _session(self, graph: str, streams: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = max(1, self.job.threads // streams)
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = str(self.job.exported / f"{graph}.onnx")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run_batch(self, ids: list[list[int]]) -> np.ndarray:
        return self.session.run(None, dict(zip(INPUTS, padded(ids), strict=True)))[0]


def export_onnx(job: Job) -> None:
    """raw.onnx by torch's exporter, the one whose graphs ONNX Runtime's optimiser knows."""
    import torch

    from peers.torch_module import INPUTS, PooledEncoder, example

    ragged = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        PooledEncoder(job.folder, "eager"),
        tuple(example().values()),
        job.exported / "raw.onnx",
        input_names=list(INPUTS),
        output_names=["embedding"],
        dynamic_axes={**dict.fromkeys(INPUTS, ragged), "embedding": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def optimise(job: Job) -> None:
    """optimised.onnx: attention, layer norms, GELU and embeddings fused."""
    import json

    from onnxruntime.transformers.optimizer import optimize_model

    config = json.loads((job.folder / "config.json").read_text())
    graph = optimize_model(
        str(job.exported / "raw.onnx"),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
        opt_level=0,
    )
    graph.save_model_to_file(str(job.exported / "optimised.onnx"))


def quantize(job: Job) -> None:
    """Both graphs with weights in int8 and activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Shape inference does not know the optimised graph's own nodes.
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}

    for graph in ("raw", "optimised"):
        path = job.exported / f"{graph}.onnx"
        quantised = job.exported / f"{graph}-int8.onnx"
        quantize_dynamic(path, quantised, weight_type=QuantType.QInt8, extra_options=options)
        quantised.replace(path)
