"""STS tasks in SentEval's layout: which files they are and how they are read.

Where the files are had: SentEval's own ``data/downstream/get_transfer_data.bash``
(github.com/facebookresearch/SentEval), or ready-made the ``senteval.tar`` of the data set
``princeton-nlp/datasets-for-simcse`` on huggingface.co, which holds ``STS/`` and ``SICK/``.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sentpool.errors import shown

# Pairs with a gold score, per subset. STS13 is without SMT, whose licence keeps it out of SentEval.
SUBSETS = {
    "STS12": {
        "MSRpar": 750,
        "MSRvid": 750,
        "SMTeuroparl": 459,
        "surprise.OnWN": 750,
        "surprise.SMTnews": 399,
    },
    "STS13": {"FNWN": 189, "headlines": 750, "OnWN": 561},
    "STS14": {
        "deft-forum": 450,
        "deft-news": 300,
        "headlines": 750,
        "images": 750,
        "OnWN": 750,
        "tweet-news": 750,
    },
    "STS15": {"answers-forums": 375, "answers-students": 750, "belief": 375, "headlines": 750, "images": 750},
    "STS16": {
        "answer-answer": 254,
        "headlines": 249,
        "plagiarism": 230,
        "postediting": 244,
        "question-question": 209,
    },
}
# Tasks that are one list of pairs: folder, then file -> pairs.
LISTS = {
    "STSB-train": ("STSBenchmark", {"sts-train.csv": 5749}),
    "STSB-dev": ("STSBenchmark", {"sts-dev.csv": 1500}),
    "STSB-test": ("STSBenchmark", {"sts-test.csv": 1379}),
    "SICKR-test": ("SICK", {"SICK_test_annotated.txt": 4927}),
    "SICKR-all": ("SICK", {"SICK_train.txt": 4500, "SICK_trial.txt": 500, "SICK_test_annotated.txt": 4927}),
}
GROUPS = {"STSB": ("STSB-dev", "STSB-test"), "SICKR": ("SICKR-test", "SICKR-all")}
KNOWN = (*SUBSETS, *LISTS)
DEFAULT_TASKS = (*SUBSETS, *GROUPS["STSB"], *GROUPS["SICKR"])

# Fields of (score, sentence, sentence) in a line of each kind of file.
_STSB_FIELDS, _SICK_FIELDS, _TSV_FIELDS = (4, 5, 6), (3, 1, 2), (0, 1, 2)
_BELOW = ("", "STS", "downstream", "downstream/STS", "data/downstream", "data/downstream/STS")

EXPECTED_LAYOUT = (
    "expected SentEval's layout (STS12-en-test/STS.input.MSRpar.txt with STS.gs.MSRpar.txt and so on, "
    "STSBenchmark/sts-test.csv, SICK/SICK_test_annotated.txt) in the folder or in STS/, downstream/ or "
    "downstream/STS/ below it, or *.tsv files with a score and two sentences per line; SentEval's files come "
    "from get_transfer_data.bash in github.com/facebookresearch/SentEval or from senteval.tar of "
    "princeton-nlp/datasets-for-simcse on huggingface.co"
)


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs with their gold scores; `name` is empty where the task is one list."""

    name: str
    first: list[str]
    second: list[str]
    gold: np.ndarray


@dataclass(frozen=True)
class Task:
    """One task as read: its subsets and the SHA-256 of every file they came from."""

    name: str
    subsets: tuple[Pairs, ...]
    files: dict[str, str]

    def __len__(self) -> int:
        return sum(len(pairs.gold) for pairs in self.subsets)


