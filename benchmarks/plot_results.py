"""The tables of a results file as pictures: python benchmarks/plot_results.py results/NAME.json

Needs matplotlib; runs with the Python of the other libraries.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import report

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

# Okabe and Ito's colours, told apart by every eye: ours and the others'; precision is told by hatching.
OWN, OTHERS, GRID = "#0072B2", "#E69F00", "#DDDDDD"
HATCHES = {"fp32": {}, "bf16": {"edgecolor": "white", "hatch": "///"}, "int8": {"edgecolor": "white", "hatch": "..."}}

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "hatch.color": "white",
}


def throughput(results: dict) -> plt.Figure:
    """Texts per second, a panel per workload, the fastest above; a line where the FMA units end."""
    encode = results["encode"]
    entries = encode["throughput"]
    figure, axes = _panels(len(entries), height=2.5)
    slots = max(len(entry["peers"]) for entry in entries)
    for axis, entry in zip(axes, entries, strict=True):
        speeds = {name: report.rates(entry, name) for name in entry["peers"]}
        _bars(axis, speeds, report.ratios(entry), encode["peers"], slots, best=max, label="{:.4g}/s")
        peaks = [
            peak for result in entry["peers"].values() for done in result["passes"] for peak in done["peaks"] if peak
        ]
        if peaks:
            limit = max(peaks) * entry["texts"] / entry["gflop"]
            axis.axvline(limit, color="black", ls=":", lw=1, zorder=0)
            axis.set_xlim(0, max(axis.get_xlim()[1], 1.05 * limit))
        axis.set(title=report.title(entry), xlabel="texts per second; dotted: 100 % of the float32 FMA peak")
    return _finish(figure, "Throughput, tokenization included", results, "encode")


def latency(results: dict) -> plt.Figure:
    """Milliseconds for one sentence, a panel per model, the fastest above."""
    encode = results["encode"]
    entries = encode["latency"]
    figure, axes = _panels(len(entries), height=2.5)
    slots = max(len(entry["peers"]) for entry in entries)
    for axis, entry in zip(axes, entries, strict=True):
        times = {name: report.latencies(entry, name) for name in entry["peers"]}
        ratios = {name: 1 / ratio for name, ratio in report.latency_ratios(entry).items()}
        _bars(axis, times, ratios, encode["peers"], slots, best=min, label="{:.3g} ms")
        axis.set(title=entry["model"], xlabel=f"ms for one sentence of {entry['tokens']} tokens")
    return _finish(figure, "One sentence at a time, tokenization included", results, "encode")


def kernels(results: dict) -> plt.Figure:
    """Share of one core's peak by rows, a panel per instruction set."""
    isas = results["kernels"]["isas"]
    figure, axes = _panels(len(isas), height=3.0)
    for axis, (isa, entries) in zip(axes, isas.items(), strict=True):
        counts = list(dict.fromkeys(entry["rows"] for entry in entries))
        for engine, name, colour, marker in (("panel", "panel kernel", OWN, "o"), ("blis", "BLIS", OTHERS, "s")):
            shares = [100 * report.kernel_rates(entries, rows, engine)[1] for rows in counts]
            axis.plot(counts, shares, marker=marker, color=colour, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, map(str, counts))
        axis.set(title=isa, xlabel="rows", ylabel="% of one core's FMA peak", ylim=(0, 100))
        axis.grid(axis="y", color=GRID)
        axis.legend(loc="lower right", frameon=False)
    return _finish(figure, "Matrix products of MiniLM and BERT-base, all shapes together", results, "kernels")


def scaling(results: dict) -> plt.Figure:
    """Time per text by the number of texts, and the band of ±10 % around the first."""
    figure, (axis,) = _panels(1, height=3.0)
    counts, times = [], []
    for entry in results["scaling"]["flatness"]:
        counts.append(entry["texts"])
        times.append([1e6 * done["seconds"] / entry["texts"] for done in entry["passes"]])
    medians = [statistics.median(some) for some in times]
    axis.axhspan(0.9 * medians[0], 1.1 * medians[0], color=GRID, lw=0)
    axis.annotate("±10 %", (counts[-1], 1.1 * medians[0]), va="bottom", ha="right")
    axis.errorbar(counts, medians, _spread(times, medians), color=OWN, marker="o", capsize=3)
    axis.set_xscale("log")
    axis.set_xticks(counts, [f"{count:,}" for count in counts], minor=False)
    axis.set(xlabel="texts in one call", ylabel="µs per text", ylim=(0, None))
    return _finish(figure, "sentpool, time per text", results, "scaling")


def _bars(axis, values: dict[str, list[float]], ratios: dict[str, float], peers: dict, slots: int, *, best, label: str):
    """Medians as bars with the extremes of the rounds, best above; behind each how far sentpool is ahead."""
    names = sorted(values, key=lambda name: statistics.median(values[name]), reverse=best is max)
    longest = max(map(max, values.values()))
    for place, name in enumerate(names):
        median = statistics.median(values[name])
        colour = OWN if name.startswith("sentpool") else OTHERS
        hatch = HATCHES[peers[name]["precision"].split()[0]]
        spread = _spread([values[name]], [median])
        axis.barh(place, median, facecolor=colour, **hatch, xerr=spread, ecolor="#444444", capsize=2, height=0.75)
        ahead = f"   ({ratios[name]:.3g}×)" if name in ratios else ""
        axis.text(max(values[name]) + 0.02 * longest, place, label.format(median) + ahead, va="center")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlim=(0, 1.4 * longest), ylim=(slots - 0.5, -0.5))


def _spread(values: Iterable[list[float]], medians: list[float]) -> list[list[float]]:
    """Distances from each median down to the smallest and up to the largest value."""
    pairs = list(zip(values, medians, strict=True))
    return [[median - min(some) for some, median in pairs], [max(some) - median for some, median in pairs]]


def _panels(count: int, height: float) -> tuple[plt.Figure, list[plt.Axes]]:
    columns = min(2, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.6 * columns, height * rows + 0.4), layout="constrained")
    panels = [axes] if count == 1 else list(axes.flat)
    for unused in panels[count:]:
        unused.axis("off")
    return figure, panels[:count]


def _finish(figure: plt.Figure, what: str, results: dict, section: str) -> plt.Figure:
    """Title with machine and date and, where libraries are compared, what the colours and ratios mean."""
    found = results[section]
    threads = "" if section == "kernels" else f", {found['threads']} threads"
    quick = "  (quick run: no numbers to keep)" if found["quick"] else ""
    figure.suptitle(f"{what}\n{results['machine']['cpu']}{threads}, {found['date'][:10]}{quick}", x=0.01, ha="left")
    if section == "encode":
        patches = [Patch(facecolor=OWN, label="sentpool"), Patch(facecolor=OTHERS, label="others")]
        names = {"bf16": "bfloat16", "int8": "int8"}
        patches += [Patch(facecolor="#888888", **HATCHES[kind], label=name) for kind, name in names.items()]
        note = Patch(alpha=0, label="(1.5×): sentpool in float32 is 1.5 times as fast")
        figure.legend(handles=[*patches, note], loc="outside lower left", ncols=5, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent / "plots")
    given = parser.parse_args()
    results = json.loads(given.results.read_text())
    given.folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams |= STYLE
    for name, draw, section in (
        ("throughput", throughput, "encode"),
        ("latency", latency, "encode"),
        ("kernels", kernels, "kernels"),
        ("scaling", scaling, "scaling"),
    ):
        if section in results:
            path = given.folder / f"{given.results.stem}-{name}.png"
            draw(results).savefig(path, dpi=150)
            print(path)


if __name__ == "__main__":
    main()
