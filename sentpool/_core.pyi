"""The C core, as the package uses it. Arrays that come in are converted where that is exact enough, never written."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Probabilities of dropping, see `sentpool.dropout.Sites`.
_Rates = tuple[float, float, float, float, float]
# With them the seed, the step, and the row of the first sentence.
_Dropout = tuple[_Rates, int, int, int]

class Model:
    def __new__(
        cls,
        *,
        vocab_size: int,
        max_positions: int,
        type_vocab_size: int,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int,
        layer_norm_eps: float = 1e-12,
        activation: str = "gelu",
        position_offset: int = 0,
        padding_id: int = -1,
        embedding: int = 0,
        groups: int = 0,
        relative_buckets: int = 0,
        rotary: int = 0,
        rotary_base: float = 1e4,
        local_rotary_base: float = 1e4,
        local_window: int = 0,
        local_layers: Sequence[int] = (),
        position_table: bool = True,
        projection: bool = False,
        pre_norm: bool = False,
        first_norm: bool = True,
        norm_bias: bool = True,
        attention_bias: bool = True,
        feed_forward_bias: bool = True,
        gated: bool = False,
        dtype: str = "float32",
    ) -> Model: ...
    def tensors(self) -> dict[str, tuple[int, ...]]: ...
    def load(self, name: str, first_row: int, rows: ArrayLike, /) -> None: ...
    def smooth(self, name: str, powers: ArrayLike, /) -> None: ...
    def set_digits(self, name: str, digits: int, /) -> None: ...
    def linear_layers(self) -> list[str]: ...
    def watch(self, on: bool, /) -> None: ...
    def input_ranges(self) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]: ...
    def finish(self) -> None: ...
    def layer_states(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        layers: Sequence[int],
        tokens: Sequence[str],
        *,
        batch_size: int = 32,
        skip: int = 0,
        threads: int = 1,
        dropout: _Dropout | None = None,
    ) -> NDArray[np.float32]: ...
    def hidden_states(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        *,
        first_layer: int = 0,
        threads: int = 1,
        dropout: _Dropout | None = None,
    ) -> NDArray[np.float32]: ...
    def sbert_wk(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        layer_start: int,
        window: int,
        *,
        batch_size: int = 32,
        skip: int = 0,
        threads: int = 1,
    ) -> NDArray[np.float32]: ...

class Training:
    """An encoder in training: float32 parameters of its own, and the gradients of a loss by them."""

    def __new__(
        cls,
        model: Model,
        *,
        dropout: _Rates = (0.0, 0.0, 0.0, 0.0, 0.0),
        seed: int = 0,
        threads: int = 1,
    ) -> Training: ...
    @property
    def masters(self) -> NDArray[np.float32]: ...
    @property
    def gradients(self) -> NDArray[np.float32]: ...
    @property
    def slices(self) -> dict[str, tuple[int, int, tuple[int, ...]]]: ...
    @overload
    def forward(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        layers: ArrayLike,
        tokens: Sequence[str],
        *,
        step: int,
        first_row: int,
        positions: None = None,
        keep: bool = True,
        threads: int = 1,
    ) -> NDArray[np.float32]: ...
    @overload
    def forward(
        self,
        ids: ArrayLike,
        offsets: ArrayLike,
        layers: ArrayLike,
        tokens: Sequence[str],
        *,
        step: int,
        first_row: int,
        positions: ArrayLike,
        keep: bool = True,
        threads: int = 1,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def backward(self, d_states: ArrayLike, d_rows: ArrayLike | None = None, *, threads: int = 1) -> None: ...
    def update(self, threads: int = 1) -> None: ...
    @staticmethod
    def groups(offsets: ArrayLike, /) -> NDArray[np.int64]: ...

def dense(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, activation: str, /) -> NDArray[np.float32]: ...
def dense_backward(
    d_embeddings: ArrayLike, x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, activation: str, /
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
def normalize(x: ArrayLike, /) -> NDArray[np.float32]: ...
def normalize_backward(d_embeddings: ArrayLike, x: ArrayLike, /) -> NDArray[np.float32]: ...
def mix_layers(states: ArrayLike, layers: ArrayLike, weights: ArrayLike, divisor: float, /) -> NDArray[np.float32]: ...
def mix_layers_backward(
    d_embeddings: ArrayLike, states: ArrayLike, weights: ArrayLike, divisor: float, /
) -> tuple[NDArray[np.float32], NDArray[np.float64]]: ...
def layer_attention(
    sources: ArrayLike,
    targets: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    slope: float,
    threads: int = 1,
    /,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def layer_attention_forward(
    sources: ArrayLike,
    targets: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    slope: float,
    draws: tuple[int, int, int] | None,
    threads: int = 1,
    /,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def layer_attention_backward(
    d_context: ArrayLike,
    projections: ArrayLike,
    sources: ArrayLike,
    targets: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    slope: float,
    draws: tuple[int, int, int] | None,
    threads: int = 1,
    /,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]: ...
def similarity_pairwise(a: ArrayLike, b: ArrayLike, metric: str = "cosine", /) -> NDArray[np.float64]: ...
def similarity(a: ArrayLike, b: ArrayLike, metric: str = "cosine", threads: int = 1, /) -> NDArray[np.float32]: ...
def search(
    queries: ArrayLike, corpus: NDArray[np.generic], k: int, metric: str, threads: int = 1, first: int = 0, /
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def search_bits(
    queries: NDArray[np.uint8], corpus: NDArray[np.uint8], k: int, threads: int = 1, first: int = 0, /
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def config() -> dict[str, str | int]: ...
def low_precision_units() -> dict[str, str]: ...
def isas() -> list[str]: ...
def gemm_calls() -> dict[str, int]: ...
def release_freed_memory() -> None: ...
def fail_allocation(n: int, /) -> None: ...
def infonce(
    embeddings: ArrayLike, scale: float, log_alpha: float, symmetric: bool, threads: int = 1, /
) -> tuple[float, NDArray[np.float32]]: ...
def cosent(
    embeddings: ArrayLike, scores: ArrayLike, scale: float, threads: int = 1, /
) -> tuple[float, NDArray[np.float32]]: ...
def gradient_squares(gradients: ArrayLike, blocks: ArrayLike, threads: int = 1, /) -> float: ...
def adamw(
    masters: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    gradients: ArrayLike,
    blocks: ArrayLike,
    constants: tuple[float, float, float, float, float, float, float, float],
    threads: int = 1,
    /,
) -> None: ...
def mlm_choice(
    ids: ArrayLike, offsets: ArrayLike, special: ArrayLike, mask_id: int, seed: int, step: int, first_row: int, /
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]: ...
def mlm_head(
    rows: ArrayLike,
    labels: ArrayLike,
    cuts: ArrayLike,
    parameters: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike, ArrayLike, ArrayLike],
    gradients: tuple[
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
        NDArray[np.float32],
    ],
    eps: float,
    activation: str,
    scale: float,
    threads: int = 1,
    /,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]: ...
def fresh_normal(n: int, deviation: float, seed: int, stream: int, /) -> NDArray[np.float32]: ...
