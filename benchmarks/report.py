"""Results as tables of text; plot_results.py draws the same numbers."""

from __future__ import annotations

import statistics

WORKLOADS = {
    "sts": "STS-B sentences",
    "wiki": "Wikipedia sentences",
    "cranfield": "Cranfield abstracts",
    "sample": "bundled sentences",
}


def rates(entry: dict, peer: str) -> list[float]:
    """Texts per second of each pass."""
    return [entry["texts"] / done["seconds"] for done in entry["peers"][peer]["passes"]]


def peak_shares(entry: dict, peer: str) -> list[float]:
    """Share of the FMA peak of each pass, against the higher of the peaks just before and after it."""
    return _shares(entry["gflop"], entry["peers"][peer]["passes"])


def _shares(gflop: float, passes: list[dict]) -> list[float]:
    return [gflop / done["seconds"] / max(done["peaks"]) for done in passes if None not in done["peaks"]]


def latencies(entry: dict, peer: str) -> list[float]:
    """Milliseconds of one call, the median of each round."""
    return [1e3 * done["median"] for done in entry["peers"][peer]["rounds"]]


def ratios(entry: dict, own: str = "sentpool") -> dict[str, float]:
    """How many times as fast as each other peer `own` is, by medians; nothing where it did not run."""
    if own not in entry["peers"]:
        return {}
    rate = statistics.median(rates(entry, own))
    return {name: rate / statistics.median(rates(entry, name)) for name in entry["peers"] if name != own}


def latency_ratios(entry: dict) -> dict[str, float]:
    """sentpool's time for one sentence as a part of each other peer's, by medians."""
    own = statistics.median(latencies(entry, "sentpool"))
    others = (name for name in entry["peers"] if name != "sentpool")
    return {name: own / statistics.median(latencies(entry, name)) for name in others}


def kernel_rates(entries: list[dict], rows: int, engine: str) -> tuple[float, float]:
    """GFLOP/s of one engine over all shapes together at a number of rows, and its share of what the peak of one core
    beside each shape allows in that time."""
    chosen = [entry for entry in entries if entry["rows"] == rows]
    gflop = sum(2e-9 * rows * entry["out"] * entry["in"] for entry in chosen)
    possible = sum(entry[engine] * max(entry["peaks"]) for entry in chosen)
    return gflop / sum(entry[engine] for entry in chosen), gflop / possible


def title(entry: dict) -> str:
    """Model and texts of a throughput entry."""
    return f"{entry['model']}, {WORKLOADS[entry['workload']]}"


def settings_text(settings: dict) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in settings.items()) or "as it comes"


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns of equal width; the first is aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def encode_tables(content: dict) -> str:
    """Throughput, latency, footprint; the ratios come last."""
    parts = [_throughput(entry, content["peers"]) for entry in content["throughput"]]
    parts += [_latency(entry) for entry in content["latency"]]
    parts.append(_footprint(content["footprint"]))
    if len(content["peers"]) > 1:
        parts.append(_ratio_tables(content))
    if content["missing"]:
        parts.append("Not here: " + "; ".join(f"{name} ({why})" for name, why in content["missing"].items()))
    return "\n\n".join(parts)


def _throughput(entry: dict, peers: dict) -> str:
    rows = [
        ("", "texts/s", "best", "spread", "GFLOP/s", "% of peak", "best", "FMA peak", "differs", "cosine", "settings")
    ]
    for name, result in entry["peers"].items():
        speeds, shares = rates(entry, name), [100 * share for share in peak_shares(entry, name)]
        median = statistics.median(speeds)
        # A unit for bfloat16 does twice the work of the float32 loop that gives the peak.
        comparable = shares and peers[name]["precision"] == "fp32"
        rows.append(
            (
                name,
                f"{median:.4g}",
                f"{max(speeds):.4g}",
                f"{(max(speeds) - min(speeds)) / median:.0%}",
                f"{entry['gflop'] * median / entry['texts']:.0f}",
                f"{statistics.median(shares):.1f}" if comparable else "-",
                f"{max(shares):.1f}" if comparable else "-",
                _range([peak for done in result["passes"] for peak in done["peaks"]]),
                f"{result['difference']:.0e}",
                f"{result['lowest_cosine']:.5f}" if "lowest_cosine" in result else "-",
                settings_text(result["settings"]),
            )
        )
    others = _others([done for result in entry["peers"].values() for done in result["passes"]])
    sizes = f"{entry['texts']} texts, {entry['tokens']} tokens, {entry['gflop']:.0f} GFLOP"
    return f"{title(entry)}: {sizes}\n{table(rows)}\n{others}"


def _others(passes: list[dict]) -> str:
    cpus = sum(done["others_cpu"] for done in passes) / sum(done["seconds"] for done in passes)
    return f"Other processes used {cpus:.2f} CPUs meanwhile."


def _latency(entry: dict) -> str:
    rows = [("", "ms", "best round", "spread", "settings")]
    for name, result in entry["peers"].items():
        times = latencies(entry, name)
        median = statistics.median(times)
        spread = f"{(max(times) - min(times)) / median:.0%}"
        rows.append((name, f"{median:.3g}", f"{min(times):.3g}", spread, settings_text(result["settings"])))
    head = f"{entry['model']}, one sentence of {entry['tokens']} tokens, FMA peak {_range(entry['peaks'])}"
    return f"{head}\n{table(rows)}\n{_others([done for p in entry['peers'].values() for done in p['rounds']])}"


def _range(peaks: list[float | None]) -> str:
    known = [peak for peak in peaks if peak]
    return f"{min(known):.0f}-{max(known):.0f}" if known else "-"


