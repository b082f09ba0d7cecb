"""All benchmarks, one after the other, into one file of results, then the plots: what `make bench` runs."""

from __future__ import annotations

import subprocess

import bench_encode
import bench_kernels
import bench_scaling
import machine
import report
import results
from settings import HERE, Settings, read_settings


def main() -> None:
    settings = read_settings(__doc__)
    if warning := machine.idle_warning():
        results.say(warning)
    sections = {
        "kernels": (bench_kernels.run, report.kernel_tables),
        "scaling": (bench_scaling.run, report.scaling_tables),
        "encode": (bench_encode.run, report.encode_tables),
    }
    for section, (run, tables) in sections.items():
        content = run(settings)
        results.record(settings, section, content)
        print(f"\n{tables(content)}\n")
    print(f"saved: {results.path_of(settings)}")
    draw(settings)


def draw(settings: Settings) -> None:
    """The plots, by the interpreter that has matplotlib."""
    if not settings.python.exists():
        return
    command = [settings.python, HERE / "plot_results.py", results.path_of(settings)]
    if settings.quick and not settings.name:
        command += ["--folder", settings.cache]
    subprocess.run(command, check=False)


if __name__ == "__main__":
    main()