@dataclass(frozen=True)
class SimilarityData:
    """Tasks read from a folder, and why the others were not."""

    folder: str
    tasks: dict[str, Task]
    skipped: dict[str, str]
    deviations: list[str]

    def distinct_sentences(self) -> dict[str, int]:
        """Each sentence once, in order of appearance, with its index."""
        every = (s for task in self.tasks.values() for p in task.subsets for half in (p.first, p.second) for s in half)
        return {sentence: index for index, sentence in enumerate(dict.fromkeys(every))}

    def describe(self) -> dict:
        """Folder, pairs and files per task and the SHA-256 of every file, as a result records them."""
        return {
            "folder": self.folder,
            "pairs": {name: len(task) for name, task in self.tasks.items()},
            "files": {name: list(task.files) for name, task in self.tasks.items()},
            "sha256": {file: digest for task in self.tasks.values() for file, digest in task.files.items()},
        }


def read_tasks(folder, tasks=None) -> SimilarityData:
    """Read STS tasks from a folder; parameters and errors as in `sentpool.evaluation.sts`."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder is {shown(folder)}: expected a str or Path; evaluation.sample_folder() names a sample")
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"STS folder {os.fspath(folder)!r} {problem}: {EXPECTED_LAYOUT}")
    own_name = folder.resolve().name
    names = DEFAULT_TASKS if tasks is None else _expand(tasks, own_name)
    found: dict[str, Task] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            found[name] = _read_task(folder, name) if name in KNOWN else _read_folder_of_tsv(folder, name)
        except FileNotFoundError as missing:
            if tasks is not None:
                raise
            skipped[name] = str(missing)
    if tasks is None and not found:
        try:
            found[own_name] = _read_folder_of_tsv(folder, own_name)
        except FileNotFoundError:
            raise FileNotFoundError(f"no STS task in {os.fspath(folder)!r}: {EXPECTED_LAYOUT}") from None
        skipped = {}
    if not sum(map(len, found.values())):
        raise ValueError(f"the files of {', '.join(found)} in {os.fspath(folder)!r} hold no scored pair: get them anew")
    deviations = [note for task in found.values() for note in _deviations(task)]
    return SimilarityData(os.fspath(folder), found, skipped, deviations)


def task_name(name: str) -> str:
    """A task's name as we spell it (``"sts-b_TEST"`` → ``"STSB-test"``); others stay as they are."""
    return _SPELLINGS.get(_bare(name), name)


def _bare(name: str) -> str:
    name = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"^sick(?!r)", "sickr", name.replace("stsbenchmark", "stsb"))


_SPELLINGS = {_bare(name): name for name in (*KNOWN, *GROUPS)}


def _expand(tasks, own_name: str) -> list[str]:
    if not isinstance(tasks, str | Iterable):
        raise TypeError(f"tasks is {shown(tasks)}: expected a name such as 'STS12', a sequence of names, or None")
    tasks = [tasks] if isinstance(tasks, str) else list(tasks)
    if not tasks:
        raise ValueError("tasks is empty: name at least one, or pass None for all that the folder holds")
    names: list[str] = []
    for task in tasks:
        if not isinstance(task, str):
            raise TypeError(f"tasks holds {task!r}: expected names such as 'STS12' or 'STSB-test'")
        name = task if task == own_name else task_name(task)
        if name not in KNOWN and name not in GROUPS and name != own_name:
            raise ValueError(f"unknown task {task!r}: choose from {', '.join((*KNOWN, *GROUPS))}")
        names += GROUPS.get(name, (name,))
    return list(dict.fromkeys(names))


def _read_task(folder: Path, name: str) -> Task:
    files: dict[str, str] = {}
    if name in SUBSETS:
        place = _find(folder, f"{name}-en-test", name)
        subsets = tuple(_read_subset(place, subset, files) for subset in SUBSETS[name])
        return Task(name, subsets, files)
    directory, sizes = LISTS[name]
    place = _find(folder, directory, name)
    rows = [row for file in sizes for row in _read_list(place / file, files)]
    return Task(name, (_pairs("", rows),), files)


def _find(folder: Path, directory: str, task: str) -> Path:
    for below in _BELOW:
        if (folder / below / directory).is_dir():
            return folder / below / directory
    raise FileNotFoundError(f"{task} needs the folder {directory}/, which is not in {os.fspath(folder)!r}")


