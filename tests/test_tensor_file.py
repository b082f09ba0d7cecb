"""One safetensors file: a header that lies or a file cut short gives one kind of error, and no signal."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fabricate import (
    bert_config,
    bert_folder,
    bert_tensors,
    write_safetensors,
)

from sentpool import tensor_file
from sentpool.errors import ModelFolderError


@pytest.fixture
def folder(tmp_path) -> Path:
    return bert_folder(tmp_path / "model")


def lie(path: Path, header: dict | bytes, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)) -> dict:
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (entry(offsets=(0, 17)), 17, None),
        (entry(offsets=(4, 20)), 20, None),
        (entry(offsets=(16, 0)), 16, None),
        (entry(offsets=(-16, 0)), 16, None),
        (entry(offsets=(0, 2**64)), 16, None),
        (entry(offsets=(0, 16, 32)), 16, None),
        (entry(offsets=()), 16, None),
        (entry(), 15, None),
        (entry(), 17, None),
        (entry(shape=(4194305, 4194305, 211106198978564)), 16, None),
        (entry(shape=(-2, -2)), 16, None),
        (entry(shape=(2.5, 2)), 16, None),
        (entry(shape=(True, 4)), 16, None),
        (entry(dtype="F31"), 16, None),
        (entry(dtype=None), 16, None),
        ({"w": {}}, 16, None),
        ({"w": 3}, 16, None),
        ([], 0, None),
        (b"", 0, None),
        (b"{", 0, None),
        (b"\xff\xff", 0, None),
        (b"[" * 100_000, 0, None),
        (b'{"a":' * 100_000, 0, None),
        (b"{}", 0, 2**63),
        (b"{}", 0, 2**64 - 1),
        (b"{}", 0, 99_000_000),
        (b"{}", 0, 3),
        ({"v": entry()["w"], "w": entry()["w"]}, 16, None),
        ({"__metadata__": 5, **entry()}, 16, None),
    ],
)
def test_a_header_that_lies(tmp_path, header, data, length):
    path = tmp_path / "model.safetensors"
    lie(path, header, bytes(data), length)
    with pytest.raises(ModelFolderError, match="safetensors"):
        tensor_file.read_header(path)


def test_every_truncation_is_an_error(tmp_path):
    path = write_safetensors(
        tmp_path / "model.safetensors", {"a": np.ones((3, 2), np.float32), "b": np.ones(3, np.float32)}
    )
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFolderError, match="safetensors"):
            tensor_file.read_header(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelFolderError):
        tensor_file.read_header(path)


def test_a_file_cut_short_after_it_was_looked_at_is_an_error_and_no_signal(folder):
    stored = tensor_file.read_header(folder / "model.safetensors")["encoder.layer.1.output.LayerNorm.bias"]
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: stored.offset + 5])
    with pytest.raises(ModelFolderError, match=r"ends inside tensor 'encoder\.layer\.1\.output\.LayerNorm\.bias'"):
        stored.read()


def test_memory_stays_at_a_few_blocks(tmp_path):
    config = bert_config(vocab_size=100_000, hidden_size=240, num_hidden_layers=1)
    bert_folder(tmp_path, tensors={}, **config)
    write_safetensors(tmp_path / "model.safetensors", bert_tensors(config))
    code = """
        import resource, sys
        from pathlib import Path
        from sentpool import weights
        from sentpool.config import EncoderConfig
        class Core:
            def load(self, name, first, rows): self.last = float(rows.ravel()[-1])
        def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        folder = Path(sys.argv[1])
        weights.load_into(Core(), folder / "small", EncoderConfig.read(folder / "small"))
        before = peak()
        weights.load_into(Core(), folder, EncoderConfig.read(folder))
        print(peak() - before)
    """
    bert_folder(tmp_path / "small")
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(out.stdout) < 16_000, "kilobytes above the start, for a file of 96 MB"
