"""Checkpoints and the log: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest

from sentpool.errors import SentpoolWarning
from sentpool.training import History, checkpoint
from sentpool.training.checkpoint import Checkpoint, has_checkpoints, read_newest, remove_leftovers, write_checkpoint


def some(step: int) -> Checkpoint:
    rng = np.random.default_rng(step)
    arrays = {"encoder": rng.normal(size=100).astype(np.float32), "moments": rng.normal(size=7).astype(np.float32)}
    return Checkpoint(step, arrays, {"seed": 3, "loss": [0.1, 1e-300]})


def assert_same(one: Checkpoint, other: Checkpoint):
    assert (one.step, one.state) == (other.step, other.state)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.tobytes() == other.arrays[name].tobytes()


def test_the_newest_comes_back_and_the_one_before_is_kept(tmp_path):
    assert not has_checkpoints(tmp_path) and read_newest(tmp_path) is None
    for step in (5, 10, 100_000_000, 100_000_005):
        write_checkpoint(tmp_path, some(step))
        assert_same(read_newest(tmp_path), some(step))
    assert has_checkpoints(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["step-100000000", "step-100000005"]
    write_checkpoint(tmp_path, some(100_000_005)._replace(state={}))
    assert read_newest(tmp_path).state == {}


def damage_array(place):
    path = place / "arrays.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_array, "not the file that the manifest names"),
        (lambda place: (place / "manifest.json").write_text("{"), "Expecting"),
        (lambda place: (place / "manifest.json").write_text("{}"), "no manifest of a checkpoint"),
        (lambda place: (place / "manifest.json").unlink(), "manifest.json"),
        (lambda place: (place / "arrays.safetensors").unlink(), "arrays.safetensors"),
        (lambda place: os.truncate(place / "arrays.safetensors", 40), "not the file"),
    ],
)
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path, damage, said):
    for step in (1, 2):
        write_checkpoint(tmp_path, some(step))
    damage(tmp_path / "step-00000002")
    with pytest.warns(SentpoolWarning, match=said):
        assert_same(read_newest(tmp_path), some(1))
    damage(tmp_path / "step-00000001")
    with pytest.raises(ValueError, match=f"no checkpoint is whole: .*{said}.*remove"):
        read_newest(tmp_path)


def test_a_later_format_is_refused(tmp_path):
    place = write_checkpoint(tmp_path, some(1))
    manifest = json.loads((place / "manifest.json").read_text()) | {"format": "sentpool.checkpoint.2"}
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"format is 'sentpool.checkpoint.2'; this version reads"):
        read_newest(tmp_path)


def test_failing_to_write_leaves_the_old_ones(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, some(1))

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(tmp_path, some(2))
    assert os.listdir(tmp_path) == ["step-00000001"]


def test_what_a_kill_left_behind_is_removed(tmp_path):
    place = write_checkpoint(tmp_path, some(1))
    for name in (".step-00000002.0123abcd.tmp", ".best.0123abcd.tmp", ".last.0123abcd.old"):
        shutil.copytree(place, tmp_path / name)
    (tmp_path / "notes").mkdir()
    assert_same(read_newest(tmp_path), some(1))
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["notes", "step-00000001"]
    remove_leftovers(tmp_path / "not there")


# ---- the log --------------------------------------------------------------------------------------------------------


def history() -> History:
    log = [{"step": k, "loss": 1 / k, "learning_rate": 1e-5} for k in range(1, 101)]
    log[4]["loss"] = math.nan
    scores = [0.5, 0.7, 0.7, 0.6]
    evaluations = [
        {"step": 25 * k, "score": score, "alignment": 0.3 - score / 10, "uniformity": -2 - score}
        for k, score in enumerate(scores)
    ]
    for row in evaluations:
        row["layer_weights"] = [0.2, 0.3, 0.5]
    return History(log, evaluations, {"seed": 1})


def test_history_comes_back(tmp_path):
    one = history()
    one.save(tmp_path / "log.jsonl")
    other = History.load(tmp_path / "log.jsonl")
    assert repr(other.log) == repr(one.log)  # nan included
    assert other.evaluations == one.evaluations and other.settings == one.settings
    assert one.best["step"] == 25
    assert "100 steps" in repr(one) and "best score 0.7000 at step 25" in repr(one)
    part = one.until(25)
    assert len(part.log) == 25 and [row["step"] for row in part.evaluations] == [0, 25]
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_log_that_was_cut_short_loses_its_last_line(tmp_path):
    history().save(tmp_path / "log.jsonl")
    content = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(content[:-20])
    assert len(History.load(tmp_path / "log.jsonl").log) == 99
    (tmp_path / "log.jsonl").write_bytes(content[:50] + content[60:])
    with pytest.raises(ValueError, match=r"log.jsonl:\d+: no line of a training log"):
        History.load(tmp_path / "log.jsonl")


@pytest.mark.parametrize("rest", [b"\0" * 400, b"\0" * 400 + b"\n", b'{"step"\n{"step": 3}\n', b"\xff\n"])
def test_what_a_power_cut_leaves_behind_the_last_checkpoint_is_not_looked_at(tmp_path, rest):
    path = tmp_path / "log.jsonl"
    history().until(25).save(path)
    path.write_bytes(path.read_bytes() + rest)
    one = History.load(path, until=25)
    assert repr(one.log) == repr(history().until(25).log) and one.evaluations == history().until(25).evaluations
    assert len(History.load(path, until=10).log) == 10
    if rest.endswith(b"\n"):
        for until in (None, 26):
            with pytest.raises(ValueError, match=r"log.jsonl:\d+: no line of a training log"):
                History.load(path, until=until)


def test_empty_history():
    assert repr(History()) == "History(no steps)" and History().best is None


def test_plots_show_what_is_there():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from sentpool import plotting

    one = history()
    lines = one.plot_loss().lines
    np.testing.assert_array_equal(lines[0].get_xdata(), range(1, 101))
    # the running mean of five steps, computed anew
    np.testing.assert_allclose(lines[1].get_ydata()[50], np.mean([1 / k for k in range(51, 56)]))
    np.testing.assert_allclose(one.plot_scores().lines[0].get_ydata(), [50, 70, 70, 60])
    np.testing.assert_allclose(one.plot_space().lines[0].get_xdata(), [-2.5, -2.7, -2.7, -2.6])
    assert [line.get_label() for line in one.plot_layer_weights().lines] == ["layer 0", "layer 1", "layer 2"]
    assert len(plotting.training_figure(one).axes) == 5  # four panels and a colour bar
    assert len(plotting.training_figure(History(one.log)).axes) == 1
    for plot in (History().plot_loss, History().plot_scores, History(one.log).plot_layer_weights):
        with pytest.raises(ValueError, match="the history has no"):
            plot()
    pyplot.close("all")
