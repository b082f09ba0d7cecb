"""``sentpool info``: what a model is, and how it would run here."""

from __future__ import annotations

import argparse

from sentpool.commands.options import add_model

PURPOSE = "say what a model is and how it would run here"
EXAMPLE = "sentpool info all-MiniLM-L6-v2/"


def arguments(verb: argparse.ArgumentParser) -> None:
    add_model(verb)


def run(options: argparse.Namespace) -> None:
    import sentpool
    from sentpool.model_info import describe

    # Loads the core, which may fail: before anything is printed, and after NumPy, whose import from C would turn Ctrl-C
    # into a traceback.
    show_config = sentpool.show_config
    print(describe(options.model))
    print()
    show_config()
