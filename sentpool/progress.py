"""Progress bars: where somebody looks, and the work is long enough to ask how far it is."""

from __future__ import annotations

import sys

_AFTER_SECONDS = 2.0


def progress_bar(total: int, description: str, unit: str, show: bool | None = None):
    """A tqdm bar, or None where there shall be none.

    Parameters
    ----------
    total : int
        How many `unit` there are.
    description, unit : str
    show : bool, optional
        None: in a terminal or notebook, and not before the work has taken two seconds.
    """
    if sys.stderr is None or show is False or (show is None and not _somebody_looks()):
        return None
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=description, unit=f" {unit}", delay=_AFTER_SECONDS if show is None else 0)


def _somebody_looks() -> bool:
    return "ipykernel" in sys.modules or getattr(sys.stderr, "isatty", bool)()
