"""Colours and marks that are told apart without seeing colour."""

from __future__ import annotations

from itertools import cycle

# The qualitative set of Okabe & Ito 2008, without yellow, which is too light for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
# Perceptually uniform, and the same to every kind of colour vision.
GRADIENT = "cividis"


def series():
    """Colour and mark of one series after another."""
    return zip(cycle(COLOURS), cycle(MARKS), strict=False)
