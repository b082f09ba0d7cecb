"""``sentpool train``: an encoder and its pooling learn from texts, pairs or triplets."""

from __future__ import annotations

import argparse

from sentpool.commands.options import check_output, load, positive

PURPOSE = "train a model on texts, pairs or triplets"
EXAMPLE = (
    "sentpool train all-MiniLM-L6-v2/ nli_for_simcse.csv --output run/ --objective simcse-sup --eval data/sts --resume"
)

_RECIPES = ("simcse-unsup", "simcse-sup", "oh2022-unsup", "oh2022-sup")
_SCORED = "cosent"
_RECIPES_NUMBER = "default: the recipe's"


def arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hugging Face hub")
    verb.add_argument(
        "data",
        metavar="DATA",
        help="FILE.txt (a text a line), .csv (sent0,sent1,hard_neg), .tsv or .jsonl",
    )
    verb.add_argument("--output", metavar="FOLDER", required=True, help="for checkpoints/, best/, last/ and log.jsonl")
    verb.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    verb.add_argument(
        "--objective",
        choices=(*_RECIPES, _SCORED),
        default=_RECIPES[0],
        help=f"recipe, or {_SCORED} for scored pairs; default: %(default)s",
    )
    verb.add_argument(
        "--pooling", metavar="NAME", help="instead of the model's; layer_attention and others start afresh"
    )
    verb.add_argument("--columns", metavar="A,B", help="columns of DATA that hold the sentences, and a score")
    for name, unit, words in (
        ("--epochs", positive, f"{_RECIPES_NUMBER}"),
        ("--max-steps", positive, "instead of epochs"),
        ("--batch-size", positive, f"items of a step; {_RECIPES_NUMBER}"),
        ("--max-length", positive, f"tokens of a text; {_RECIPES_NUMBER}"),
        ("--chunk-size", positive, "rows that go through the encoder together: bounds memory, changes no bit"),
        ("--save-steps", positive, "steps between checkpoints; default: 500"),
        ("--eval-steps", positive, f"steps between evaluations; {_RECIPES_NUMBER}"),
        ("--threads", positive, "default: the physical cores allowed"),
    ):
        verb.add_argument(name, metavar="N", type=unit, help=words)
    for name, words in (
        ("--learning-rate", _RECIPES_NUMBER),
        ("--temperature", _RECIPES_NUMBER),
        ("--scale", "reciprocal of --temperature, instead of it"),
        ("--hard-negative-alpha", _RECIPES_NUMBER),
        ("--hard-negative-weight", "logarithm of --hard-negative-alpha, instead of it"),
        ("--mlm-weight", _RECIPES_NUMBER),
        ("--dropout", "default: the model's"),
    ):
        verb.add_argument(name, metavar="X", type=float, help=words)
    verb.add_argument("--weight-decay", metavar="X", type=float, default=0.0, help="default: %(default)s")
    verb.add_argument("--warmup-steps", metavar="N", type=int, default=0, help="default: %(default)s")
    verb.add_argument("--max-grad-norm", metavar="X", type=float, default=1.0, help="default: %(default)s")
    verb.add_argument("--schedule", choices=("linear", "constant"), default="linear", help="default: %(default)s")
    verb.add_argument("--seed", metavar="N", type=int, default=0, help="default: %(default)s")
    verb.add_argument("--head-only", action="store_true", help="train the pooling alone, on stored layer states")
    verb.add_argument("--freeze-embeddings", action="store_true", help="the embeddings stay")
    verb.add_argument("--freeze-layers", metavar="N", type=int, default=0, help="so many lower layers stay")
    verb.add_argument("--eval", metavar="DATA", help="folder in SentEval's layout, or a .tsv of scored pairs")
    verb.add_argument("--plot", metavar="FILE.png", help="save the curves (needs matplotlib)")


def run(options: argparse.Namespace) -> None:
    from sentpool import Trainer, objectives, plotting
    from sentpool.training import TrainingData

    if options.plot:
        check_output(options.plot)
        plotting.check_format(options.plot)
    columns = None if options.columns is None else [name.strip() for name in options.columns.split(",")]
    data = TrainingData.read(options.data, columns)
    model, _ = load(options)
    taken = (
        *("pooling", "epochs", "max_steps", "batch_size", "max_length", "chunk_size", "save_steps", "eval_steps"),
        *("threads", "learning_rate", "temperature", "scale", "hard_negative_alpha", "hard_negative_weight"),
        *("mlm_weight", "dropout", "weight_decay", "warmup_steps", "schedule", "seed", "head_only", "freeze_layers"),
        *("freeze_embeddings", "max_grad_norm"),
    )
    objective = options.objective
    if objective == _SCORED:
        objective = objectives.CoSENT(options.scale, temperature=options.temperature)
        options.scale = options.temperature = None  # said there; the Trainer takes neither beside an object
    trainer = Trainer(
        model,
        objective,
        output_dir=options.output,
        eval_data=options.eval,
        **{name: getattr(options, name) for name in taken},
    )
    history = trainer.fit(data, resume=options.resume)
    print(history)
    if history.best is not None:
        print(f"best score {100 * history.best['score']:.2f} at step {history.best['step']}: {options.output}/best")
    print(f"saved {options.output}/last")
    if options.plot:
        plotting.save(plotting.training_figure(history), options.plot)
        print(f"saved {options.plot}")
