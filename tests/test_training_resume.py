"""Runs that were killed or interrupted, and go on to the bits of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
from fabricate import bert_folder
from training_runs import TEXTS, bits, quiet, trained

from sentpool import SentenceEncoder, Trainer
from sentpool.errors import SentpoolWarning
from sentpool.objectives import InfoNCE
from sentpool.training import History

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("model"))


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from training_runs import TEXTS, bits, trained
model, history = trained(sys.argv[2], TEXTS, output_dir=sys.argv[3], resume=True, save_steps=3, max_steps=30,
                         pooling="folder's", eval_data=[(TEXTS[k], TEXTS[k + 1], k) for k in range(20)], eval_steps=5)
assert [row["step"] for row in history.log] == list(range(1, 31)), history.log
assert [row["step"] for row in history.evaluations] == list(range(0, 31, 5)), history.evaluations
print(bits(model))
"""


def child(folder, output):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(HERE), str(folder), str(output)], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(folder, tmp_path, kills):
    process = child(folder, tmp_path / "whole")
    began = time.perf_counter()
    expected = process.communicate()[0]
    assert process.returncode == 0
    whole = time.perf_counter() - began
    rng = random.Random(kills)
    for _ in range(kills):
        process = child(folder, tmp_path / "killed")
        time.sleep(rng.uniform(0.4, 1.0) * whole)
        process.kill()
        process.communicate()
    process = child(folder, tmp_path / "killed")
    assert process.communicate()[0] == expected and process.returncode == 0
    assert History.load(tmp_path / "killed" / "log.jsonl").best == History.load(tmp_path / "whole" / "log.jsonl").best
    for name in ("best", "last"):
        one, other = (SentenceEncoder(tmp_path / run / name).encode(TEXTS) for run in ("whole", "killed"))
        np.testing.assert_array_equal(one, other)
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(folder, tmp_path):
    expected = bits(trained(folder, max_steps=12)[0])

    def interrupt(model, row):
        if row["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(folder, max_steps=12, output_dir=tmp_path, callbacks=[interrupt])
    assert os.listdir(tmp_path / "checkpoints") == ["step-00000005"]
    model, history = trained(folder, max_steps=12, output_dir=tmp_path, resume=True)
    assert bits(model) == expected
    assert [row["step"] for row in history.log] == list(range(1, 13))


def test_an_evaluation_that_was_broken_off_is_made_up_for(folder, tmp_path):
    scores = {0: 0.1, 2: 0.2, 4: 0.9, 6: 0.3}
    steps = iter(scores)

    def score(model, fail_at=None):
        step = next(steps)
        if step == fail_at:
            raise KeyboardInterrupt
        return scores[step]

    with pytest.raises(KeyboardInterrupt):
        trained(folder, output_dir=tmp_path, eval_data=lambda model: score(model, 4), eval_steps=2)
    steps = iter([4, 6])
    _, history = trained(folder, output_dir=tmp_path, eval_data=score, eval_steps=2, resume=True)
    assert [(row["step"], row["score"]) for row in history.evaluations] == list(scores.items())
    assert history.best["step"] == 4


def test_ctrl_c_at_any_moment_leaves_whole_steps(folder, tmp_path):
    """Whenever it comes, the model has the weights of a whole number of steps."""
    states = {}

    def note(model, row):
        states[row["step"]] = bits(model)

    trained(folder, max_steps=25, callbacks=[note])
    initial = bits(SentenceEncoder(folder, pooling="mean"))
    for delay in np.linspace(0.001, 0.15, 12):
        model = SentenceEncoder(folder, pooling="mean")
        with quiet():
            trainer = Trainer(model, batch_size=8, max_steps=25, learning_rate=1e-3)
        timer = threading.Timer(delay, signal.raise_signal, (signal.SIGINT,))
        with suppress(KeyboardInterrupt):
            timer.start()
            trainer.fit(TEXTS)
            timer.join()
        assert bits(model) in {initial, *states.values()}, delay


def test_resume_starts_afresh_where_nothing_is(folder, tmp_path):
    one, _ = trained(folder, output_dir=tmp_path, resume=True)
    two, _ = trained(folder)
    assert bits(one) == bits(two)
    with pytest.raises(FileExistsError, match="has checkpoints of a run: fit.*resume=True.* another output_dir"):
        trained(folder, output_dir=tmp_path)
    again, history = trained(folder, output_dir=tmp_path, resume=True)  # nothing is left to do
    assert bits(again) == bits(two) and len(history.log) == 6
    with pytest.raises(ValueError, match="there is no output_dir"):
        trained(folder, resume=True)


def test_a_damaged_log_keeps_no_run_from_going_on(folder, tmp_path):
    expected = bits(trained(folder, output_dir=tmp_path / "whole", save_steps=2)[0])
    for name in ("behind", "before"):
        run = shutil.copytree(tmp_path / "whole", tmp_path / name)
        shutil.rmtree(run / "checkpoints" / "step-00000006")
        (run / ".best.0123abcd.tmp").mkdir()
        log = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
        broken = [*log[:5], bytes(200) + b"\n"] if name == "behind" else [*log[:3], b"{\n", *log[4:]]
        (run / "log.jsonl").write_bytes(b"".join(broken))
        with nullcontext() if name == "behind" else pytest.warns(SentpoolWarning, match="the log of .* is lost"):
            model, history = trained(folder, output_dir=run, save_steps=2, resume=True)
        assert bits(model) == expected
        assert [row["step"] for row in history.log] == ([1, 2, 3, 4, 5, 6] if name == "behind" else [5, 6])
        assert not list(run.glob(".*"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is 0.002"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"objective": InfoNCE(0.1)}, "objective was .*temperature=0.05"),
        ({"data": TEXTS[1:]}, "other data than TrainingData.59 texts"),
        ({"pooling": "layers=[1]"}, "pooling was"),
    ],
)
def test_a_run_goes_on_only_as_it_began(folder, tmp_path, changes, said):
    trained(folder, output_dir=tmp_path)
    with pytest.raises(ValueError, match=f"cannot be resumed: .*{said}"):
        trained(folder, output_dir=tmp_path, resume=True, **changes)
    trained(folder, output_dir=tmp_path, resume=True, threads=1, chunk_size=4, save_steps=1)