def _footprint(costs: dict) -> str:
    rows = [("", "import ms", "load ms", "peak RSS MB", "installed MB", "of packages")]
    for name, cost in costs.items():
        sizes = cost["installed_bytes"]
        rows.append(
            (
                name,
                f"{1e3 * cost['import_seconds']:.0f}",
                f"{1e3 * cost['load_seconds']:.0f}",
                f"{cost['peak_rss'] / 2**20:.0f}",
                f"{sum(sizes.values()) / 2**20:.0f}",
                str(len(sizes)),
            )
        )
    return f"Fresh processes\n{table(rows)}"


def _ratio_table(what: str, columns: dict[str, dict[str, float]], precision: dict[str, str], fastest) -> str:
    """A row per peer, a column per workload; last, what `fastest` picks among the float32 peers of each column."""
    names = [name for name in precision if any(name in column for column in columns.values())]
    rows = [("", *columns)]
    rows += [(name, *(f"{c[name]:.2f}" if name in c else "-" for c in columns.values())) for name in names]
    exact = [[ratio for name, ratio in c.items() if precision[name] == "fp32"] for c in columns.values()]
    rows.append(("fastest in float32", *(f"{fastest(some):.2f}" if some else "-" for some in exact)))
    return f"{what}\n{table(rows)}"


def _ratio_tables(content: dict) -> str:
    precision = {name: peer["precision"] for name, peer in content["peers"].items()}
    speeds = {title(entry): ratios(entry) for entry in content["throughput"]}
    times = {entry["model"]: latency_ratios(entry) for entry in content["latency"]}
    parts = [_ratio_table("sentpool in float32 is so many times as fast as", speeds, precision, min)]
    for own in ("sentpool bf16", "sentpool int8", "sentpool int8 fast"):
        low = {title(entry): ratios(entry, own) for entry in content["throughput"]}
        if any(low.values()):
            parts.append(_ratio_table(f"{own} is so many times as fast as", low, precision, min))
    if times:
        parts.append(_ratio_table("sentpool's time for one sentence, as a part of that of", times, precision, max))
    return "\n\n".join(parts)


def kernel_tables(content: dict) -> str:
    """Aggregate over the shapes per number of rows, then every shape at the largest number."""
    parts = []
    for isa, entries in content["isas"].items():
        counts = list(dict.fromkeys(entry["rows"] for entry in entries))
        rows = [("rows", "panel GFLOP/s", "% of peak", "BLIS GFLOP/s", "% of peak", "FMA peak", "panel / BLIS")]
        for count in counts:
            (panel, share), (blis, blis_share) = (kernel_rates(entries, count, name) for name in ("panel", "blis"))
            peaks = _range([peak for entry in entries if entry["rows"] == count for peak in entry["peaks"]])
            rates = (f"{number:.1f}" for number in (panel, 100 * share, blis, 100 * blis_share))
            rows.append((str(count), *rates, peaks, f"{panel / blis:.2f}"))
        shapes = [("out x in", "panel % of peak", "BLIS % of peak")]
        for entry in (entry for entry in entries if entry["rows"] == counts[-1]):
            flop = 2e-9 * entry["rows"] * entry["out"] * entry["in"]
            shares = (100 * flop / entry[name] / max(entry["peaks"]) for name in ("panel", "blis"))
            shapes.append((f"{entry['model']} {entry['out']} x {entry['in']}", *(f"{share:.1f}" for share in shares)))
        parts.append(f"{isa}, one core, all shapes together\n{table(rows)}")
        parts.append(f"{isa}, {counts[-1]} rows\n{table(shapes)}")
    return "\n\n".join(parts)


def scaling_tables(content: dict) -> str:
    """Flatness, memory, threads, callers."""
    flat = [("texts", "us/text median", "best", "% of peak")]
    for entry in content["flatness"]:
        times = [1e6 * done["seconds"] / entry["texts"] for done in entry["passes"]]
        share = 100 * statistics.median(_shares(entry["gflop"], entry["passes"]))
        flat.append((str(entry["texts"]), f"{statistics.median(times):.0f}", f"{min(times):.0f}", f"{share:.1f}"))

    memory = content["memory"]
    parts = ("interpreter_and_texts", "model_loaded", "peak_loading", "peak", "model_file", "result")
    held = [("", "MB"), *((name.replace("_", " "), f"{memory[name] / 2**20:.1f}") for name in parts)]
    rest = memory["peak"] - memory["model_file"] - memory["result"]
    held.append(("peak - model file - result", f"{rest / 2**20:.1f}"))

    threads = [("threads", "texts/s median", "% of peak", "one sentence, ms")]
    for entry in content["thread_counts"]:
        seconds = statistics.median(done["seconds"] for done in entry["passes"])
        share = 100 * statistics.median(_shares(entry["gflop"], entry["passes"]))
        latency = 1e3 * statistics.median(entry["latency"])
        threads.append((str(entry["threads"]), f"{entry['texts'] / seconds:.4g}", f"{share:.1f}", f"{latency:.3g}"))

    callers = [("Python threads at once", "texts/s together, median", "best")]
    for entry in content["callers"]:
        speeds = [entry["texts"] / seconds for seconds in entry["seconds"]]
        callers.append((str(entry["callers"]), f"{statistics.median(speeds):.4g}", f"{max(speeds):.4g}"))
    titles = (f"{content['model']}, time per sentence", f"Memory, {memory['texts']} texts", "Threads", "Callers")
    return "\n\n".join(
        f"{title}\n{table(rows)}" for title, rows in zip(titles, (flat, held, threads, callers), strict=True)
    )
