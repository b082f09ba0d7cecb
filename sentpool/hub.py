"""Where a model is: a folder, or a name on the Hugging Face hub, fetched into that library's cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sentpool.errors import shown

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# What this package reads, in the folder and in its modules' folders; weights in other formats stay where they
# are.
_WANTED = (
    "*modules.json",
    "*config.json",
    "*config_sentence_transformers.json",
    "*tokenizer.json",
    "*tokenizer_config.json",
    "*special_tokens_map.json",
    "*added_tokens.json",
    "*vocab.txt",
    "*model.safetensors",
    "*model-*.safetensors",
    "*model.safetensors.index.json",
)
_UNWANTED = ("onnx/*", "openvino/*")


def model_folder(path_or_name: str | os.PathLike[str]) -> Path:
    """The local folder of a model.

    An existing folder is taken as it is, without a look at the network. Only what is no path here and reads
    like `name` or `organisation/name` is looked for on the hub.

    Raises
    ------
    TypeError
        If the argument is neither a string nor a path.
    FileNotFoundError
        If there is no such folder, or no such model on the hub, or `huggingface_hub` is not installed.
    NotADirectoryError
        If the path is that of a file.
    """
    if not isinstance(path_or_name, str | os.PathLike) or isinstance(os.fspath(path_or_name), bytes):
        raise TypeError(f"a model is named by a string or a path, not {type(path_or_name).__name__}")
    name = os.fspath(path_or_name)
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return path
    if name and os.path.exists(path):
        raise NotADirectoryError(f"{path} is a file; give the model's folder")
    if not isinstance(path_or_name, str) or not _NAME.fullmatch(name):
        raise FileNotFoundError(f"no model folder {shown(name)}")
    return _fetch(name)


def _fetch(name: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise FileNotFoundError(
            f"no model folder {shown(name)}; to fetch it by that name from the Hugging Face hub: "
            f"pip install 'sentpool[hub]'"
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    # Whatever goes wrong (no such model, no network, no permission) comes in some error of that library's
    # own.
    except Exception as error:
        raise FileNotFoundError(
            f"no model folder {shown(name)}, and the Hugging Face hub does not give it: {error}"
        ) from error
