"""The probe's one pass: each sentence once, few that wait, memory that does not grow with their length."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from fabricate import bert_folder
from probe_cases import attention, new_model, write_data

from sentpool import SentenceEncoder, evaluation
from sentpool.evaluation import probed_poolings
from sentpool.evaluation.pair_stream import PairStream
from sentpool.evaluation.similarity_data import Pairs, Task, read_tasks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "mine")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return new_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(probed_poolings, "_MOST_SENTENCES", 5)
    monkeypatch.setattr(probed_poolings, "_FEWEST_SENTENCES", 1)


def counting(model):
    """Let the model's core record how many sentences each call has."""

    class Core:
        def __init__(self, core):
            self.core, self.calls = core, []

        def layer_states(self, ids, offsets, *rest, **options):
            self.calls.append(len(offsets) - 1)
            return self.core.layer_states(ids, offsets, *rest, **options)

    model._core = Core(model._core)
    return model._core.calls


def test_each_distinct_sentence_goes_through_the_encoder_once(model, data, small_blocks):
    model = SentenceEncoder(model.folder.path)
    calls = counting(model)
    result = evaluation.probe(model, data, [attention(), "top2"])
    assert sum(calls) == result.encoding["sentences"] == len(read_tasks(data).distinct_sentences())
    assert max(calls) == 5


def random_tasks(seed, sentences=80, pairs=150):
    rng = np.random.default_rng(seed)
    names = [f"s{k}" for k in range(sentences)]
    tasks = []
    for name in ("a", "b"):
        subsets = []
        for part in range(2):
            chosen = rng.integers(0, sentences, (2, pairs // 4))
            first, second = ([names[k] for k in half] for half in chosen)
            subsets.append(Pairs(str(part), first, second, rng.uniform(0, 5, pairs // 4)))
        tasks.append(Task(name, tuple(subsets), {}))
    return tasks


@pytest.mark.parametrize("seed", range(10))
def test_the_stream_holds_every_pair_once_and_in_order(seed):
    tasks = random_tasks(seed)
    stream = PairStream.of(tasks)
    lines = {
        (task.name, k): list(zip(part.first, part.second, strict=True))
        for task in tasks
        for k, part in enumerate(task.subsets)
    }
    distinct = {frozenset(pair) for part in lines.values() for pair in part}
    ends = list(zip(stream.earlier.tolist(), stream.later.tolist(), strict=True))
    assert sorted(stream.sentences) == sorted({text for pair in distinct for text in pair})
    assert len(ends) == len(distinct)
    assert {frozenset(stream.sentences[k] for k in pair) for pair in ends} == distinct
    assert all(earlier <= later for earlier, later in ends)
    assert stream.later.tolist() == sorted(stream.later)
    for number in range(len(stream.sentences)):
        assert stream.needed_until[number] == max(later for earlier, later in ends if number in (earlier, later))
    for (task, k), part in lines.items():
        found = [frozenset(stream.sentences[end] for end in ends[place]) for place in stream.places[task][k]]
        assert found == [frozenset(pair) for pair in part]


def most_waiting(stream):
    """The most sentences that wait for a partner at any time."""
    numbers = np.arange(len(stream.sentences))
    return max(int(((numbers < now) & (stream.needed_until >= now)).sum()) for now in numbers)


def test_few_sentences_wait_where_pairs_are_scattered():
    # 200 groups of four sentences, all paired with each other; the six pairs of a group are far apart.
    rng = np.random.default_rng(0)
    pairs = [(f"{g} {a}", f"{g} {b}") for g in range(200) for a in range(4) for b in range(a)]
    rng.shuffle(pairs)
    part = Pairs("", [a for a, _ in pairs], [b for _, b in pairs], np.zeros(len(pairs)))
    assert most_waiting(PairStream.of([Task("t", (part,), {})])) == 3


def test_real_data_let_few_sentences_wait(data_dir):
    stream = PairStream.of(read_tasks(data_dir / "sts").tasks.values())
    assert len(stream.sentences) == 27868
    assert most_waiting(stream) < 200


MEASURE = """
import os, resource, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
import sentpool
from sentpool import evaluation
model = sentpool.SentenceEncoder(sys.argv[1])
words = ["cat", "dog", "mat", "big", "small", "happy", "sat"]

def texts(n_tokens, count):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, n_tokens - 2)) for _ in range(count)]

def write(name, sentences):
    os.makedirs(name)
    with open(f"{name}/pairs.tsv", "w") as file:
        for k, (a, b) in enumerate(zip(sentences[::2], sentences[1::2])):
            file.write(f"{k % 5}\\t{a}\\t{b}\\n")

def peak(work):
    # A child's peak begins at what the parent holds, so the child grows by what the work needs.
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0, status
    return usage.ru_maxrss * 1024

os.chdir(sys.argv[2])
short, long = texts(16, 64), texts(256, 64)
write("short", short), write("long", long), write("warm", short[:4])
evaluation.probe(model, "warm", threads=2)
model.layer_states(short[:4], threads=2)
print(peak(lambda: None))
for sentences, name in ((short, "short"), (long, "long")):
    print(peak(lambda: model.layer_states(sentences, threads=2)))
    print(peak(lambda: evaluation.probe(model, name, threads=2)))
print(peak(lambda: model.hidden_states(long[0], threads=2)))
"""


def test_peak_memory_does_not_depend_on_the_length_of_sentences(tmp_path):
    """From 16 to 256 tokens the peak grows by less than one sentence's states of all layers and tokens would take."""
    # Many narrow layers: their states are large, the work and the scratch of a chunk are not.
    sizes = {"num_hidden_layers": 100, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}
    model = bert_folder(tmp_path / "model", max_position_embeddings=260, **sizes)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(model), str(tmp_path)],
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stderr
    base, short_states, short_probe, long_states, long_probe, one_block = (int(n) for n in run.stdout.split())
    block = 101 * 256 * 64 * 4
    assert one_block - base > 0.9 * block  # the measure sees such a block
    assert long_states - short_states < block / 2
    assert long_probe - short_probe < block / 2
    # What the probe holds at its peak: a block's states, once, and each pooling's vectors in turn.
    states = 64 * 101 * 6 * 64 * 4
    assert short_probe - base < 2 * states + (16 << 20)
