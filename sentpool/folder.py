"""A model folder as a whole: a sentence-transformers one, which lists its modules, or a plain encoder."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from sentpool import weights
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, warn
from sentpool.fields import Fields, is_there
from sentpool.hub import model_folder
from sentpool.modules import module_list, read_dense, read_normalize, read_pooling
from sentpool.pooling import Pooling
from sentpool.pooling.head import HeadModule
from sentpool.tokenizer import TextTokenizer

MODULES_FILE = "modules.json"

_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

# The settings of a Transformer module were called after its family once.
_TRANSFORMER_SETTINGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says, checked; the encoder's weights are only looked at, not yet read.

    Attributes
    ----------
    path, transformer_path
        The folder, and the one of its encoder, which may be the same.
    pooling
        What follows the encoder.
    prompts, default_prompt_name, similarity_fn_name, truncate_dim
        As in `config_sentence_transformers.json`.
    weight_stamps
        `weights.stamp` of every weight file, taken before it was read, by its path below `path`.
    """

    path: Path
    transformer_path: Path
    config: EncoderConfig
    tokenizer: TextTokenizer
    pooling: Pooling = Pooling("mean")
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    weight_stamps: dict[str, tuple[int, int] | None] = field(default_factory=dict, repr=False)

    def weight_hashes(self) -> dict[str, str | None]:
        """The SHA-256 of every weight file, the encoder's and those of Dense modules, by its path below `path`.

        Warns
        -----
        SentpoolWarning
            A file is gone or has changed since the folder was opened: its value is None, for what was read from it
            cannot be hashed any more.
        """
        hashes = {name: _hash_if_unchanged(self.path / name, known) for name, known in self.weight_stamps.items()}
        changed = [name for name, digest in hashes.items() if digest is None]
        if changed:
            warn(
                f"{self.path}: changed since the model was opened: {', '.join(changed)}; the vectors come from the "
                f"earlier content, whose SHA-256 is not known"
            )
        return hashes


def open_folder(path_or_hub_name: str | os.PathLike[str]) -> ModelFolder:
    """Open a model folder, or fetch one from the hub by its name.

    Parameters
    ----------
    path_or_hub_name
        A sentence-transformers folder (it has a `modules.json`) or a plain Hugging Face one (a
        `config.json`). What is no folder and reads like `organisation/name` is fetched if `huggingface_hub`
        is installed.

    Raises
    ------
    TypeError
        If the argument is neither a string nor a path.
    FileNotFoundError, NotADirectoryError
        If there is no such folder or model.
    ModelFolderError
        If the folder is no model, or asks for something that sentpool does not do. Names file, field and
        value.

    Warns
    -----
    SentpoolWarning
        Once, with the names of stored tensors that the encoder does not use.
    """
    root = model_folder(path_or_hub_name)
    if is_there(root / MODULES_FILE):
        return _open_sentence_transformers(root)
    if not is_there(root / "config.json"):
        raise ModelFolderError(f"{root}: not a model folder: neither {MODULES_FILE} nor config.json is there")
    config = EncoderConfig.read(root)
    stamps = _weight_stamps(root, root)
    weights.check(root, config)
    return ModelFolder(root, root, config, TextTokenizer.read(root, config), weight_stamps=stamps)


def _open_sentence_transformers(root: Path) -> ModelFolder:
    modules = module_list(root / MODULES_FILE)
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
        raise ModelFolderError(
            f"{root / MODULES_FILE}: lists {', '.join(kinds) or 'no modules'}; expected Transformer, "
            f"Pooling, then any of Dense and Normalize"
        )
    transformer, pooling = modules[0][1], modules[1][1]
    settings = _transformer_settings(transformer)
    config = EncoderConfig.read(transformer)
    stamps = _weight_stamps(root, transformer)
    weights.check(transformer, config)
    tokenizer = TextTokenizer.read(
        transformer,
        config,
        max_seq_length=settings.optional_integer("max_seq_length", maximum=1 << 40),
        do_lower_case=settings.boolean("do_lower_case", False),
    )
    modes, include_prompt = read_pooling(Fields.read(pooling / "config.json"), config.hidden_size)
    head: list[HeadModule] = []
    width = config.hidden_size * len(modes)
    for kind, path in modules[2:]:
        if kind == "Dense":
            stamps |= _weight_stamps(root, path)
            head.append(read_dense(path, width))
            width = len(head[-1].weight)
        else:
            head.append(read_normalize(path))
    return ModelFolder(
        root,
        transformer,
        config,
        tokenizer,
        Pooling(modes, head, include_prompt),
        weight_stamps=stamps,
        **_model_settings(Fields.read_if_there(root / "config_sentence_transformers.json"), width),
    )


def _weight_stamps(root: Path, module: Path) -> dict[str, tuple[int, int] | None]:
    try:
        files = weights.weight_files(module)
    except ModelFolderError:  # raised again by whoever reads the module, after what it finds first
        return {}
    return {path.relative_to(root).as_posix(): weights.stamp(path) for path in files}


def _hash_if_unchanged(path: Path, known: tuple[int, int] | None) -> str | None:
    """The SHA-256 of a file whose stamp is `known` before and after reading it, else None."""
    try:
        digest = weights.sha256(path) if weights.stamp(path) == known else None
    except OSError:
        return None
    return digest if weights.stamp(path) == known else None


def _transformer_settings(folder: Path) -> Fields:
    """The settings of a Transformer module, without what would change how it computes."""
    names = [name for name in _TRANSFORMER_SETTINGS if is_there(folder / name)]
    settings = Fields.read_if_there(folder / (names or _TRANSFORMER_SETTINGS)[0])
    settings.refuse_others(
        (
            "max_seq_length",
            "do_lower_case",
            "transformer_task",
            "modality_config",
            "module_output_name",
            "unpad_inputs",
        )
    )
    settings.choice("transformer_task", ("feature-extraction",), "feature-extraction")
    settings.choice("module_output_name", ("token_embeddings",), "token_embeddings")
    if settings.has("modality_config"):
        text = settings.object("modality_config").object("text")
        text.choice("method", ("forward",), "forward")
        text.choice("method_output_name", ("last_hidden_state",), "last_hidden_state")
    return settings


def _model_settings(fields: Fields, width: int) -> dict:
    """Prompts and the like, by their names in `ModelFolder`."""
    fields.choice("model_type", ("SentenceTransformer",), "SentenceTransformer")
    prompts = fields.object("prompts")
    # A prompt that is null is the empty one.
    texts = {name: prompts.string(name) if prompts.has(name) else "" for name in prompts.values}
    default = fields.choice("default_prompt_name", (*texts, None), None)
    return {
        "prompts": texts,
        "default_prompt_name": default,
        "similarity_fn_name": fields.choice("similarity_fn_name", (*_SIMILARITIES, None), None) or "cosine",
        "truncate_dim": fields.optional_integer("truncate_dim", maximum=width),
    }
