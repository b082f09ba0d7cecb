"""``sentpool info``: what a model is, and how it would run here; exit status 1 if it would not."""

from __future__ import annotations

import argparse

from sentpool.commands.options import add_model

PURPOSE = "say what a model is, how it would run here, or why it does not open"
EXAMPLE = "sentpool info all-MiniLM-L6-v2/"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)
    verb.add_argument("--json", action="store_true", help="as a JSON object, without what computes here")


def run(options: argparse.Namespace) -> None:
    import sentpool
    from sentpool.model_info import inspect_model

    # Loads the core, which may fail: before anything is printed, and after NumPy, whose import from C would turn Ctrl-C
    # into a traceback.
    show_config = sentpool.show_config
    info = inspect_model(options.model)
    print(info.to_json() if options.json else info)
    if info.problems:
        raise sentpool.ModelFolderError(info.problems[0])
    if not options.json:
        print()
        show_config()
