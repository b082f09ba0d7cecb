"""Teams of threads: every output of every step is computed once, and nobody waits for a rank that is not running."""

from __future__ import annotations

import numpy as np
import pytest

_kernels = pytest.importorskip("sentpool._kernels", reason="built only for tests")

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("count", "grain"), [(1, 1), (2, 1), (7, 3), (64, 1), (1000, 4), (5, 100)])
def test_every_output_is_computed_once_after_the_step_before(threads, count, grain):
    for _ in range(20):
        np.testing.assert_array_equal(_kernels.steps(threads, 30, count, grain, threads), 1)


@pytest.mark.parametrize("threads", [2, 4])
def test_ranks_that_come_when_all_is_done_are_not_waited_for(threads):
    np.testing.assert_array_equal(_kernels.steps(threads, 50, 12, 1, 1), 1)


def test_steps_without_outputs_stop_nobody():
    assert _kernels.steps(4, 10, 0, 1, 4).shape == (10, 0)
