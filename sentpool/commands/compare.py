"""``sentpool compare``: whether two saved results differ by more than chance, and why."""

from __future__ import annotations

import argparse

from sentpool.commands.options import add_json, check_result_files, positive, save_result

PURPOSE = "say whether two saved results differ by more than chance, and why"
EXAMPLE = "sentpool compare minilm.json bert.json --aggregation wmean --json comparison.json"


def arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("a", metavar="A.json", help="a result that sts, probe, transfer or retrieval saved")
    verb.add_argument("b", metavar="B.json", help="another one of the same kind; gaps are A - B")
    verb.add_argument("--aggregation", choices=("all", "mean", "wmean"), default="all", help="default: %(default)s")
    verb.add_argument("--coefficient", choices=("spearman", "pearson"), default="spearman", help="default: %(default)s")
    verb.add_argument("--resamples", metavar="N", type=positive, default=1000, help="default: %(default)s")
    add_json(verb)


def run(options: argparse.Namespace) -> None:
    from sentpool import evaluation

    check_result_files(options)
    result = evaluation.compare(
        options.a,
        options.b,
        aggregation=options.aggregation,
        coefficient=options.coefficient,
        resamples=options.resamples,
    )
    print(result)
    save_result(options, result)
