"""The texts that are encoded: real ones, each different from all others as a str."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from models import Model

_BLANKS = " \t\n"


@dataclass(frozen=True)
class Workload:
    """Texts for one model, and what they cost there."""

    name: str
    model: Model
    texts: list[str]
    lengths: np.ndarray  # tokens per text, special tokens included, cut as the model's folder says

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def flop(self) -> float:
        return self.model.flop(self.lengths)


def workload(name: str, model: Model, texts: list[str]) -> Workload:
    """Texts with their lengths in tokens."""
    distinct = all_different(texts)
    return Workload(name, model, distinct, np.diff(model.tokenizer.encode(distinct).offsets))


def all_different(texts: Iterable[str]) -> list[str]:
    """The texts; one seen before gets blanks behind it, which no tokenizer of ours keeps.

    A library that computes equal texts only once, as sentpool does, gains nothing by that here.
    """
    seen: dict[str, int] = {}
    distinct = []
    for text in texts:
        copy = seen[text] = seen.get(text, -1) + 1
        distinct.append(text + blanks(copy))
    return distinct


def blanks(number: int) -> str:
    """A number spelled in blanks; 0 is the empty string."""
    spelled = ""
    while number:
        number, digit = divmod(number - 1, len(_BLANKS))
        spelled += _BLANKS[digit]
    return spelled


def sts_sentences(data: Path) -> list[str]:
    """The 2,758 sentences of the STS-B test set, about 14 tokens each."""
    with open(data / "sts" / "STSBenchmark" / "sts-test.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row[5] for row in rows] + [row[6] for row in rows]


def wiki_sentences(data: Path) -> list[str]:
    """Sentences of Wikipedia, one a line, about 25 tokens each."""
    return (data / "wiki" / "wiki_sentences.txt").read_text(encoding="utf-8").splitlines()


def cranfield_abstracts(data: Path) -> list[str]:
    """Abstracts of the Cranfield collection, mostly 100 tokens to the model's limit."""
    with open(data / "cranfield" / "corpus.jsonl", encoding="utf-8") as file:
        abstracts = (json.loads(line)["text"] for line in file)
        return [text for text in abstracts if text.strip()]


def sample_sentences(_data: Path) -> list[str]:
    """The 400 sentences bundled with sentpool, where there are no others."""
    from sentpool.evaluation.sample import sample_folder

    lines = [line for file in sorted(sample_folder().glob("*.tsv")) for line in file.read_text("utf-8").splitlines()]
    return [sentence for line in lines for sentence in line.split("\t")[1:3]]


SOURCES: dict[str, Callable[[Path], list[str]]] = {
    "sts": sts_sentences,
    "wiki": wiki_sentences,
    "cranfield": cranfield_abstracts,
}


def read(source: str, data: Path) -> list[str] | None:
    """The texts of a source, None where its file is missing."""
    try:
        return SOURCES[source](data)
    except FileNotFoundError:
        return None
