"""The paper's own question: which pooling is best once it is trained? One encoder, equal steps, five seeds,
unsupervised and supervised, four poolings; STS, retrieval and the geometry of the space, with paired intervals."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from settings import default_cache, packaged_model

POOLINGS = ("cls_mlp", "mean", "first_last", "layer_attention")
# Each pooling is compared with this one.
BASE = "mean"
COLUMNS = {
    "STS all": 100.0,
    "STS wmean": 100.0,
    "nDCG@10": 100.0,
    "alignment": 1.0,
    "uniformity": 1.0,
    "mean cosine": 1.0,
}
# Quantiles of Student's t, two-sided 95 %, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def measured(model, data: Path, threads: int | None) -> dict[str, float]:
    """All columns of the table for one model."""
    from sentpool import evaluation
    from sentpool.evaluation.report import STANDARD_SEVEN
    from sentpool.training.development import DevelopmentSet
    from sentpool.training.run import mean_cosine

    sts = evaluation.sts(
        model, data / "sts", list(STANDARD_SEVEN), resamples=0, threads=threads, show_progress_bar=False
    )
    average = sts.average()
    development = DevelopmentSet(data / "sts")
    space = development.evaluate(model, threads)
    row = {
        "STS all": average.all,
        "STS wmean": average.wmean,
        "alignment": space["alignment"],
        "uniformity": space["uniformity"],
        "mean cosine": mean_cosine(model.encode(development.texts, threads=threads, show_progress_bar=False)),
    }
    if (data / "cranfield").is_dir():
        found = evaluation.retrieval(model, data / "cranfield", "nDCG@10", threads=threads, show_progress_bar=False)
        row["nDCG@10"] = found["nDCG@10"]
    return row


def trained(options, kind: str, pooling: str, seed: int) -> dict:
    """One run: a fresh encoder, trained for so many steps and measured."""
    from sentpool import SentenceEncoder, Trainer

    texts = options.data / "wiki" / "wiki_sentences.txt"
    triplets = options.data / "nli" / "snli_dev_triplets.csv"
    data, objective = (texts, "simcse-unsup") if kind == "unsupervised" else (triplets, "simcse-sup")
    model = SentenceEncoder(options.model)
    settings = {
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "max_steps": options.steps,
        "max_length": 32,
    }
    # As SimCSE has it: without supervision, the dense layer is for training only.
    name = "cls_mlp_train_only" if (kind, pooling) == ("unsupervised", "cls_mlp") else pooling
    trainer = Trainer(model, objective, pooling=name, seed=seed, threads=options.threads, **settings)
    began = time.perf_counter()
    history = trainer.fit(data)
    seconds = time.perf_counter() - began
    losses = [history.log[0]["loss"], history.log[-1]["loss"]]
    row = {"kind": kind, "pooling": pooling, "seed": seed, "seconds": seconds, "losses": losses}
    with tempfile.TemporaryDirectory() as folder:
        if options.dtype != "float32":
            model.save_pretrained(folder)
            model = SentenceEncoder(folder, dtype=options.dtype)
        return row | measured(model, options.data, options.threads)


def table(rows: list[dict]) -> str:
    """Means over the seeds; in brackets half the 95 % interval of the paired difference to the base pooling."""
    columns = [name for name in COLUMNS if all(name in row for row in rows)]
    lines = [f"| training | pooling | {' | '.join(columns)} |", f"|---|---|{'---:|' * len(columns)}"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for pooling in dict.fromkeys(row["pooling"] for row in rows):
            cells = [_cell(rows, kind, pooling, name) for name in columns]
            lines.append(f"| {kind} | `{pooling}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: list[dict], kind: str, pooling: str, name: str) -> str:
    values = _by_seed(rows, kind, pooling, name)
    if not values:
        return "–"
    scale = COLUMNS[name]
    digits = 2 if scale == 100 else 3
    text = f"{scale * np.mean(list(values.values())):.{digits}f}"
    base = _by_seed(rows, kind, BASE, name)
    shared = sorted(values.keys() & base.keys())
    if pooling != BASE and len(shared) > 1:
        differences = scale * np.array([values[seed] - base[seed] for seed in shared])
        half = _T[len(shared) - 1] * differences.std(ddof=1) / math.sqrt(len(shared))
        text += f" ({differences.mean():+.{digits}f} ± {half:.{digits}f})"
    return text


def _by_seed(rows: list[dict], kind: str, pooling: str, name: str) -> dict[int, float]:
    return {row["seed"]: row[name] for row in rows if (row["kind"], row["pooling"]) == (kind, pooling)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150, help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument(
        "--dtype", default="float32", help="of the trained encoder while it is measured (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--model", type=Path, help="folder of the encoder (default: the PyPI package's MiniLM)")
    parser.add_argument("--data", type=Path, required=True, help="folder of sts/, nli/, wiki/ and cranfield/")
    parser.add_argument(
        "--output", type=Path, default=default_cache() / "paper_table.json", help="default: %(default)s"
    )
    parser.add_argument("--kinds", default="unsupervised,supervised", help="default: %(default)s")
    parser.add_argument("--poolings", default=",".join(POOLINGS), help="default: %(default)s")
    options = parser.parse_args()
    options.model = options.model or packaged_model()
    warnings.simplefilter("ignore")
    settings = {
        name: str(value)
        for name, value in vars(options).items()
        if name in ("steps", "batch_size", "learning_rate", "dtype")
    }
    saved = json.loads(options.output.read_text()) if options.output.exists() else {"settings": settings, "rows": []}
    rows = saved["rows"] if saved["settings"] == settings else []
    done = {(row["kind"], row["pooling"], row["seed"]) for row in rows}
    # Seed by seed, so that a run that is stopped has whole seeds to show.
    for seed in range(options.seeds):
        for kind in options.kinds.split(","):
            for pooling in options.poolings.split(","):
                if (kind, pooling, seed) in done:
                    continue
                rows.append(trained(options, kind, pooling, seed))
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
                print(
                    {name: round(value, 4) for name, value in rows[-1].items() if isinstance(value, float)}, flush=True
                )
    print(f"\n{table(rows)}\n\nsaved: {options.output}")


if __name__ == "__main__":
    main()
