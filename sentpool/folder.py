"""A model folder as a whole: a sentence-transformers one, which lists its modules, or a plain encoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sentpool import weights
from sentpool.checkpoints import read_trained
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError, warn
from sentpool.fields import Fields, is_there
from sentpool.hub import model_folder
from sentpool.modules import (
    MODULES_FILE,
    OWN_MODULE,
    WITH_WEIGHTS,
    module_list,
    read_dense,
    read_normalize,
    read_pooling,
    read_weighted_layers,
)
from sentpool.pooling import Layers, Pooling, names
from sentpool.pooling.head import HeadModule
from sentpool.pooling_file import ARRAYS_FILE, read_pooling_files
from sentpool.tokenizer import TextTokenizer
from sentpool.tokenizer_kinds import FILES

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

# Of files, by their paths below the model folder; None for one that is not there.
_Stamps = dict[str, tuple[int, int] | None]


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says, checked; the encoder's weights are only looked at, not yet read.

    Attributes
    ----------
    path, transformer_path
        The folder, and the one of its encoder, which may be the same.
    pooling
        What follows the encoder.
    trained
        Further poolings whose parameters the folder holds, by name.
    notice
        What somebody who takes `pooling` without having chosen it should know.
    head_tensors
        The names of tensors in the encoder's files that poolings took.
    prompts, default_prompt_name, similarity_fn_name, truncate_dim
        As in `config_sentence_transformers.json`.
    do_lower_case
        As in `sentence_bert_config.json`.
    weight_stamps
        `weights.stamp` of every weight file, taken before it was read, by its path below `path`.
    source_stamps
        The same of all that the encoder and its tokenizer are read from, with None for files that are not there.
    """

    path: Path
    transformer_path: Path
    config: EncoderConfig
    tokenizer: TextTokenizer
    pooling: Pooling = Pooling("mean")
    trained: Mapping[str, Pooling] = field(default_factory=dict)
    notice: str | None = None
    head_tensors: frozenset[str] = frozenset()
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    do_lower_case: bool = False
    weight_stamps: _Stamps = field(default_factory=dict, repr=False)
    source_stamps: _Stamps = field(default_factory=dict, repr=False)

    def trained_pooling(self, name: str) -> Pooling | None:
        """The pooling that the name of one with parameters means here, if the folder holds those."""
        return self.pooling if names.is_called(self.pooling, name) else self.trained.get(name)

    def weight_hashes(self) -> dict[str, str | None]:
        """The SHA-256 of every weight file, the encoder's and those of its modules, by its path below `path`.

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

    def require_unchanged(self) -> None:
        """Raise ModelFolderError if the encoder's weights, its configuration or its tokenizer are no more what was
        read from them."""
        known, found = self.source_stamps, _source_stamps(self.path, self.transformer_path)
        changed = [name for name in sorted({*known, *found}) if known.get(name) != found.get(name)]
        if changed:
            raise ModelFolderError(
                f"{self.path}: changed since the model was opened: {', '.join(changed)}; the model's files are needed "
                f"once more: open it again"
            )


def open_folder(path_or_hub_name: str | os.PathLike[str]) -> ModelFolder:
    """Open a model folder, or fetch one from the hub by its name.

    Parameters
    ----------
    path_or_hub_name
        A sentence-transformers folder (it has a `modules.json`) or a plain Hugging Face one (a
        `config.json`), also one that the training code of SimCSE or of Oh et al. 2022 left. What is no folder and reads
        like `organisation/name` is fetched if `huggingface_hub` is installed.

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
        Once, with the names of stored tensors that nothing uses.
    """
    root = model_folder(path_or_hub_name)
    if is_there(root / MODULES_FILE):
        return _open_sentence_transformers(root)
    if not is_there(root / "config.json"):
        raise ModelFolderError(f"{root}: not a model folder: neither {MODULES_FILE} nor config.json is there")
    sources, stamps = _source_stamps(root, root), _weight_stamps(root, root)
    config = EncoderConfig.read(root)
    trained = read_trained(root, config)
    weights.check(root, config, trained.tensors)
    return ModelFolder(
        root,
        root,
        config,
        TextTokenizer.read(root, config),
        trained.default,
        trained=trained.by_name,
        notice=trained.notice,
        head_tensors=trained.tensors,
        weight_stamps=stamps,
        source_stamps=sources,
    )


def _open_sentence_transformers(root: Path) -> ModelFolder:
    modules = module_list(root / MODULES_FILE)
    _check_order(root, [kind for kind, _ in modules])
    transformer = modules[0][1]
    sources, stamps = _source_stamps(root, transformer), _module_stamps(root, modules)
    settings = _transformer_settings(transformer)
    config = EncoderConfig.read(transformer)
    weights.check(transformer, config)
    do_lower_case = settings.boolean("do_lower_case", False)
    tokenizer = TextTokenizer.read(
        transformer,
        config,
        max_seq_length=settings.optional_integer("max_seq_length", maximum=1 << 40),
        do_lower_case=do_lower_case,
    )
    pooling = _read_pooling(transformer, modules[1:], config)
    return ModelFolder(
        root,
        transformer,
        config,
        tokenizer,
        pooling,
        do_lower_case=do_lower_case,
        weight_stamps=stamps,
        source_stamps=sources,
        **_model_settings(
            Fields.read_if_there(root / "config_sentence_transformers.json"),
            pooling.dimension(config.hidden_size, config.num_hidden_layers),
        ),
    )


def _check_order(root: Path, kinds: list[str]) -> None:
    """Raise unless the modules are Transformer and ours, or Transformer, Pooling and a head."""
    if kinds == ["Transformer", OWN_MODULE]:
        return
    rest = kinds[:1] + kinds[2:] if kinds[1:2] == ["WeightedLayerPooling"] else kinds
    if rest[:2] != ["Transformer", "Pooling"] or not {"Dense", "Normalize"}.issuperset(rest[2:]):
        raise ModelFolderError(
            f"{root / MODULES_FILE}: lists {', '.join(kinds) or 'no modules'}; expected Transformer, "
            f"Pooling, then any of Dense and Normalize; WeightedLayerPooling may precede Pooling"
        )


def _read_pooling(transformer: Path, modules: list[tuple[str, Path]], config: EncoderConfig) -> Pooling:
    """The pooling that the modules behind the Transformer are."""
    if modules[0][0] == OWN_MODULE:
        return read_pooling_files(modules[0][1], config)
    *weighted, (_, pooling) = modules[: 1 + (modules[0][0] == "WeightedLayerPooling")]
    modes, include_prompt = read_pooling(Fields.read(pooling / "config.json"), config.hidden_size)
    layers = Layers([-1], modes)
    for _, path in weighted:
        _require_all_layers(transformer)
        layers = read_weighted_layers(path, config, modes)
    head: list[HeadModule] = []
    width = config.hidden_size * len(modes)
    for kind, path in modules[1 + len(weighted) :]:
        head.append(read_dense(path, width) if kind == "Dense" else read_normalize(path))
        width = head[-1].dimension(width)
    return Pooling(layers, head, include_prompt)


def _require_all_layers(transformer: Path) -> None:
    fields = Fields.read(transformer / "config.json")
    if fields.values.get("output_hidden_states") is not True:
        raise fields.error(
            "output_hidden_states",
            "true, because WeightedLayerPooling takes every layer; without it sentence-transformers leaves that module "
            "out unseen",
        )


def _module_stamps(root: Path, modules: list[tuple[str, Path]]) -> _Stamps:
    stamps: _Stamps = {}
    for kind, path in modules:
        if kind == OWN_MODULE:
            stamps |= _stamps(root, [path / ARRAYS_FILE])
        elif kind in WITH_WEIGHTS:
            stamps |= _weight_stamps(root, path)
    return stamps


def _weight_stamps(root: Path, module: Path) -> _Stamps:
    try:
        return _stamps(root, weights.weight_files(module))
    except ModelFolderError:  # raised again by whoever reads the module, after what it finds first
        return {}


def _source_stamps(root: Path, transformer: Path) -> _Stamps:
    return _weight_stamps(root, transformer) | _stamps(root, [transformer / name for name in ("config.json", *FILES)])


def _stamps(root: Path, files: list[Path]) -> _Stamps:
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
