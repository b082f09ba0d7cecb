"""The libraries that are compared. Each module holds one class `Encoder`; only its own process imports it."""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """A library at one precision."""

    name: str
    module: str  # in this package
    precision: str
    packages: tuple[str, ...]  # what pip must install for it
    imports: str  # the statement that a user's program begins with
    tolerance: float  # largest difference to sentpool's float32 embeddings (of length 1) that counts as the same model
    only: str = ""  # the one model that it can run


_TOKENS = ("tokenizers", "numpy")
_SENTPOOL = ((*_TOKENS, "safetensors", "tqdm"), "from sentpool import SentenceEncoder")
_SENTENCE_TRANSFORMERS = (("sentence-transformers",), "from sentence_transformers import SentenceTransformer")
_ONNXRUNTIME = (("onnxruntime", *_TOKENS), "import onnxruntime, tokenizers, numpy")
_CTRANSLATE2 = (("ctranslate2", *_TOKENS), "import ctranslate2, tokenizers, numpy")
_FASTTEXTEMBED = (("fasttextembed",), "from fasttextembed import TextEmbedding")
_OPENVINO = (("openvino", *_TOKENS), "import openvino, tokenizers, numpy")

PEERS = (
    Peer("sentpool", "sentpool", "fp32", *_SENTPOOL, 0.0),
    Peer("onnxruntime", "onnxruntime", "fp32", *_ONNXRUNTIME, 1e-5),
    Peer("openvino", "openvino", "fp32", *_OPENVINO, 1e-5),
    Peer("ctranslate2", "ctranslate2", "fp32", *_CTRANSLATE2, 1e-5),
    Peer("torch", "sentence_transformers", "fp32", *_SENTENCE_TRANSFORMERS, 1e-5),
    # Weights in float16 and GELU by its tanh formula: nearly the same function, and faster to compute.
    Peer("fasttextembed", "fasttextembed", "fp32", *_FASTTEXTEMBED, 1e-3, "small 12-layer shape"),
    Peer("sentpool bf16", "sentpool", "bf16", *_SENTPOOL, 2e-2),
    Peer("openvino bf16", "openvino", "bf16", *_OPENVINO, 2e-2),
    Peer("torch bf16", "sentence_transformers", "bf16", *_SENTENCE_TRANSFORMERS, 2e-2),
    # What int8 costs is part of the result: the lowest cosine stands beside the speed.
    Peer("sentpool int8", "sentpool", "int8", *_SENTPOOL, 0.5),
    Peer("sentpool int8 fast", "sentpool", "int8 fast", *_SENTPOOL, 0.5),
    Peer("onnxruntime int8", "onnxruntime", "int8", *_ONNXRUNTIME, 0.5),
    Peer("ctranslate2 int8", "ctranslate2", "int8", *_CTRANSLATE2, 0.5),
)
TRAINERS = (
    Peer("sentpool", "sentpool_training", "fp32", *_SENTPOOL, 0.0),
    Peer("torch", "torch_training", "fp32", ("torch", "transformers"), "import torch, transformers", 0.0),
    Peer("torch bf16", "torch_training", "bf16", ("torch", "transformers"), "import torch, transformers", 0.0),
)
BY_NAME = {peer.name: peer for peer in PEERS}
