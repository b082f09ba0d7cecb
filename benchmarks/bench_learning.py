"""Does training teach? all-MiniLM-L6-v2 with noise on its last two layers learns from NLI triplets and from Wikipedia
sentences; a head alone learns on stored layer states. STS-B's development pairs are the judge, three seeds."""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings

import numpy as np
import results
from settings import HERE, Settings

SEEDS = (0, 1, 2)
NOISY_LAYERS = 2
# Noise that takes at least so much of the score is enough.
LOSS = 0.10
NOISE_START, NOISE_STEP = 0.6, 0.1
SUPERVISED = {"batch_size": 64, "learning_rate": 3e-4, "epochs": 5, "freeze_layers": 4, "eval_steps": 46}
UNSUPERVISED = {"batch_size": 64, "learning_rate": 3e-5, "temperature": 0.01, "max_steps": 100, "eval_steps": 20}
HEAD = {"batch_size": 64, "learning_rate": 1e-3, "epochs": 10, "eval_steps": 92}


def run(settings: Settings) -> dict:
    """The section `learning` of the results."""
    from sentpool import SentenceEncoder
    from sentpool.training import TrainingData
    from sentpool.training.development import DevelopmentSet

    warnings.simplefilter("ignore")
    development = DevelopmentSet(settings.data / "sts")
    triplets = TrainingData.read(settings.data / "nli" / "snli_dev_triplets.csv")
    texts = TrainingData.read(settings.data / "wiki" / "wiki_sentences.txt")
    whole = development.evaluate(SentenceEncoder(settings.model), settings.threads)["score"]
    content = {"whole": whole, "settings": {"supervised": SUPERVISED, "unsupervised": UNSUPERVISED, "head": HEAD}}
    seeds = SEEDS[:1] if settings.quick else SEEDS
    for name, objective, data, options in (
        ("supervised", "simcse-sup", triplets, SUPERVISED),
        ("unsupervised", "simcse-unsup", texts, UNSUPERVISED),
    ):
        content[name] = []
        for seed in seeds:
            model, noise = _noisy(settings, development, whole, seed)
            content[name].append({"noise": noise} | _trained(model, objective, data, settings, seed, options))
    content["head"] = []
    for seed in seeds:
        model = SentenceEncoder(settings.model, pooling="cls")
        cls = development.evaluate(model, settings.threads)["score"]
        found = _trained(
            model, "simcse-sup", triplets, settings, seed, HEAD | {"pooling": "layer_attention", "head_only": True}
        )
        content["head"].append({"cls": cls} | found)
    return content


def _noisy(settings: Settings, development, whole: float, seed: int):
    """The model with noise on the weights of its last layers, and how much: in parts of each tensor's deviation."""
    from sentpool import SentenceEncoder
    from sentpool.trained_weights import put_tensors, trained_tensors

    noise = NOISE_START - NOISE_STEP
    while True:
        noise += NOISE_STEP
        model = SentenceEncoder(settings.model)
        tensors = {name: array.copy() for name, array in trained_tensors(model._core).items()}
        rng = np.random.default_rng(seed)
        first = model.n_layers - NOISY_LAYERS
        for name, array in tensors.items():
            if array.ndim == 2 and any(f".layer.{layer}." in name for layer in range(first, model.n_layers)):
                array += rng.normal(0, noise * array.std(), array.shape).astype(np.float32)
        put_tensors(model._core, tensors)
        if whole - development.evaluate(model, settings.threads)["score"] >= LOSS:
            return model, noise


def _trained(model, objective: str, data, settings: Settings, seed: int, options: dict) -> dict:
    """Evaluations over a run, and what it took."""
    from sentpool import Trainer

    if settings.quick:
        options = {**options, "max_steps": 4, "eval_steps": 2}
    trainer = Trainer(model, objective, seed=seed, threads=settings.threads, eval_data=settings.data / "sts", **options)
    began = time.perf_counter()
    history = trainer.fit(data)
    seconds = time.perf_counter() - began
    evaluations = [
        {name: row[name] for name in ("step", "score", "alignment", "uniformity")} for row in history.evaluations
    ]
    return {
        "seed": seed,
        "seconds": seconds,
        "seconds_of_steps": sum(row["seconds"] for row in history.log),
        "steps": len(history.log),
        "evaluations": evaluations,
    }


def table(content: dict) -> str:
    """Scores ×100 before, best and last, over the seeds."""
    lines = [
        f"STS-B dev, Spearman ×100; the model as it is: {100 * content['whole']:.2f}",
        f"{'':14}{'seed':>5}{'before':>9}{'best':>9}{'last':>9}{'regained':>10}{'steps':>7}{'seconds':>9}",
    ]
    for name in ("supervised", "unsupervised", "head"):
        for entry in content[name]:
            scores = [row["score"] for row in entry["evaluations"]]
            before = entry.get("cls", scores[0])
            lost = content["whole"] - before
            regained = f"{100 * (max(scores) - before) / lost:9.0f}%" if name != "head" else f"{'':>10}"
            numbers = "".join(f"{100 * score:9.2f}" for score in (before, max(scores), scores[-1]))
            steps = f"{entry['steps']:7}{entry['seconds']:9.0f}"
            lines.append(f"{name:14}{entry['seed']:5}{numbers}{regained}{steps}")
        best = [max(row["score"] for row in entry["evaluations"]) for entry in content[name]]
        if len(best) > 1:
            lines.append(
                f"{'':14}best: {100 * statistics.mean(best):.2f} ± {100 * statistics.stdev(best):.2f} over seeds"
            )
    lines.append("head: layer_attention on stored states, from the cls of the same encoder")
    return "\n".join(lines)


def curve(content: dict, path) -> None:
    """The scores over the steps, a panel per kind of training, a line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    names = {"supervised": "NLI triplets", "unsupervised": "Wikipedia sentences", "head": "head only, layer_attention"}
    for ax, (name, title) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for entry in content[name]:
            rows = entry["evaluations"]
            ax.plot([row["step"] for row in rows], [100 * row["score"] for row in rows], marker="o", markersize=3)
        lines = {"as it was before the noise": content["whole"]}
        if name == "head":
            lines = {"cls of the encoder": content["head"][0]["cls"]}
        for label, value in lines.items():
            ax.axhline(100 * value, color="black", linestyle=":", linewidth=1, label=label)
        ax.set(title=title, xlabel="step", ylabel="STS-B dev, Spearman ×100")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def main() -> None:
    path = results.run_alone(__doc__, "learning", run, table)
    picture = (path.parent if path.parent.name != "results" else HERE / "plots") / f"{path.stem}-learning.png"
    try:
        curve(json.loads(path.read_text())["learning"], picture)
    except ImportError:
        sys.exit("no curve: it needs matplotlib")
    print(f"saved: {picture}")


if __name__ == "__main__":
    main()
