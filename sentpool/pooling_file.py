"""A pooling of any kind in two files: its configuration as JSON, its arrays as safetensors."""

from __future__ import annotations

from pathlib import Path

from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError
from sentpool.fields import Fields
from sentpool.pooling import Pooling, from_config
from sentpool.tensor_file import read_header
from sentpool.weights import finite_arrays

CONFIG_FILE = "sentpool_pooling.json"
ARRAYS_FILE = "sentpool_pooling.safetensors"


def read_pooling_files(folder: Path, config: EncoderConfig) -> Pooling:
    """Read a pooling that fits the encoder.

    Raises
    ------
    ModelFolderError
        If a file is missing or broken, or if they describe no pooling, or one that does not fit.
    """
    fields = Fields.read(folder / CONFIG_FILE)
    fields.refuse_others(("layers", "head", "include_prompt"))
    arrays = finite_arrays(read_header(folder / ARRAYS_FILE))
    try:
        pooling = from_config(fields.values, arrays)
        pooling.needed_layers(config.num_hidden_layers)
        pooling.dimension(config.hidden_size, config.num_hidden_layers)
    except ValueError as error:
        raise ModelFolderError(f"{fields.path}: {error}") from error
    return pooling
