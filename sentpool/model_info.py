"""What a model folder holds and whether it opens, as `sentpool info` says it; the weights are not loaded for that."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentpool import precision, weights
from sentpool.checkpoints import read_trained
from sentpool.config import EncoderConfig
from sentpool.errors import ModelFolderError
from sentpool.fields import is_there, read_json
from sentpool.folder import ModelFolder, open_folder
from sentpool.hub import model_folder
from sentpool.modules import MODULES_FILE, module_list
from sentpool.pooling.names import short_name
from sentpool.tensor_file import StoredTensor
from sentpool.tokenizer import TextTokenizer
from sentpool.tokenizer_files import read_settings
from sentpool.tokenizer_kinds import tokenizer_kind

# The fields of an encoder's configuration that say what it is, and how a line calls them.
_SIZES = {
    "num_hidden_layers": "{} layers",
    "hidden_size": "hidden {}",
    "num_attention_heads": "{} heads",
    "intermediate_size": "feed-forward {}",
    "hidden_act": "{}",
}


@dataclass(frozen=True)
class ModelInfo:
    """The facts about a model folder.

    Attributes
    ----------
    facts : dict
        What the folder holds, as JSON has it: `path`, `format`, `encoder`, `weights`, `tokenizer`, `modules`; of a
        folder that opens, also `files`, `max_seq_length`, `pooling`, `head`, `dimension`, `similarity`, `prompts`,
        `default_prompt`, `notice`. A part that cannot be read is None.
    problems : list of str
        Why it does not open; empty if it does.
    """

    facts: dict[str, Any]
    problems: list[str]

    def to_json(self) -> str:
        """Facts and problems as a JSON object, with `opens` for whether there are none of the latter."""
        return json.dumps({"opens": not self.problems, "problems": self.problems, **self.facts}, indent=2)

    def __str__(self) -> str:
        lines = _lines(self.facts)
        for number, problem in enumerate(self.problems):
            lines[f"and {number}" if number else "does not open"] = problem
        width = max(map(len, lines)) + 2
        return "\n".join(f"{name:{width}}{fact}" for name, fact in lines.items())


def inspect_model(path_or_hub_name) -> ModelInfo:
    """Look at a model without loading its weights, also at one that does not open.

    Parameters are those of `folder.open_folder`, errors those about a folder that is not there.

    Returns
    -------
    ModelInfo
    """
    root = model_folder(path_or_hub_name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not used by the encoder")
        try:
            return _opened(open_folder(root))
        except ModelFolderError as error:
            return _unopened(root, str(error))


def _opened(folder: ModelFolder) -> ModelInfo:
    config, pooling = folder.config, folder.pooling
    tensors, unused = weights.match(folder.transformer_path, config, folder.head_tensors)
    width = pooling.dimension(config.hidden_size, config.num_hidden_layers)
    head = [str(module) for module in pooling.head]
    if folder.truncate_dim is not None:
        head.append(f"first {folder.truncate_dim} of {width} numbers")
        width = folder.truncate_dim
    files = {**folder.source_stamps, **folder.weight_stamps}
    facts = {
        **_about(folder.path),
        "encoder": _encoder(config),
        "weights": _weights(tensors, unused),
        "tokenizer": _tokenizer(folder.transformer_path, config, folder.tokenizer),
        "modules": _modules(folder.path),
        "files": sorted(name for name, stamp in files.items() if stamp is not None),
        "max_seq_length": folder.tokenizer.max_seq_length,
        "pooling": short_name(pooling.layers) + " without the prompt" * (not pooling.include_prompt),
        "head": head,
        "dimension": width,
        "similarity": folder.similarity_fn_name,
        "prompts": folder.prompts,
        "default_prompt": folder.default_prompt_name,
        "int8": _int8(folder),
        "notice": folder.notice,
    }
    return ModelInfo(facts, [])


def _int8(folder: ModelFolder) -> dict[str, Any] | None:
    """What `sentpool quantize` left in the folder."""
    for mode in precision.INT8_MODES:
        wanted = precision.check("int8", mode)
        try:
            found = precision.saved(folder, wanted)
        except ModelFolderError as error:
            return {"problem": str(error)}
        if found is None or found.quality is not None:
            break
    if found is None:
        return None
    facts = {"calibrated_on": found.calibrated_on}
    return facts if found.quality is None else facts | {"mode": mode, "quality": str(found.quality)}


def _unopened(root: Path, reason: str) -> ModelInfo:
    """Each part alone: what can be said of it, and what is wrong with it."""
    problems = [reason]

    def part(read: Callable, *arguments):
        try:
            return read(*arguments)
        except ModelFolderError as error:
            if str(error) not in problems:
                problems.append(str(error))
            return None

    modules = part(module_list, root / MODULES_FILE) if is_there(root / MODULES_FILE) else None
    transformer = next((path for kind, path in modules or () if kind == "Transformer"), root)
    config = part(EncoderConfig.read, transformer)
    tensors = part(weights.stored_tensors, transformer)
    tokenizer = None
    if config is not None:
        tokenizer = part(TextTokenizer.read, transformer, config)
        trained = part(read_trained, root, config) if tensors and modules is None else None
        if tensors:
            part(weights.match, transformer, config, trained.tensors if trained else ())
    facts = {
        **_about(root),
        "encoder": _stated(transformer) if config is None else _encoder(config),
        "weights": _weights(tensors, []) if tensors else None,
        "tokenizer": None if tokenizer is None else _tokenizer(transformer, config, tokenizer),
        "modules": _modules(root),
    }
    return ModelInfo(facts, problems)


def _about(root: Path) -> dict[str, Any]:
    kind = "sentence-transformers" if is_there(root / MODULES_FILE) else "Hugging Face"
    return {"path": str(root), "format": kind}


def _encoder(config: EncoderConfig) -> dict[str, Any]:
    return {
        "model_type": config.architecture.model_type,
        **{name: getattr(config, name) for name in _SIZES},
        "vocab_size": config.vocab_size,
        "max_tokens": config.max_tokens,
    }


def _stated(transformer: Path) -> dict[str, Any] | None:
    """What a configuration that is not accepted says of itself, as it stands there."""
    with suppress(ModelFolderError):
        fields = read_json(transformer / "config.json")
        named = ("model_type", "architectures", *_SIZES, "vocab_size")
        return {name: fields[name] for name in named if name in fields}
    return None


def _weights(tensors: Mapping[str, StoredTensor], unused: list[str]) -> dict[str, Any]:
    parameters: Counter[str] = Counter()
    for tensor in tensors.values():
        parameters[tensor.dtype] += math.prod(tensor.shape)
    files = sorted({tensor.path for tensor in tensors.values()})
    return {
        "parameters": parameters.total(),
        "parameters_by_dtype": dict(sorted(parameters.items())),
        "tensors": len(tensors),
        "files": [file.name for file in files],
        "bytes": sum(file.stat().st_size for file in files),
        "unused_tensors": unused,
    }


def _tokenizer(transformer: Path, config: EncoderConfig, tokenizer: TextTokenizer) -> dict[str, Any]:
    kind = tokenizer_kind(read_settings(transformer), config)
    backend = tokenizer.backend
    opening, closing = tokenizer.special_ids
    is_json = is_there(transformer / "tokenizer.json")
    return {
        "class": kind.name,
        "algorithm": type(backend.model).__name__,
        "files": ["tokenizer.json"] if is_json else list(kind.files),
        "tokens": backend.get_vocab_size(),
        "opening": [backend.id_to_token(id) for id in opening],
        "closing": [backend.id_to_token(id) for id in closing],
        "lower_case": backend.normalizer is not None and backend.normalizer.normalize_str("A") == "a",
    }


def _modules(root: Path) -> list[str] | None:
    with suppress(ModelFolderError):
        return [kind for kind, _ in module_list(root / MODULES_FILE)]
    return None


def _lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts, one a line: what it is called and what is said of it."""
    lines = {"model": f"{facts['path']} ({facts['format']})"}
    encoder, stored, tokenizer = facts["encoder"], facts["weights"], facts["tokenizer"]
    if encoder:
        sizes = [form.format(encoder[name]) for name, form in _SIZES.items() if name in encoder]
        lines["architecture"] = f"{encoder.get('model_type') or encoder.get('architectures')}: {', '.join(sizes)}"
    if stored:
        names = stored["files"][0] if len(stored["files"]) == 1 else f"{len(stored['files'])} files"
        lines["parameters"] = (
            f"{stored['parameters']:,} as {' and '.join(stored['parameters_by_dtype'])} in {names} "
            f"({stored['bytes'] / 1e6:,.1f} MB)"
        )
        lines["unused tensors"] = ", ".join(stored["unused_tensors"]) or "none"
    if tokenizer:
        around = f"{' '.join(tokenizer['opening'])} … {' '.join(tokenizer['closing'])}"
        lines["tokenizer"] = (
            f"{tokenizer['class']} ({tokenizer['algorithm']}) from {' and '.join(tokenizer['files'])}: "
            f"{tokenizer['tokens']:,} tokens, {around}{', lower case' * tokenizer['lower_case']}"
        )
    if facts["modules"]:
        lines["modules"] = ", ".join(facts["modules"])
    return lines | (_lines_of_opened(facts) if "pooling" in facts else {})


def _lines_of_opened(facts: Mapping[str, Any]) -> dict[str, str]:
    prompts = [
        f"{name} {text!r}{' (default)' * (name == facts['default_prompt'])}" for name, text in facts["prompts"].items()
    ]
    lines = {
        "maximum length": f"{facts['max_seq_length']} tokens (the encoder has positions for "
        f"{facts['encoder']['max_tokens']})",
        "pooling": facts["pooling"],
        "head": ", then ".join(facts["head"]) or "none",
        "embedding": f"{facts['dimension']} numbers, compared by {facts['similarity']}",
        "prompts": ", ".join(prompts) or "none",
        "files": ", ".join(facts["files"]),
    }
    if facts["int8"]:
        int8 = facts["int8"]
        lines["int8"] = int8.get("problem") or f"calibrated on {int8['calibrated_on']}"
        if "quality" in int8:
            lines["int8"] += f"; {int8['mode']}: {int8['quality']}"
    return lines | ({"notice": facts["notice"]} if facts["notice"] else {})
