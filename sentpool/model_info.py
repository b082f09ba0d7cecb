"""What a model folder holds, as `sentpool info` prints it; the weights are not loaded for that."""

from __future__ import annotations

import math
import warnings
from collections import Counter

from sentpool import weights
from sentpool.folder import ModelFolder, open_folder
from sentpool.pooling.names import short_name


def describe(path_or_hub_name) -> str:
    """The facts about a model, one a line: architecture, sizes, pooling, head, unused tensors.

    Parameters, errors and warnings are those of `folder.open_folder`, less the warning about unused tensors,
    which have a line here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not used by the encoder")
        folder = open_folder(path_or_hub_name)
    facts = {"model": str(folder.path), **_encoder(folder), **_after_encoder(folder)}
    width = max(map(len, facts)) + 2
    return "\n".join(f"{name:{width}}{fact}" for name, fact in facts.items())


def _encoder(folder: ModelFolder) -> dict[str, str]:
    config = folder.config
    tensors, unused = weights.match(folder.transformer_path, config, folder.head_tensors)
    files = weights.weight_files(folder.transformer_path)
    types = Counter(tensor.dtype for tensor in tensors.values())
    parameters = sum(math.prod(tensor.shape) for tensor in tensors.values())
    names = files[0].name if len(files) == 1 else f"{len(files)} files"
    return {
        "architecture": f"{config.architecture.model_type}: {config.num_hidden_layers} layers, hidden "
        f"{config.hidden_size}, {config.num_attention_heads} heads, feed-forward {config.intermediate_size}, "
        f"{config.hidden_act}",
        "parameters": f"{parameters:,} as {' and '.join(sorted(types))} in {names} "
        f"({sum(file.stat().st_size for file in files) / 1e6:,.1f} MB)",
        "unused tensors": ", ".join(unused) or "none",
        "vocabulary": f"{config.vocab_size:,} tokens",
        "maximum length": f"{folder.tokenizer.max_seq_length} tokens (the encoder has positions for "
        f"{config.max_tokens})",
    }


def _after_encoder(folder: ModelFolder) -> dict[str, str]:
    pooling, config = folder.pooling, folder.config
    width = pooling.dimension(config.hidden_size, config.num_hidden_layers)
    head = [str(module) for module in pooling.head]
    if folder.truncate_dim is not None:
        head.append(f"first {folder.truncate_dim} of {width} numbers")
        width = folder.truncate_dim
    prompts = [
        f"{name} {text!r}{' (default)' * (name == folder.default_prompt_name)}" for name, text in folder.prompts.items()
    ]
    facts = {
        "pooling": short_name(pooling.layers) + " without the prompt" * (not pooling.include_prompt),
        "head": ", then ".join(head) or "none",
        "embedding": f"{width} numbers, compared by {folder.similarity_fn_name}",
        "prompts": ", ".join(prompts) or "none",
    }
    return facts | ({"notice": folder.notice} if folder.notice else {})
