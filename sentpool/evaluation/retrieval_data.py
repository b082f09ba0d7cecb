"""Folders in BEIR's layout: documents, queries, and which document answers which query."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentpool.errors import shown

EXPECTED_LAYOUT = (
    "expected BEIR's layout: corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels/SPLIT.tsv "
    "(query-id, corpus-id, score)"
)


@dataclass(frozen=True)
class RetrievalData:
    """One split of a retrieval task.

    Attributes
    ----------
    documents, queries : dict of str to str
        Text by id; queries are those of the split that have judgements.
    judgements : dict
        ``judgements[query][document]`` is the score that people gave.
    description : dict
        Name, split, counts, and the SHA-256 of every file.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    description: dict[str, Any]


def read_retrieval(folder, split: str) -> RetrievalData:
    """Read a folder in BEIR's layout; errors as in `sentpool.evaluation.retrieval`.

    A document's text is its title, a space and its text, without blanks at its ends: what BEIR encodes.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder is {shown(folder)}: expected a str or Path")
    if not isinstance(split, str):
        raise TypeError(f"split is {shown(split)}: expected the name of a file in qrels/, such as 'test'")
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"retrieval folder {os.fspath(folder)!r} {problem}: {EXPECTED_LAYOUT}")
    hashes: dict[str, str] = {}
    judgements = _judgements(_read(folder, f"qrels/{split}.tsv", hashes))
    documents = {
        name: f"{fields.get('title') or ''} {fields['text']}".strip()
        for name, fields in _records(_read(folder, "corpus.jsonl", hashes))
    }
    if not documents:
        raise ValueError(f"{folder / 'corpus.jsonl'} holds no documents")
    queries = {name: fields["text"] for name, fields in _records(_read(folder, "queries.jsonl", hashes))}
    lost = next((query for query in judgements if query not in queries), None)
    if lost is not None:
        raise ValueError(f"qrels/{split}.tsv judges query {lost!r}, which queries.jsonl does not hold")
    unknown = {document for of_query in judgements.values() for document in of_query} - documents.keys()
    return RetrievalData(
        documents=documents,
        queries={name: text for name, text in queries.items() if name in judgements},
        judgements=judgements,
        description={
            "folder": os.fspath(folder),
            "name": folder.resolve().name,
            "split": split,
            "documents": len(documents),
            "queries": len(judgements),
            "judgements": sum(map(len, judgements.values())),
            "judged_but_missing": len(unknown),
            "files": {f"{folder.resolve().name} {split}": list(hashes)},
            "sha256": hashes,
        },
    )


class _Lines:
    """The lines of a file, with its name and numbers for messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for number, line in enumerate(self._text.split("\n"), 1):
            if line.strip():
                yield number, line.rstrip("\r")

    def error(self, number: int, what: str) -> ValueError:
        return ValueError(f"{self.name}:{number}: {what}")


def _read(folder: Path, name: str, hashes: dict[str, str]) -> _Lines:
    path = folder / name
    if not path.is_file():
        there = sorted(file.stem for file in (folder / "qrels").glob("*.tsv")) if name.startswith("qrels") else []
        hint = f"; there are the splits {', '.join(there)}" if there else f": {EXPECTED_LAYOUT}"
        raise FileNotFoundError(f"{os.fspath(folder)!r} has no {name}{hint}")
    content = path.read_bytes()
    hashes[name] = hashlib.sha256(content).hexdigest()
    try:
        return _Lines(os.fspath(path), content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def _records(lines: _Lines) -> Iterator[tuple[str, dict[str, Any]]]:
    """Id and fields of each line of a JSONL file."""
    seen = set()
    for number, line in lines:
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise lines.error(number, f"no JSON ({error})") from None
        if not isinstance(fields, dict):
            raise lines.error(number, f"{shown(fields)} is no object with _id and text")
        for key in ("_id", "text"):
            if not isinstance(fields.get(key), str):
                raise lines.error(number, f"{key} is {shown(fields.get(key))}; it must be a string")
        if not isinstance(fields.get("title"), str | None):
            raise lines.error(number, f"title is {shown(fields['title'])}; it must be a string")
        if fields["_id"] in seen:
            raise lines.error(number, f"_id {shown(fields['_id'])} is there twice")
        seen.add(fields["_id"])
        yield fields["_id"], fields


def _judgements(lines: _Lines) -> dict[str, dict[str, int]]:
    """Scores by query and document; a first line that names the columns is skipped."""
    found: dict[str, dict[str, int]] = {}
    for number, line in lines:
        columns = line.split("\t")
        if number == 1 and columns[-1].strip() == "score":
            continue
        try:
            query, document, score = columns
            found.setdefault(query, {})[document] = int(score)
        except ValueError:
            raise lines.error(number, f"{shown(line)} is not query-id, corpus-id and a whole number") from None
    if not found:
        raise ValueError(f"{lines.name} holds no judgements")
    return found
