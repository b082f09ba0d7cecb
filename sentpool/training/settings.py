"""What a run is asked for, checked, with a recipe's numbers where nothing else was said."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sentpool.checks import count, number_from_zero, one_of, positive_integer, positive_number, seed
from sentpool.dropout import Sites
from sentpool.errors import shown, warn
from sentpool.fields import Fields
from sentpool.objectives import InfoNCE
from sentpool.optimizer import SCHEDULES
from sentpool.recipes import Recipe, from_name

# Of SimCSE's unsupervised recipe (Gao et al. 2021), where the objective is an object.
_DEFAULTS = {
    "epochs": 1,
    "batch_size": 64,
    "learning_rate": 3e-5,
    "max_length": 32,
    "mlm_weight": 0.0,
    "eval_steps": 125,
}
_SAVE_STEPS = 500
_LOSS = ("temperature", "scale", "hard_negative_alpha", "hard_negative_weight")
# They change neither weights nor order, so a run may go on with others.
_FREE = ("threads", "chunk_size", "save_steps", "eval_steps")


@dataclass(frozen=True)
class Settings:
    """The settings of `Trainer`, by its names; those that were None are what they mean.

    `dropout` holds the probability at every place.
    """

    objective: object
    epochs: int
    batch_size: int
    learning_rate: float
    max_steps: int | None
    max_length: int
    seed: int
    threads: int | None
    dropout: Sites
    chunk_size: int | None
    weight_decay: float
    warmup_steps: int
    max_grad_norm: float | None
    schedule: str
    shuffle: bool
    mlm_weight: float
    freeze_embeddings: bool
    freeze_layers: int
    head_only: bool
    save_steps: int
    eval_steps: int

    def describe(self) -> dict:
        """The settings, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"objective": _described(self.objective), "dropout": self.dropout._asdict()}

    def decisive(self) -> dict:
        """Those that the trained weights depend on."""
        return {name: value for name, value in self.describe().items() if name not in _FREE}


SETTING_NAMES = (*(field.name for field in fields(Settings) if field.name != "objective"), *_LOSS)
"""The arguments of `Trainer` that `resolve_settings` takes."""


def resolve_settings(model, objective, given: dict) -> tuple[Settings, Recipe | None]:
    """Settings from the arguments of `Trainer` by name, checked.

    Raises
    ------
    TypeError, ValueError
        An argument is not what it must be; it is named.
    """
    recipe = from_name(objective) if isinstance(objective, str) else None
    loss = {name: given[name] for name in _LOSS}
    given = {name: given[name] for name in SETTING_NAMES if name not in _LOSS}
    defaults = {name: getattr(recipe, name) for name in _DEFAULTS} if recipe else dict(_DEFAULTS)
    # A recipe's length is that of its encoders; what a user asks for is an error where it is too long.
    defaults["max_length"] = min(defaults["max_length"], model.tokenizer.max_positions)
    filled = given | {name: default for name, default in defaults.items() if given[name] is None}
    dropout = filled.pop("dropout")
    settings = Settings(
        **_checked(filled, model),
        objective=_objective(objective, recipe, loss),
        dropout=_rates(dropout, model.folder),
    )
    if settings.head_only and settings.mlm_weight:
        raise ValueError("head_only trains nothing that the MLM loss could teach: leave out mlm_weight")
    return settings, recipe


def _checked(values: dict, model) -> dict:
    checked = dict(values)
    checked["save_steps"] = _SAVE_STEPS if values["save_steps"] is None else values["save_steps"]
    for name in ("epochs", "batch_size", "max_length", "eval_steps", "save_steps"):
        checked[name] = positive_integer(name, checked[name])
    for name in ("max_steps", "chunk_size", "threads"):
        checked[name] = None if values[name] is None else positive_integer(name, values[name])
    checked["learning_rate"] = positive_number("learning_rate", values["learning_rate"])
    if values["max_grad_norm"] is not None:
        checked["max_grad_norm"] = positive_number("max_grad_norm", values["max_grad_norm"])
    for name in ("weight_decay", "mlm_weight"):
        checked[name] = number_from_zero(name, values[name])
    for name in ("warmup_steps", "freeze_layers"):
        checked[name] = count(name, values[name])
    for name in ("shuffle", "freeze_embeddings", "head_only"):
        one_of(name, values[name], (False, True))
    one_of("schedule", values["schedule"], SCHEDULES)
    checked["seed"] = seed("seed", values["seed"])
    if checked["batch_size"] < 2:
        raise ValueError("batch_size is 1; a step compares the items of a batch: at least 2")
    most = model.tokenizer.max_positions
    if checked["max_length"] > most:
        raise ValueError(f"max_length is {checked['max_length']}; the encoder has positions for {most} tokens")
    return checked


def _objective(objective, recipe: Recipe | None, loss: dict):
    """The loss: what was given, or a recipe's with another temperature or weight of hard negatives."""
    wanted = {name: value for name, value in loss.items() if value is not None}
    if recipe is None:
        is_object = not isinstance(objective, type) and callable(getattr(objective, "roles", None))
        if not is_object or not callable(objective):
            raise TypeError(
                f"objective is {shown(objective)}; it must be a recipe's name or an object of sentpool.objectives, "
                f"such as InfoNCE()"
            )
        if wanted:
            name = next(iter(wanted))
            raise ValueError(f"{name} is {shown(wanted[name])}, and the objective is an object: say it there")
        return objective
    if not wanted:
        return recipe.objective
    kept = {"symmetric": recipe.objective.symmetric}
    if "temperature" not in wanted and "scale" not in wanted:
        kept["temperature"] = recipe.objective.temperature
    if "hard_negative_alpha" not in wanted and "hard_negative_weight" not in wanted:
        kept["hard_negative_alpha"] = recipe.objective.hard_negative_alpha
    return InfoNCE(**wanted, **kept)


def _rates(dropout, folder) -> Sites:
    architecture = folder.config.architecture
    if dropout is None:
        fields = Fields.read(folder.transformer_path / "config.json")
        for name in architecture.unused_dropout:
            if fields.has(name) and fields.values[name] != 0:
                warn(
                    f"{fields.path}: {name} is {shown(fields.values[name])}, and nothing is dropped by it, as in the "
                    f"family's own code: {architecture.dropout.embedding} is that of embeddings"
                )
        return folder.config.dropout
    rate = number_from_zero("dropout", dropout)
    if rate >= 1:
        raise ValueError(f"dropout is {shown(dropout)}; it must be a probability below 1")
    return Sites(*(rate if field else 0.0 for field in architecture.dropout))


def _described(objective) -> str:
    """An objective in words that are the same in the next process."""
    if type(objective).__repr__ is object.__repr__:
        return f"{type(objective).__module__}.{type(objective).__qualname__}"
    return repr(objective)


def differences(before: dict, now: dict) -> str:
    """Which settings are not the same any more, in words; empty where all are."""
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {shown(before.get(name))} and is {shown(now.get(name))}" for name in changed)
