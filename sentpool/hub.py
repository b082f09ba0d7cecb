"""Where a model is: a folder, or a name on the Hugging Face hub, fetched into that library's cache."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from sentpool.errors import ModelFolderError, shown
from sentpool.fields import is_there
from sentpool.modules import MODULES_FILE, WITH_WEIGHTS, module_list
from sentpool.pooling_file import ARRAYS_FILE, CONFIG_FILE
from sentpool.precision import SCALES_FILE
from sentpool.tokenizer_kinds import FILES
from sentpool.weights import weight_files

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# What this package reads, in the folder and in its modules' folders. Weights in torch's format are asked for only where
# there are no others.
_WANTED = (
    "*modules.json",
    "*config.json",
    "*config_sentence_transformers.json",
    *(f"*{name}" for name in FILES),
    "*model.safetensors",
    "*model-*.safetensors",
    "*model.safetensors.index.json",
    f"*{CONFIG_FILE}",
    f"*{ARRAYS_FILE}",
    f"*{SCALES_FILE}",
)
_WANTED_OF_TORCH = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
_UNWANTED = ("onnx/*", "openvino/*")
_COMMIT = re.compile("[0-9a-f]{40}")


def model_folder(path_or_name: str | os.PathLike[str]) -> Path:
    """The local folder of a model, as an absolute path: it stays the same folder when the process changes its own.

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
    PermissionError
        If this process may not look at the folder, or not into it.
    """
    if not isinstance(path_or_name, str | os.PathLike) or isinstance(os.fspath(path_or_name), bytes):
        raise TypeError(f"a model is named by a string or a path, not {type(path_or_name).__name__}")
    name = os.fspath(path_or_name)
    path = Path(os.path.expanduser(name))
    _check_permission(path)
    if name and os.path.isdir(path):
        # Links stay: what a link names may be replaced while the model's name goes on.
        return Path(os.path.abspath(path))
    if name and os.path.exists(path):
        raise NotADirectoryError(
            f"{path} is {'a' if os.path.isfile(path) else 'no regular'} file; give the model's folder"
        )
    if not isinstance(path_or_name, str) or not _NAME.fullmatch(name):
        raise FileNotFoundError(f"no model folder {shown(name)}")
    return _fetch(name)


def _check_permission(path: Path) -> None:
    """Raise for a folder that is there but closed to us: it is not missing, and no name to ask the hub for."""
    try:
        closed = os.path.isdir(path) and not os.access(path, os.X_OK, effective_ids=True)
        os.stat(path)
    except PermissionError:
        closed = True
    except (OSError, ValueError):  # not there, or no path at all
        return
    if closed:
        raise PermissionError(f"no permission to look into {path}")


def _fetch(name: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise FileNotFoundError(
            f"no model folder {shown(name)}; to fetch it by that name from the Hugging Face hub: "
            f"pip install 'sentpool[hub]'"
        ) from None
    try:
        fetched = huggingface_hub.snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
        of_torch = _weights_of_torch(Path(fetched))
        if of_torch:
            # The snapshot's folder is named by its commit: what comes now belongs to what is there.
            commit = os.path.basename(fetched)
            revision = commit if _COMMIT.fullmatch(commit) else None
            fetched = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=of_torch)
        return Path(os.path.abspath(fetched))
    # Whatever goes wrong (no such model, no network, no permission) comes in some error of that library's
    # own.
    except Exception as error:
        raise FileNotFoundError(
            f"no model folder {shown(name)}, and the Hugging Face hub does not give it: {error}"
        ) from None  # that library's own tracebacks fill pages


def _weights_of_torch(folder: Path) -> list[str]:
    """Patterns of the weights that may be there in torch's format alone: of the folder, or of modules."""
    try:
        modules = module_list(folder / MODULES_FILE) if is_there(folder / MODULES_FILE) else [("Transformer", folder)]
    except ModelFolderError:  # said again by whoever opens the folder
        return []
    homes = [path for kind, path in modules if kind in WITH_WEIGHTS and not _has_weights(path)]
    return [
        (Path(glob.escape(home.relative_to(folder).as_posix())) / name).as_posix()
        for home in homes
        for name in _WANTED_OF_TORCH
    ]


def _has_weights(folder: Path) -> bool:
    try:
        return all(map(is_there, weight_files(folder)))
    except ModelFolderError:
        return False
