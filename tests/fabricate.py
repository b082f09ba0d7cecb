"""Small model folders for tests, written without the package that they test.

Names, shapes and file formats are spelled out here once more, so that a test does not check the package
against itself. Everything is seeded: the same arguments give the same bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    *("the", "a", "cat", "dog", "sat", "on", "mat", "big", "small", "runs", "happy", "un", "##happy"),
    *("##ning", "##s", "é", "e", "!", "?", ".", ",", "中", "文", "b", "c", "d"),
    *("##a", "##b", "##c", "##d", "##e", "##é"),
]
VOCABULARY = SPECIAL_TOKENS + WORDS


def bert_config(**changes) -> dict:
    """The `config.json` of a tiny BERT; a change to None leaves the field out."""
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": len(VOCABULARY),
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    config.update(changes)
    return {name: value for name, value in config.items() if value is not None}


def bert_tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 tensors of a BERT encoder, by their names in transformers."""
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]

    def normal(*shape):
        return rng.normal(0, 0.2, shape).astype(np.float32)

    def linear(name, out, inputs):
        return {f"{name}.weight": normal(out, inputs), f"{name}.bias": normal(out)}

    def layer_norm(name):
        return {f"{name}.weight": 1 + normal(hidden), f"{name}.bias": normal(hidden)}

    tensors = {
        "embeddings.word_embeddings.weight": normal(config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": normal(config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": normal(config["type_vocab_size"], hidden),
        **layer_norm("embeddings.LayerNorm"),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            tensors |= linear(f"{layer}.attention.self.{part}", hidden, hidden)
        tensors |= linear(f"{layer}.attention.output.dense", hidden, hidden)
        tensors |= layer_norm(f"{layer}.attention.output.LayerNorm")
        tensors |= linear(f"{layer}.intermediate.dense", inner, hidden)
        tensors |= linear(f"{layer}.output.dense", hidden, inner)
        tensors |= layer_norm(f"{layer}.output.LayerNorm")
    return tensors


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """The bits of float32 numbers cut to bfloat16, as uint16."""
    return (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2")


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers whose upper halves are `bits`."""
    return (bits.astype("<u4") << 16).view("<f4")


def encoded(array: np.ndarray, dtype: str) -> bytes:
    """The bytes of an array in a safetensors type."""
    if dtype == "BF16":
        return to_bfloat16(array).tobytes()
    types = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "I32": "<i4"}
    return np.ascontiguousarray(array).astype(types[dtype]).tobytes()


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype="F32", dtypes=None) -> Path:
    """Write a safetensors file; `dtypes` says the type of single tensors, integers are stored as I64."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        kind = (dtypes or {}).get(name, "I64" if array.dtype.kind in "iu" else dtype)
        raw = encoded(array, kind)
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_sharded(folder: Path, tensors: dict[str, np.ndarray], shards: int = 2) -> None:
    """Write the tensors to several safetensors files and their index."""
    weight_map = {}
    for number in range(shards):
        part = dict(list(tensors.items())[number::shards])
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, value) -> Path:
    """Write JSON, making the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
    return path


def edit_json(path: Path, **changes) -> Path:
    """Change fields of a JSON object on disk."""
    return write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def tokenizer_json(vocabulary=VOCABULARY, *, added=(), normalizer=None, longest_word=100) -> dict:
    """The `tokenizer.json` of a BERT tokenizer, with truncation and padding that a reader must override.

    Parameters
    ----------
    added
        Further added tokens, each a dict with "content" and the flags that differ from False; ids follow.
    normalizer
        What differs from the normalizer of bert-base-uncased.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    contents = [{"content": token} for token in SPECIAL_TOKENS if token in vocabulary]
    numbers = {token: id for id, token in enumerate(vocabulary)}
    tokens = []
    for entry in [*contents, *added]:
        numbers.setdefault(entry["content"], len(numbers))
        tokens.append({"id": numbers[entry["content"]], **flags, **entry})
    return {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": sorted(tokens, key=lambda token: token["id"]),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        }
        | (normalizer or {}),
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 1}},
            ],
            "special_tokens": {
                token: {"id": token, "ids": [numbers.get(token, 0)], "tokens": [token]} for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": longest_word,
            "vocab": {token: numbers[token] for token in vocabulary},
        },
    }


def write_vocabulary(folder: Path, vocabulary=VOCABULARY) -> Path:
    """Write a `vocab.txt`."""
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in vocabulary), encoding="utf-8")
    return path


def tokenizer_folder(folder: Path, content: dict | None = None, *, config=None, settings=None) -> Path:
    """Write a tokenizer alone (`vocab.txt` where `content` is None) and a `config.json` with room for it."""
    write_json(folder / "config.json", bert_config(vocab_size=64, max_position_embeddings=128) | (config or {}))
    if content is None:
        write_vocabulary(folder)
    else:
        write_json(folder / "tokenizer.json", content)
    if settings is not None:
        write_json(folder / "tokenizer_config.json", settings)
    return folder


