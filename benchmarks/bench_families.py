"""Every encoder family beside BERT at equal shape: CPU time per useful operation, random weights, passes in turn."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import report
import results
from settings import Settings

# Layers, hidden, heads, feed-forward; a gated feed-forward has two thirds of the last, so the operations are as many.
SHAPES = {"MiniLM shape": (6, 384, 12, 1536), "BERT-base shape, 4 layers": (4, 768, 12, 3072)}
VOCABULARY = 30522
# Tokens of a pass: short sentences, paragraphs, and what local attention is for.
LENGTHS = {"short": (12, 340), "paragraph": (128, 32), "long": (1024, 4)}
# Of each family, what its `config.json` says besides the shape.
FIELDS = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "distilbert": {},
    "mpnet": {},
    "electra": {"embedding_size": 128},
    "albert": {"embedding_size": 128},
    "modernbert": {"local_attention": 128, "global_attn_every_n_layers": 3},
    "nomic_bert": {},
}
GATED = ("modernbert", "nomic_bert")


def run(settings: Settings) -> dict:
    """The section `families` of the results."""
    shapes = dict(list(SHAPES.items())[:1]) if settings.quick else SHAPES
    return {name: _shape(shape, settings) for name, shape in shapes.items()}


def _shape(shape: tuple[int, int, int, int], settings: Settings) -> list[dict]:
    models = {family: _open(family, shape) for family in FIELDS}
    found = []
    for lengths, (mean, count) in LENGTHS.items():
        ids, offsets = _sentences(mean, count)
        flop = {family: _flop(family, shape, np.diff(offsets)) for family in FIELDS}
        seconds = {family: [] for family in FIELDS}
        for number in range(1 + (1 if settings.quick else 3 * settings.rounds)):
            for family, model in models.items():
                start = time.process_time()
                model.layer_states(ids, offsets, [shape[0]], ["mean"], threads=settings.threads)
                if number:  # the first pass warms
                    seconds[family].append(time.process_time() - start)
        found.append({"lengths": lengths, "tokens": len(ids), "flop": flop, "seconds": seconds})
    return found


def _open(family: str, shape: tuple[int, int, int, int]):
    """A core with random weights, made as a folder with this `config.json` would make it."""
    from sentpool import _core
    from sentpool.config import EncoderConfig

    L, H, A, F = shape
    fields = {
        **dict.fromkeys(("num_hidden_layers", "n_layers"), L),
        **dict.fromkeys(("hidden_size", "dim"), H),
        **dict.fromkeys(("num_attention_heads", "n_heads"), A),
        **dict.fromkeys(("intermediate_size", "hidden_dim"), F * 2 // 3 if family in GATED else F),
        **{"vocab_size": VOCABULARY, "max_position_embeddings": 1026, "model_type": family, "hidden_act": "gelu"},
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(fields | FIELDS[family]))
        model = _core.Model(**EncoderConfig.read(Path(folder)).core_arguments())
    rng = np.random.default_rng(0)
    for name, size in model.tensors().items():
        model.load(name, 0, rng.normal(float(name.endswith("orm.weight")), 0.03, size).astype(np.float32))
    model.finish()
    return model


def _sentences(mean: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and offsets; lengths half to one and a half of the mean, but for what fills every position."""
    rng = np.random.default_rng(mean)
    lengths = rng.integers(mean // 2, mean * 3 // 2, count) if mean < 1024 else np.full(count, mean)
    return rng.integers(5, VOCABULARY, lengths.sum()).astype(np.int32), np.cumsum([0, *lengths])


def _flop(family: str, shape: tuple[int, int, int, int], lengths: np.ndarray) -> float:
    """Useful operations: products only; of local attention the keys inside the window."""
    L, H, _, F = shape
    inner = 3 * (F * 2 // 3) if family in GATED else 2 * F
    lengths = lengths.astype(np.float64)
    linear = 2 * L * (4 * H**2 + inner * H) * lengths.sum()
    width = FIELDS[family].get("embedding_size")
    linear += 2 * width * H * lengths.sum() if width else 0
    every = FIELDS[family].get("global_attn_every_n_layers", 1)
    everywhere = -(-L // every)
    reach = np.minimum(lengths, FIELDS[family].get("local_attention", 0) + 1)
    return float(linear + 4 * H * (everywhere * lengths**2 + (L - everywhere) * lengths * reach).sum())


def table(content: dict) -> str:
    """By shape and length: GFLOP/s, and a family's time per operation beside BERT's in the same round."""
    tables = []
    for shape, passes in content.items():
        rows = [(shape, *(f"{entry['lengths']}, GFLOP/s and beside BERT" for entry in passes))]
        for family in FIELDS:
            cells = []
            for entry in passes:
                own, flop = entry["seconds"][family], entry["flop"]
                ratios = [a / b for a, b in zip(own, entry["seconds"]["bert"], strict=True)]
                ratio = statistics.median(ratios) * flop["bert"] / flop[family]
                cells.append(f"{flop[family] / statistics.median(own) / 1e9:.0f}  {ratio:.2f}×")
            rows.append((family, *cells))
        tables.append(report.table(rows))
    return "\n\n".join(tables)


if __name__ == "__main__":
    results.run_alone(__doc__, "families", run, table)
