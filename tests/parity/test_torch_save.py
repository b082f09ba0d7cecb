"""What torch.save writes is read as torch.load reads it; what is put together by hand is a file of torch too."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fabricate_torch import write_torch  # noqa: E402

from sentpool.errors import ModelFolderError  # noqa: E402
from sentpool.torch_file import read_torch_header  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "pytorch_model.bin"


def assert_as_torch_loads(path: Path) -> None:
    stored, loaded = read_torch_header(path), torch.load(path, weights_only=True)
    assert list(stored) == list(loaded)
    whole = path.read_bytes()
    for name, tensor in loaded.items():
        tensor = tensor.detach()
        one = stored[name]
        assert (TYPES[one.dtype], one.shape) == (tensor.dtype, tuple(tensor.shape))
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert whole[one.offset : one.offset + len(raw)] == raw
        if one.dtype in ("F32", "F16", "BF16") and one.shape:
            np.testing.assert_array_equal(one.read(), tensor.float().numpy())


def test_every_type(path):
    torch.manual_seed(0)
    torch.save({name: (100 * torch.randn(3, 5)).to(kind) for name, kind in TYPES.items()}, path)
    assert_as_torch_loads(path)


def test_ties_views_parameters_scalars(path):
    base = torch.randn(6, 4)
    state = OrderedDict(
        base=base,
        tied=base,
        rows=base[2:5],
        parameter=torch.nn.Parameter(base),
        half=base.half(),
        row=base[3],
        number=base[1, 2],
        turned_row=base[:1].T.T,
        num_batches_tracked=torch.tensor(5),
        empty=torch.zeros(0, 3),
        none=base[:0],
        many=torch.zeros(70_000),
    )
    state["names with spaces, ünd ユニコード"] = torch.ones(1)
    torch.save(state, path)
    assert_as_torch_loads(path)


def test_state_dicts_of_modules(path):
    module = torch.nn.Sequential(
        torch.nn.Embedding(11, 8), torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.BatchNorm1d(8)
    )
    assert module.state_dict()._metadata
    torch.save(module.state_dict(), path)
    assert_as_torch_loads(path)
    torch.save(dict(module.named_parameters()), path)
    assert_as_torch_loads(path)
    # More tensors than pickle puts into one batch, and than fit into short places of the memo.
    torch.save({f"layer.{number}.weight": torch.full((2,), float(number)) for number in range(2500)}, path)
    assert_as_torch_loads(path)


def test_files_without_checksums_and_by_way_of_a_buffer(path):
    with open(path, "wb") as file:
        torch.save({"w": torch.randn(3)}, file)
    assert_as_torch_loads(path)
    set_crc32 = getattr(torch.serialization, "set_crc32_options", None)
    if set_crc32 is None:
        return
    set_crc32(False)
    try:
        torch.save({"w": torch.randn(3)}, path)
    finally:
        set_crc32(True)
    assert_as_torch_loads(path)


def test_what_is_not_read(path):
    base = torch.randn(6, 4)
    for state, message in (
        ({"w": base.T}, r"tensor 'w' of shape \(4, 6\) has strides \(1, 4\).*torch\.save"),
        ({"w": base[:, 1:3]}, r"tensor 'w' of shape \(6, 2\) has strides \(4, 1\)"),
        ({"w": base[0].expand(3, 4)}, r"tensor 'w' of shape \(3, 4\) has strides \(0, 1\)"),
        ({"epoch": 3, "w": base}, "'epoch' is of type int"),
        ({"state_dict": {"w": base}}, "'state_dict' is of type dict"),
        ({"w": base.to_sparse()}, "asks for 'torch._utils _rebuild_sparse_tensor'"),
        ([base], "its pickle is of type list"),
        (base, "its pickle is of type Tensor"),
        (torch.nn.Linear(2, 2), "asks for 'torch.nn.modules.linear Linear'"),
    ):
        torch.save(state, path)
        with pytest.raises(ModelFolderError, match=message):
            read_torch_header(path)
    torch.save({"w": base}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelFolderError, match="torch before 1.6"):
        read_torch_header(path)
    torch.save({"w": base}, path, pickle_protocol=4)
    with pytest.raises(ModelFolderError, match="protocol 2"):
        read_torch_header(path)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(ModelFolderError, match="TorchScript"):
        read_torch_header(path)


def test_torch_reads_what_is_put_together_by_hand(path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.float32([[0.5, 2]]),
        "brain": np.float32([1.5, -2]),
        "position_ids": np.arange(5)[None],
        "count": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }
    for wide_end in (None, False):
        write_torch(path, tensors, dtypes={"half": "F16", "brain": "BF16"}, wide_end=wide_end)
        assert_as_torch_loads(path)
        for name, tensor in torch.load(path, weights_only=True).items():
            np.testing.assert_array_equal(tensor.float().numpy(), tensors[name])
