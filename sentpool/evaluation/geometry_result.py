"""What `evaluation.geometry` returns: measures by name, as tables, as a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sentpool.config_report import versions
from sentpool.errors import shown
from sentpool.evaluation.measures import LAYER, MEASURES, SPACE, Measure
from sentpool.evaluation.plain_tables import cut, number, pandas_module
from sentpool.evaluation.saved_result import SavedResult, restored_nan, write_json


@dataclass(repr=False, eq=False)
class GeometryResult(SavedResult):
    """The geometry of the spaces that layers and poolings make.

    `.mean_cosine`, `.mean_cosine_centred`, `.uniformity`, `.alignment`, `.effective_rank` and `.isoscore` are those of
    the model's own pooling, of the embeddings that were given, or of the last layer of given states; `at` has the
    others. A number is nan where it is undefined: alignment without positive pairs, IsoScore of equal vectors.

    Attributes
    ----------
    rows : list of dict
        One per pooling, and per step `after` it. Keys: the names of the measures, and

        tokens : str
            The token pooling, several joined by "+"; empty for embeddings.
        layers : int or str
            A single layer, 0 being the embedding output; "model" for the model's own pooling, the name of a pooling
            that was passed, or "embeddings".
        after : str
            The step fitted to these vectors and applied to them, such as "whitening"; empty: none.
        dimension : int
            Numbers in a vector.
    layer_rows : list of dict
        One per layer of a `SentenceEncoder`, from the states of its tokens: ``layer``, ``prompt_entropy``,
        ``prompt_entropy_scaled``, ``dataset_entropy``, ``dataset_entropy_scaled``, ``curvature``, ``infonce``,
        ``lidar``.
    spectra : list of ndarray
        The singular values behind each row of `rows`; empty in a result saved without them.
    own : dict
        ``tokens`` and ``layers`` of the row that the named measures are taken from.
    protocol : dict
        What was measured on what: ``data``, ``sentences``, ``positives`` (pairs), ``positive_above`` (their least gold
        score, exclusive), ``views``.
    model, encoding, data, seconds, versions : dict
        As in `STSResult`.

    Examples
    --------
    >>> result.isoscore, result.at(4, "cls")["uniformity"]          # doctest: +SKIP
    >>> result.spectrum(4, "cls")                                   # doctest: +SKIP
    >>> result.to_frame().plot(y="effective_rank")                  # doctest: +SKIP
    """

    FORMAT = "sentpool geometry result 1"

    rows: list[dict[str, Any]]
    own: dict[str, Any]
    layer_rows: list[dict[str, Any]] = field(default_factory=list)
    spectra: list[np.ndarray] = field(default_factory=list)
    protocol: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of distinct pairs."""
        return self._of_own("mean_cosine")

    @property
    def mean_cosine_centred(self) -> float:
        """Mean cosine of distinct pairs of vectors from which their mean is subtracted."""
        return self._of_own("mean_cosine_centred")

    @property
    def uniformity(self) -> float:
        """Uniformity of Wang & Isola 2020, t = 2."""
        return self._of_own("uniformity")

    @property
    def alignment(self) -> float:
        """Alignment of Wang & Isola 2020 over the positive pairs, alpha = 2."""
        return self._of_own("alignment")

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the singular values as given."""
        return self._of_own("effective_rank")

    @property
    def isoscore(self) -> float:
        """IsoScore of Rudman et al. 2022."""
        return self._of_own("isoscore")

    def at(self, layers, tokens: str | None = None, after: str = "") -> dict[str, Any]:
        """One row of `rows`; for a single layer with the measures of its token states.

        Parameters
        ----------
        layers : int or str
            As in `rows`.
        tokens : str, optional
            Needed where several token poolings have these layers.
        after : str

        Raises
        ------
        KeyError
            There is none, or there are several.
        """
        row = self.rows[self._index(layers, tokens, after)]
        return row | next((one for one in self.layer_rows if one["layer"] == row["layers"]), {})

    def spectrum(self, layers, tokens: str | None = None, after: str = "") -> np.ndarray:
        """The singular values, largest first, of the vectors of a row; parameters and errors as `at`.

        Raises
        ------
        KeyError
        ValueError
            The result was saved without spectra.
        """
        index = self._index(layers, tokens, after)
        if not self.spectra:
            raise ValueError("this result holds no spectra: it was saved without them; save(path, spectra=True)")
        return self.spectra[index]

    @property
    def steps(self) -> tuple[str, ...]:
        """What was applied after the poolings: "" for nothing, then each step."""
        return tuple(dict.fromkeys(row["after"] for row in self.rows))

    def single_tokens(self) -> list[str]:
        """The token poolings of which there are single layers."""
        return list(dict.fromkeys(row["tokens"] for row in self.rows if isinstance(row["layers"], int)))

    def over_layers(self, measure: str, tokens: str | None = None, after: str = "") -> tuple[list[int], np.ndarray]:
        """A measure's values over the single layers.

        Parameters
        ----------
        measure : str
            Of `rows` or `layer_rows`.
        tokens : str, optional
            Which token pooling; by default the first. Measures of token states have none.
        after : str

        Returns
        -------
        layers : list of int
        values : ndarray, float64

        Raises
        ------
        ValueError
            An unknown measure, or one that this result does not have.
        """
        if measure not in MEASURES:
            raise ValueError(f"measure is {shown(measure)}; it must be one of {', '.join(MEASURES)}")
        if measure in LAYER:
            found = [(row["layer"], row[measure]) for row in self.layer_rows]
        else:
            tokens = tokens or next(iter(self.single_tokens()), None)
            found = [
                (row["layers"], row[measure])
                for row in self.rows
                if isinstance(row["layers"], int) and (row["tokens"], row["after"]) == (tokens, after)
            ]
        if not found:
            raise ValueError(f"this result has no {measure} of single layers for tokens={tokens!r}, after={after!r}")
        return [layer for layer, _ in found], np.array([value for _, value in found])

    def to_frame(self):
        """`rows` as a pandas DataFrame, single layers with the measures of their token states.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        frame = pandas_module().DataFrame(self.rows)
        if not self.layer_rows:
            return frame
        of_layer = {row["layer"]: row for row in self.layer_rows}
        for name in LAYER:
            frame[name] = [of_layer.get(layers, {}).get(name, math.nan) for layers in frame["layers"]]
        return frame

    def to_dict(self, spectra: bool = False) -> dict[str, Any]:
        """Everything, ready for JSON but for nan; `spectra` as in `save`."""
        spectra = [spectrum.tolist() for spectrum in self.spectra] if spectra else []
        return super().to_dict() | {"spectra": spectra}

    def save(self, path, spectra: bool = False) -> None:
        """Write `to_dict` as JSON, replacing the file in one step; nan is written as null.

        Parameters
        ----------
        path : str or Path
        spectra : bool
            Also write the singular values, as many as numbers in a vector, of every row.

        Raises
        ------
        OSError
            The file cannot be written; what was there before is untouched.
        """
        write_json(path, self.to_dict(spectra))

    @classmethod
    def _restored(cls, parts):
        for rows, names in (("rows", SPACE), ("layer_rows", LAYER)):
            parts[rows] = [row | {name: restored_nan(row[name]) for name in names} for row in parts[rows]]
        parts["spectra"] = [np.array(spectrum, dtype=np.float64) for spectrum in parts["spectra"]]
        return parts

    def _of_own(self, measure: str) -> float:
        return self.rows[self._index(self.own["layers"], self.own["tokens"], "")][measure]

    def _index(self, layers, tokens: str | None, after: str) -> int:
        found = [
            index
            for index, row in enumerate(self.rows)
            if row["layers"] == layers and row["after"] == after and tokens in (None, row["tokens"])
        ]
        if len(found) == 1:
            return found[0]
        wanted = f"layers={shown(layers)}, tokens={shown(tokens)}, after={shown(after)}"
        if found:
            raise KeyError(f"{wanted}: say which tokens, of {', '.join(self.rows[index]['tokens'] for index in found)}")
        there = dict.fromkeys(f"{row['layers']} {row['tokens']}".rstrip() for row in self.rows)
        raise KeyError(f"no row has {wanted}; there are {', '.join(there)}, after {', '.join(map(repr, self.steps))}")

    def _head(self) -> Iterator[str]:
        yield f"Geometry of {self.model.get('name', 'embeddings')}"
        protocol = self.protocol
        parts = [f"{protocol['sentences']:,} {'sentences' if protocol['data'] else 'vectors'}"]
        parts[0] += f" of {protocol['data']}" if protocol["data"] else ""
        if protocol["positives"]:
            above = protocol["positive_above"]
            gold = "" if above is None else f" with a gold score above {above:g}"
            parts.append(f"alignment over {protocol['positives']:,} pairs{gold}")
        if "pooling" in self.model:
            parts.append(f"the model's own pooling: {self.model['pooling']}")
        yield "; ".join(parts)

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, head and rows: one table per step, one of the token states."""
        for step in self.steps:
            yield (
                f"after {step}, fitted to these vectors" if step else "vectors as they are; layer 0 is the embedding",
                ["layers", "tokens", "d", *(measure.heading for measure in SPACE.values())],
                [
                    [cut(str(row["layers"])), row["tokens"], str(row["dimension"]), *measured_cells(row, SPACE)]
                    for row in self.rows
                    if row["after"] == step
                ],
            )
        if self.layer_rows:
            yield (
                "token states of each layer",
                ["layer", "", *(measure.heading for measure in LAYER.values())],
                [[str(row["layer"]), "", *measured_cells(row, LAYER)] for row in self.layer_rows],
            )


def measured_cells(row: dict[str, Any], measures: dict[str, Measure]) -> list[str]:
    """A row's numbers as a table shows them."""
    return [number(row[name], measure.digits) for name, measure in measures.items()]