def plain_backend(content: dict) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` as the library makes it, less truncation and padding."""
    backend = Tokenizer.from_str(json.dumps(content))
    backend.no_truncation()
    backend.no_padding()
    return backend


def rows(batch) -> list[list[int]]:
    """The ids of a `TokenBatch`, text by text."""
    return [batch.ids[a:b].tolist() for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)]


def bert_folder(
    folder: Path, *, seed=0, dtype="F32", extra=None, tensors=None, vocabulary_only=False, **changes
) -> Path:
    """Write a plain Hugging Face folder of a tiny BERT.

    Parameters
    ----------
    extra
        Further tensors, by name.
    tensors
        In place of the random ones.
    vocabulary_only
        Write `vocab.txt` in place of `tokenizer.json`.
    changes
        Of the fields of `config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = bert_config(**changes)
    write_json(folder / "config.json", config)
    if tensors is None:
        tensors = bert_tensors(config, seed)
    write_safetensors(folder / "model.safetensors", tensors | (extra or {}), dtype)
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    if vocabulary_only:
        write_vocabulary(folder)
    else:
        write_json(folder / "tokenizer.json", tokenizer_json())
    return folder


def simcse_tensors(hidden=24, seed=2) -> dict[str, np.ndarray]:
    """The dense layer that SimCSE's training keeps beside the encoder."""
    rng = np.random.default_rng(seed)
    return {
        "mlp.dense.weight": rng.normal(0, 0.3, (hidden, hidden)).astype(np.float32),
        "mlp.dense.bias": rng.normal(0, 0.3, hidden).astype(np.float32),
    }


def attention_tensors(hidden=24, seed=3) -> dict[str, np.ndarray]:
    """The attention over layers of Oh et al. 2022 and its dense layer, as their training keeps them."""
    rng = np.random.default_rng(seed)
    shapes = {f"attn.{part}.0.weight": (hidden, hidden) for part in ("key", "query", "value")}
    shapes |= {"mlp.dense.weight": (hidden, 2 * hidden), "mlp.dense.bias": (hidden,)}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def sentence_transformers_folder(
    folder: Path,
    *,
    pooling=None,
    weighted=None,
    head=(),
    max_seq_length=16,
    prompts=None,
    old_classes=True,
    **bert,
) -> Path:
    """Write a sentence-transformers folder of a tiny BERT.

    Parameters
    ----------
    pooling
        `1_Pooling/config.json`; mean in the old key style by default.
    weighted
        The weights of a WeightedLayerPooling in front, for the last layers of the encoder.
    head
        What follows the pooling: "Normalize", or the number of outputs of a Dense module (tanh).
    old_classes
        Whether `modules.json` names the classes as up to version 5.3.
    bert
        Arguments of `bert_folder`.
    """
    bert_folder(folder, **({} if weighted is None else {"output_hidden_states": True}), **bert)
    width = bert_config(**{name: value for name, value in bert.items() if name == "hidden_size"})["hidden_size"]
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    if pooling is None:
        pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    if weighted is not None:
        kinds.insert(1, ("WeightedLayerPooling", "0_Weighted"))
        layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
        write_json(
            folder / "0_Weighted" / "config.json",
            {
                "word_embedding_dimension": width,
                "layer_start": layers + 1 - len(weighted),
                "num_hidden_layers": layers,
            },
        )
        weights = {"layer_weights": np.array(weighted, np.float32)}
        write_safetensors(folder / "0_Weighted" / "model.safetensors", weights)
    rng = np.random.default_rng(1)
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value]
    width *= max(1, len(modes))
    for number, module in enumerate(head, 2):
        if module == "Normalize":
            kinds.append(("Normalize", f"{number}_Normalize"))
            continue
        path = f"{number}_Dense"
        kinds.append(("Dense", path))
        write_json(
            folder / path / "config.json",
            {
                "in_features": width,
                "out_features": module,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        )
        weight = {
            "linear.weight": rng.normal(0, 0.3, (module, width)).astype(np.float32),
            "linear.bias": rng.normal(0, 0.3, module).astype(np.float32),
        }
        write_safetensors(folder / path / "model.safetensors", weight)
        width = module
    places = {
        "Transformer": "base.modules.transformer",
        "WeightedLayerPooling": "sentence_transformer.modules.weighted_layer_pooling",
        "Pooling": "sentence_transformer.modules.pooling",
        "Dense": "base.modules.dense",
        "Normalize": "sentence_transformer.modules.normalize",
    }
    entries = [
        {
            "idx": idx,
            "name": str(idx),
            "path": path,
            "type": f"sentence_transformers.{'models' if old_classes else places[kind]}.{kind}",
        }
        for idx, (kind, path) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", entries)
    if prompts is not None:
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts})
    return folder


class FakeCore:
    """Stands in for the C core: keeps what it is given, and checks how it is given."""

    def __init__(self) -> None:
        self.blocks: dict[str, list[tuple[int, np.ndarray]]] = {}

    def load(self, name: str, first_row: int, rows: np.ndarray) -> None:
        """As `sentpool._core.Model.load`."""
        assert rows.dtype == np.float32
        assert rows.flags.c_contiguous
        assert rows.ndim in (1, 2)
        assert first_row % 32 == 0
        known = self.blocks.setdefault(name, [])
        assert first_row == sum(len(block) for _, block in known)
        if not np.isfinite(rows).all():
            raise ValueError(f"tensor {name} contains NaN or Inf in row {first_row}")
        known.append((first_row, rows.copy()))

    def tensors(self) -> dict[str, np.ndarray]:
        """Every tensor put together; all blocks but the last have a multiple of 32 rows."""
        for blocks in self.blocks.values():
            assert all(len(block) % 32 == 0 for _, block in blocks[:-1])
        return {name: np.concatenate([block for _, block in blocks]) for name, blocks in self.blocks.items()}