def _read_subset(place: Path, subset: str, files: dict[str, str]) -> Pairs:
    """Two files side by side; a pair whose gold line is blank was never scored and is dropped."""
    input_path, gold_path = place / f"STS.input.{subset}.txt", place / f"STS.gs.{subset}.txt"
    texts = _read_text(input_path, files).splitlines()
    golds = _read_text(gold_path, files).splitlines()
    if len(texts) != len(golds):
        raise ValueError(
            f"{input_path} has {len(texts)} lines and {gold_path.name} has {len(golds)}: "
            "line k of one belongs to line k of the other, so get both files anew"
        )
    rows = []
    for number, (text, gold) in enumerate(zip(texts, golds, strict=True), 1):
        if not gold.strip():
            continue
        fields = text.split("\t")
        if len(fields) != 2:
            raise ValueError(
                f"{input_path}:{number}: {len(fields)} tab-separated fields where two sentences belong; keep "
                "only the columns of the sentences (cut -f1,2)"
            )
        rows.append((_number(gold, gold_path, number), *_sentences(fields, input_path, number)))
    return _pairs(subset, rows)


def _read_list(path: Path, files: dict[str, str]) -> Iterator[tuple[float, str, str]]:
    """A file with one pair per line: STS benchmark, SICK (which has a header) or our own .tsv."""
    text = _read_text(path, files)
    kinds = {".csv": _STSB_FIELDS, ".txt": _SICK_FIELDS, ".tsv": _TSV_FIELDS}
    score, first, second = kinds[path.suffix]
    # Lines as a file object gives them: splitlines() would also cut at U+2028 and the like inside a sentence.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.strip() or (path.suffix == ".txt" and number == 1):
            continue
        fields = line.strip().split("\t")
        if len(fields) <= max(score, first, second):
            raise ValueError(
                f"{path}:{number}: {len(fields)} tab-separated fields; the score belongs in field "
                f"{score + 1} and the sentences in fields {first + 1} and {second + 1}"
            )
        yield _number(fields[score], path, number), *_sentences((fields[first], fields[second]), path, number)


def _read_folder_of_tsv(folder: Path, name: str) -> Task:
    paths = sorted(folder.glob("*.tsv"))
    if not paths:
        raise FileNotFoundError(f"no *.tsv file in {os.fspath(folder)!r}: {EXPECTED_LAYOUT}")
    files: dict[str, str] = {}
    return Task(name, tuple(_pairs(path.stem, list(_read_list(path, files))) for path in paths), files)


def _read_text(path: Path, files: dict[str, str]) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"the file {path} is missing")
    content = path.read_bytes()
    files[f"{path.parent.name}/{path.name}"] = hashlib.sha256(content).hexdigest()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def _number(text: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{path}:{number}: the score {text.strip()!r} is not a number; correct the line or blank it")
    return value


def _sentences(fields: Sequence[str], path: Path, number: int) -> list[str]:
    sentences = [" ".join(field.split()) for field in fields]
    if not all(sentences):
        raise ValueError(f"{path}:{number}: an empty sentence; a line holds two sentences")
    return sentences


def _pairs(name: str, rows: list[tuple[float, str, str]]) -> Pairs:
    gold = np.array([row[0] for row in rows], dtype=np.float64)
    return Pairs(name, [row[1] for row in rows], [row[2] for row in rows], gold)


def _deviations(task: Task) -> Iterator[str]:
    expected = SUBSETS.get(task.name, {})
    if task.name in LISTS:
        expected = {"": sum(LISTS[task.name][1].values())}
    for pairs in task.subsets:
        n = len(pairs.gold)
        if expected.get(pairs.name, n) != n:
            label = f"{task.name} {pairs.name}".rstrip()
            yield (
                f"{label} has {n} scored pairs where SentEval has {expected[pairs.name]}: its numbers "
                "compare with no published ones; get the file anew"
            )
