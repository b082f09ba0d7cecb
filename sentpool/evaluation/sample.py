"""The sentence pairs that come with sentpool, to try it without data.

200 pairs in four subsets (captions, headlines, instructions, questions), written for this project; every band
of one point holds 40 of them. The scale is that of the STS tasks:

====  ==========================================================================================
5     the same meaning
4     the same but for details that hardly matter
3     much in common, and something important differs or is missing: a number, a place, a purpose
2     shared details, another statement: negated, reversed, swapped roles
1     the same subject only
0     nothing in common, though words may be
====  ==========================================================================================

They were judged by their authors and by nobody else: good to see that an installation works and roughly how a
model behaves, no benchmark.
"""

from __future__ import annotations

from pathlib import Path


def sample_folder() -> Path:
    """Where the bundled pairs are; ``evaluation.sts`` reads the folder as the task ``sample``.

    Each ``*.tsv`` file is a subset, each line a score from 0 to 5 and two sentences, separated by tabs.
    """
    return Path(__file__).resolve().parent.parent / "sample"
