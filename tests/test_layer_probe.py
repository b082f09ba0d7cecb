"""The probe: numbers equal to those of evaluation.sts, one pass, bounded memory; what it shows and refuses."""

from __future__ import annotations

import html.parser
import json
import math
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from fabricate import bert_folder, edit_json, sentence_transformers_folder

from sentpool import SentenceEncoder, SentpoolWarning, cli, evaluation, pooling
from sentpool.evaluation import ProbeResult, probed_poolings
from sentpool.evaluation.pair_stream import PairStream
from sentpool.evaluation.report import STANDARD_SEVEN
from sentpool.evaluation.similarity_data import Pairs, Task, read_tasks
from sentpool.pooling import Dense, LayerAttention, Layers, Normalize, Pooling, ScalarMix, WeightedLayer

L, H = 3, 24
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "big", "small", "runs", "happy", "!", "b", "c", "unhappy"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def attention(seed=0):
    layers = LayerAttention(*(normal(H, H, seed=seed + s) for s in range(3)))
    return Pooling(layers, head=(Dense(normal(H, 2 * H, seed=9), normal(H), "tanh"),))


class Sharpened:
    """A pooling of a user's own."""

    tokens = ("mean", "last_token")

    def forward(self, states):
        return (states[:, -1, 0] * 2.0 + states[:, 0, 1].astype(np.float64))[:, :10]


def write_data(folder, seed=0):
    """Three subsets whose pairs share sentences, within a subset and across; some turned round, some twice."""
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(70)]
    pairs = [tuple(rng.choice(sentences, 2)) for _ in range(90)]
    pairs += [(b, a) for a, b in pairs[:7]] + pairs[20:25] + [(sentences[3], sentences[3])]
    order = rng.permutation(len(pairs))
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("one", order[:50]), ("two", order[50:80]), ("three", order[80:])):
        lines = "".join(f"{rng.uniform(0, 5):.1f}\t{pairs[k][0]}\t{pairs[k][1]}\n" for k in part)
        (folder / f"{name}.tsv").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "mine")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = sentence_transformers_folder(
        tmp_path_factory.mktemp("model"), head=("Normalize",), num_hidden_layers=L, hidden_size=H
    )
    return SentenceEncoder(folder)


@pytest.fixture(scope="module")
def result(model, data):
    return evaluation.probe(model, data, {"ours": attention()})


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(probed_poolings, "_MOST_SENTENCES", 5)
    monkeypatch.setattr(probed_poolings, "_FEWEST_SENTENCES", 1)


def sts(model, folder, chosen, tasks=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SentpoolWarning)  # constant cosines, as of [CLS] before the first layer
        return evaluation.sts(model, folder, tasks, pooling=chosen)


def assert_rows_are_those_of_sts(model, folder, result, poolings, tasks=None):
    """Each row to the last bit; `poolings` says what encode is told for which (tokens, layers)."""
    rows = {(row["tokens"], row["layers"], row["task"], row["aggregation"]): row for row in result.rows}
    assert len(rows) == len(result.rows)
    for (tokens, layers), chosen in poolings.items():
        for task, scores in sts(model, folder, chosen, tasks).items():
            for aggregation in ("all", "mean", "wmean"):
                row = rows.pop((tokens, layers, task, aggregation))
                assert row["pairs"] == scores.n
                for coefficient in ("spearman", "pearson"):
                    expected = getattr(getattr(scores, coefficient), aggregation)
                    found = row[coefficient]
                    assert found == expected or math.isnan(found) and math.isnan(expected), (tokens, layers, task)
    return rows


def every_single_layer(tokens=pooling.TOKEN_POOLINGS, layers=range(L + 1)):
    return {(token, layer): Pooling(Layers([layer], token)) for token in tokens for layer in layers}


AVERAGES = {"first_last": [1, -1], "embedding_last": [0, -1], "top2": [-2, -1], "all_layers": "all"}


def every_average(tokens=pooling.TOKEN_POOLINGS):
    return {(token, name): Pooling(Layers(layers, token)) for token in tokens for name, layers in AVERAGES.items()}


GIVEN = {
    ("mean", "scalar mix"): ScalarMix(normal(L + 1), gamma=1.7),
    ("mean+last_token", "weighted"): WeightedLayer([1.0, 0.5], layer_start=2, tokens=("mean", "last_token")),
    ("cls+mean", "attention"): attention(),
    ("mean+last_token", "own"): Sharpened(),
    ("max", "unit"): Pooling("max", head=(Normalize(),)),
    ("cls+max", "both"): ("cls", "max"),
}


# ---- numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.bits
@pytest.mark.parametrize("folder", ["plain", "truncated", "with a prompt", "without its prompt"])
def test_every_row_equals_sts(folder, tmp_path, data, small_blocks):
    path = tmp_path / "model"
    if folder == "plain":
        bert_folder(path, num_hidden_layers=L, hidden_size=H)
    else:
        modes = {"word_embedding_dimension": H, "pooling_mode_mean_tokens": True}
        modes |= {"include_prompt": False} if folder == "without its prompt" else {}
        sentence_transformers_folder(
            path, pooling=modes, head=("Normalize",), num_hidden_layers=L, hidden_size=H, prompts={"q": "the big "}
        )
    if folder == "truncated":
        edit_json(path / "config_sentence_transformers.json", truncate_dim=17)
    elif "prompt" in folder:
        edit_json(path / "config_sentence_transformers.json", default_prompt_name="q")
    model = SentenceEncoder(path)
    result = evaluation.probe(model, data, {name: given for (_, name), given in GIVEN.items()}, batch_size=3)
    own = {("mean", "model"): None}
    expected = every_single_layer() | every_average() | own | GIVEN
    assert not assert_rows_are_those_of_sts(model, data, result, expected)
    assert result.encoding["encoded_again_for"] == (["model"] if folder == "without its prompt" else [])


def test_single_layers_against_numpy_and_scipy(model, data, result):
    stats = pytest.importorskip("scipy.stats")
    task = read_tasks(data).tasks["mine"]
    for tokens in ("mean", "max"):
        vectors = [
            {
                half: model.layer_states(getattr(part, half), tokens).array[:, :, 0].astype(np.float64)
                for half in ("first", "second")
            }
            for part in task.subsets
        ]
        layers, tasks, found = result.layer_scores(tokens, "mean")
        assert (layers, tasks) == (tuple(range(L + 1)), ("mine",))
        for layer in layers:
            parts = []
            for part, both in zip(task.subsets, vectors, strict=True):
                a, b = both["first"][:, layer], both["second"][:, layer]
                cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                # Pairs of one sentence have a cosine of exactly 1; here it is 1 but for rounding.
                parts.append(stats.spearmanr(cosines.round(12), part.gold).statistic)
            assert found[layer, 0] == pytest.approx(np.mean(parts), abs=1e-9)


def test_the_embedding_output_of_cls_is_the_same_for_all(result):
    assert np.isnan(result.layer_scores("cls")[2][0, 0])
    assert math.isnan(result.best(None)[-1]["average"])


@pytest.mark.bits
def test_threads_and_batches_leave_the_bits_alone(model, data, result, monkeypatch):
    for threads, batch_size, most in ((1, 1, 64), (2, 7, 3), (3, 512, 1)):
        monkeypatch.setattr(probed_poolings, "_MOST_SENTENCES", most)
        monkeypatch.setattr(probed_poolings, "_FEWEST_SENTENCES", 1)
        again = evaluation.probe(model, data, {"ours": attention()}, threads=threads, batch_size=batch_size)
        assert json.dumps(again.rows) == json.dumps(result.rows)
        assert again.layer_weights == result.layer_weights


def test_a_choice_of_layers_and_tokens(model, data):
    result = evaluation.probe(model, data, "layers=[0, 2]", [1, -1, 3], tokens=("max", "cls", "max"))
    assert {(row["tokens"], row["layers"]) for row in result.rows} == {
        *((token, layer) for token in ("max", "cls") for layer in (1, 3)),
        *((token, name) for token in ("max", "cls") for name in AVERAGES),
        ("mean", "model"),
        ("mean", "layers=[0, 2]"),
    }
    expected = every_single_layer(("max", "cls"), (1, 3)) | every_average(("max", "cls")) | {("mean", "model"): None}
    assert_rows_are_those_of_sts(model, data, result, expected | {("mean", "layers=[0, 2]"): "layers=[0, 2]"})
    one = evaluation.probe(model, data, layers=2, tokens="mean")
    assert {row["layers"] for row in one.rows if isinstance(row["layers"], int)} == {2}


def test_names_of_poolings(model, data):
    given = [
        attention(),
        attention(5),
        "first_last",
        Sharpened(),
        Pooling(Sharpened(), head=(Normalize(),)),
        attention(),
    ]
    result = evaluation.probe(model, data, given, layers=0, tokens="mean")
    names = dict.fromkeys(row["layers"] for row in result.rows)
    assert list(names)[6:] == [str(attention()), f"{attention()} (2)", "Sharpened", "Sharpened, normalize"]
    assert set(result.layer_weights) == {str(attention()), f"{attention()} (2)"}


def test_the_own_pooling_of_a_folder_that_was_replaced(model, data):
    other = SentenceEncoder(model.folder.path, pooling=attention())
    result = evaluation.probe(other, data, layers=0, tokens="mean")
    assert_rows_are_those_of_sts(model, data, result, {("cls+mean", "model"): attention()})
    assert list(result.layer_weights) == ["model"]


def test_what_needs_every_token_is_computed_by_a_pass_of_its_own(model, data, small_blocks):
    result = evaluation.probe(model, data, ["sbert_wk", "top2"], tokens="mean")
    assert_rows_are_those_of_sts(model, data, result, {("every token", "sbert_wk"): "sbert_wk"})
    assert result.encoding["encoded_again_for"] == ["sbert_wk"]
    assert "encoded once more for: sbert_wk" in repr(result)


def test_layer_weights_are_the_models(model, data, result, small_blocks):
    again = evaluation.probe(model, data, {"ours": attention()})
    assert again.layer_weights == result.layer_weights
    (by_task,) = result.layer_weights.values()
    sentences = list(read_tasks(data).distinct_sentences())
    weights = model.layer_weights(sentences, pooling=attention()).astype(np.float64)
    assert by_task["mine"]["sentences"] == len(sentences)
    np.testing.assert_allclose(by_task["mine"]["mean"], weights.mean(0), rtol=1e-12)
    np.testing.assert_allclose(by_task["mine"]["sd"], weights.std(0), rtol=1e-9)


def test_layer_weights_without_the_prompt(tmp_path, data, small_blocks):
    path = sentence_transformers_folder(
        tmp_path / "model", num_hidden_layers=L, hidden_size=H, prompts={"q": "the big "}
    )
    edit_json(path / "config_sentence_transformers.json", default_prompt_name="q")
    model = SentenceEncoder(path)
    sentences = list(read_tasks(data).distinct_sentences())
    found = {}
    for include_prompt in (True, False):
        chosen = Pooling(attention().layers, include_prompt=include_prompt)
        result = evaluation.probe(model, data, {"ours": chosen}, tokens="mean", layers=0)
        assert result.encoding["encoded_again_for"] == ([] if include_prompt else ["ours"])
        found[include_prompt] = result.layer_weights["ours"]["mine"]["mean"]
        expected = model.layer_weights(sentences, pooling=chosen).astype(np.float64).mean(0)
        np.testing.assert_allclose(found[include_prompt], expected, rtol=1e-12)
    assert found[True] != found[False]


def test_the_bundled_sample_is_the_default(minilm):
    model = SentenceEncoder(minilm)
    result = evaluation.probe(model, tokens="mean", layers=6)
    assert result.tasks == ("sample",)
    assert result.model["name"] == "model"
    folder = evaluation.sample_folder()
    expected = every_single_layer(("mean",), (6,)) | every_average(("mean",)) | {("mean", "model"): None}
    assert not assert_rows_are_those_of_sts(model, folder, result, expected)


@pytest.mark.slow
def test_minilm_on_stsb(minilm, data_dir):
    model = SentenceEncoder(minilm)
    result = evaluation.probe(model, data_dir / "sts", tasks="STSB-test")
    chosen = every_single_layer(("mean",), (3,)) | every_single_layer(("weighted_mean",), (5,))
    chosen |= {("mean", "model"): None}
    chosen[("cls", "all_layers")] = every_average()["cls", "all_layers"]
    assert_rows_are_those_of_sts(model, data_dir / "sts", result, chosen, "STSB-test")
    assert len(result.rows) == 3 * (6 * 7 + 6 * 4 + 1)


# ---- one pass, bounded memory -------------------------------------------------------------------------------------


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


# ---- the result ---------------------------------------------------------------------------------------------------


def make_result(tasks=("STS12", "STS13"), **details):
    """Layers 0 to 2 of mean and cls and one average; layer k has k + 1 tenths, tasks and aggregations hundredths."""
    rows = []
    for tokens, layers in [*((t, k) for t in ("mean", "cls") for k in range(3)), ("mean", "first_last")]:
        for number, task in enumerate(tasks):
            for shift, aggregation in enumerate(("all", "mean", "wmean")):
                value = 0.1 * (1 + layers if isinstance(layers, int) else 8) + 0.01 * number + 0.001 * shift
                value = math.nan if (tokens, layers) == ("cls", 0) else value
                row = {"tokens": tokens, "layers": layers, "task": task, "pairs": 100, "aggregation": aggregation}
                rows.append(row | {"spearman": value, "pearson": -value})
    return ProbeResult(rows=rows, **details)


WEIGHTS = {"ours": {"STS12": {"sentences": 9, "mean": [0.2, 0.5, 0.3], "sd": [0.01, 0.02, 0.03]}}}


def test_best():
    best = make_result().best(3)
    assert [(one["tokens"], one["layers"]) for one in best] == [("mean", "first_last"), ("mean", 2), ("cls", 2)]
    assert best[0] == {
        "tokens": "mean", "layers": "first_last", "average": pytest.approx(0.805), "STS12": pytest.approx(0.8),
        "STS13": pytest.approx(0.81),
    }  # fmt: skip
    assert make_result().best(1, "wmean")[0]["STS12"] == pytest.approx(0.802)
    everything = make_result().best(None, coefficient="pearson")
    assert (everything[0]["tokens"], everything[0]["layers"]) == ("mean", 0)
    assert (everything[-1]["tokens"], everything[-1]["layers"]) == ("cls", 0)
    assert len(everything) == 7
    with pytest.raises(ValueError, match="n is 0"):
        make_result().best(0)
    with pytest.raises(ValueError, match="aggregation is 'median'; it must be 'all' or 'mean' or 'wmean'"):
        make_result().best(aggregation="median")
    with pytest.raises(ValueError, match="coefficient is 'kendall'"):
        make_result().best(coefficient="kendall")


def test_the_average_is_over_the_standard_seven_where_they_are():
    tasks = (*STANDARD_SEVEN[:6], "STSB-dev", STANDARD_SEVEN[6], "SICKR-all")
    result = make_result(tasks)
    assert result.averaged == STANDARD_SEVEN
    numbers = [tasks.index(task) for task in STANDARD_SEVEN]
    assert result.best(1)[0]["average"] == pytest.approx(0.8 + 0.01 * np.mean(numbers))
    assert "average over STS12–16, STSB-test, SICKR-test" in repr(result)
    assert make_result().averaged == ("STS12", "STS13")


def test_layer_scores():
    layers, tasks, scores = make_result().layer_scores("mean", "mean")
    assert (layers, tasks) == ((0, 1, 2), ("STS12", "STS13"))
    np.testing.assert_allclose(scores, [[0.101, 0.111], [0.201, 0.211], [0.301, 0.311]])
    with pytest.raises(ValueError, match="tokens is 'max'; this result has single layers of mean, cls"):
        make_result().layer_scores("max")


def test_text_tables():
    facts = {"sentences": 4321, "truncated": 12, "encoded_again_for": ["sbert_wk"]}
    result = make_result(
        model={"name": "tiny", "pooling": "mean, normalize"}, encoding=facts, skipped={"STS14": "no STS14 here"}
    )
    lines = repr(result).splitlines()
    assert lines[0].startswith("Probe of tiny: Spearman ×100")
    assert lines[1:4] == [
        "the model's own pooling: mean, normalize",
        "4,321 distinct sentences, 12 truncated",
        "encoded once more for: sbert_wk",
    ]
    first = lines.index("the best of 7 poolings by their average over all tasks")
    assert lines[first + 1].split() == ["layers", "tokens", "average", "STS12", "STS13"]
    assert lines[first + 2].split() == ["first_last", "mean", "80.50", "80.00", "81.00"]
    assert lines[first + 8].split() == ["0", "cls", "nan", "nan", "nan"]
    assert len({len(line) for line in lines[first + 1 : first + 9]}) == 1
    second = lines.index("layers of mean; 0 is the embedding output")
    assert [line.split() for line in lines[second + 1 : second + 5]] == [
        ["layer", "average", "STS12", "STS13"],
        ["0", "10.50", "10.00", "11.00"],
        ["1", "20.50", "20.00", "21.00"],
        ["2", "30.50", "30.00", "31.00"],
    ]
    assert lines[-1] == "not scored: no STS14 here"
    assert max(map(len, lines)) <= 110


def test_html_tables_are_whole_and_escaped():
    class Tags(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen, self.text = [], set(), ""

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)
            self.seen.add(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.text += data

    result = make_result(model={"name": "<b>tiny</b>"}, skipped={"STS14": "no <i>"})
    tags = Tags()
    tags.feed(result._repr_html_())
    assert tags.open == []
    assert "b" not in tags.seen
    assert all(part in tags.text for part in ("<b>tiny</b>", "80.50", "no <i>"))


def test_a_long_name_is_cut_in_the_table():
    result = make_result()
    for row in result.rows:
        row["layers"] = "x" * 60 if row["layers"] == "first_last" else row["layers"]
    assert f"{'x' * 39}…" in repr(result)
    assert "x" * 40 not in repr(result)


def test_rows_fill_a_data_frame(result):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(result.rows)
    assert list(frame.columns) == ["tokens", "layers", "task", "pairs", "aggregation", "spearman", "pearson"]
    layers, _, scores = result.layer_scores("mean")
    picked = frame[(frame.tokens == "mean") & frame.layers.isin(layers) & (frame.aggregation == "all")]
    assert picked.spearman.tolist() == scores[:, 0].tolist()


def test_save_and_load(result, tmp_path):
    result.save(tmp_path / "probe.json")
    content = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert content["model"]["weights_sha256"]
    assert content["data"]["sha256"].keys() == {f"mine/{name}.tsv" for name in ("one", "two", "three")}
    assert content["seconds"].keys() == {"read", "encode", "score"}
    assert content["encoding"]["sentences"] == result.encoding["sentences"]
    assert {"all", "mean", "wmean"} == content["aggregation"].keys()
    again = ProbeResult.load(tmp_path / "probe.json")
    assert json.dumps(again.rows) == json.dumps(result.rows)
    assert again.layer_weights == result.layer_weights
    assert repr(again) == repr(result)
    assert result.to_dict()["rows"] is result.rows
    for text in ("{}", "[]", "nonsense", '{"format": "sentpool probe result 99"}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other\.json' is no result saved by ProbeResult\.save"):
            ProbeResult.load(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError):
        ProbeResult.load(tmp_path / "none.json")


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokens": "median"}, ValueError, "tokens is 'median'; it must be one of cls, mean"),
        ({"tokens": ()}, TypeError, "tokens must be a name or a sequence of names"),
        ({"layers": 9}, ValueError, "layers: indices holds layer 9; this encoder has layers 0"),
        ({"layers": [0.5]}, TypeError, "layers: indices holds 0.5"),
        ({"layers": True}, TypeError, "layers: indices holds True"),
        ({"poolings": "median"}, ValueError, "poolings: pooling is 'median'; it must be one of"),
        ({"poolings": ["scalar_mix"]}, ValueError, "poolings: .*no trained parameters"),
        ({"poolings": ScalarMix([1, 2])}, ValueError, "poolings: .*has 2 weights; this encoder needs 4"),
        ({"poolings": 7}, TypeError, "poolings: pooling must be a name, a sequence of names, a Pooling"),
        ({"poolings": {3: "mean"}}, TypeError, "poolings has the key 3"),
        ({"tasks": "STS99"}, ValueError, "unknown task 'STS99'"),
        ({"folder": "nowhere"}, FileNotFoundError, "'nowhere' does not exist"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"threads": -1}, ValueError, "threads is -1"),
    ],
)
def test_bad_arguments_are_named(model, data, arguments, error, message):
    with pytest.raises(error, match=message):
        evaluation.probe(model, **({"folder": data} | arguments))


def test_only_our_encoder_shows_its_layers(data):
    for other in (lambda sentences: np.ones((len(sentences), 3)), "all-MiniLM-L6-v2"):
        with pytest.raises(TypeError, match=r"expected a SentenceEncoder, .*evaluation\.sts takes any model"):
            evaluation.probe(other, data)


def test_layer_weights_belong_to_their_pooling_whatever_it_is_called(model, data):
    rng = np.random.default_rng(0)
    attention = LayerAttention(*rng.normal(size=(3, model.hidden_size, model.hidden_size)))
    alone = evaluation.probe(model, data, {"ours": attention}, tokens="mean").layer_weights["ours"]
    for name in ("first_last", "model"):
        weights = evaluation.probe(model, data, {name: attention}, tokens="mean").layer_weights
        assert list(weights.values()) == [alone]


def test_vectors_that_do_not_do_are_named(model, data):
    class Broken(Sharpened):
        def forward(self, states):
            return np.where(states[:, -1, 0] > states[:, -1, 0].min(), np.inf, 1.0)

    with pytest.raises(ValueError, match="the vector by pooling Broken of '.*': NaN or infinity"):
        evaluation.probe(model, data, Broken())

    half = Pooling("mean", head=(lambda vectors: vectors[: (len(vectors) + 1) // 2],))
    with pytest.raises(ValueError, match=r"returned float32 of shape \(\d+, 24\) for \d+ sentences"):
        evaluation.probe(model, data, {"half": half})


def test_files_that_deviate_are_warned_about(model, tmp_path):
    place = tmp_path / "STSBenchmark"
    place.mkdir()
    line = "genre\tfile\tyear\t1\t{}\tthe {} cat\tthe dog\n"
    (place / "sts-test.csv").write_text("".join(line.format(k, word) for k, word in enumerate(WORDS)), encoding="utf-8")
    with pytest.warns(SentpoolWarning, match="STSB-test has 14 scored pairs") as caught:
        result = evaluation.probe(model, tmp_path, tokens="mean")
    assert {warning.filename for warning in caught} == {__file__}
    assert "STS12" in result.skipped
    assert "not scored: STS12" in repr(result)


# ---- plots --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_heat_map(pyplot):
    result = make_result(model={"name": "tiny"})
    ax = result.heat_map("cls")
    assert [text.get_text() for text in ax.texts] == ["–", "–", "20.0", "21.0", "30.0", "31.0"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["STS12", "STS13"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2"]
    assert "tiny, cls" in ax.get_title()
    _, mine = pyplot.subplots()
    assert result.heat_map(ax=mine, aggregation="wmean") is mine
    assert mine.texts[0].get_text() == "10.2"
    assert "(wmean)" in mine.get_title()
    np.testing.assert_allclose(mine.images[0].get_array(), 100 * result.layer_scores("mean", "wmean")[2])
    with pytest.raises(ValueError, match="tokens is 'max'"):
        result.heat_map("max")


def test_heat_map_of_nothing_but_undefined(pyplot):
    result = make_result()
    result.rows = [row for row in result.rows if (row["tokens"], row["layers"]) == ("cls", 0)]
    assert [text.get_text() for text in result.heat_map("cls").texts] == ["–", "–"]
    result.heat_map("cls").figure.canvas.draw()


def test_layer_weights_plot(pyplot):
    result = make_result(layer_weights=WEIGHTS | {"other": WEIGHTS["ours"]})
    ax = result.plot_layer_weights(pooling="ours")
    (container,) = ax.containers
    np.testing.assert_allclose(container[0].get_ydata().astype(float), [0.2, 0.5, 0.3])
    (segments,) = (lines.get_segments() for lines in container[2])
    spreads = [segment[:, 1].astype(float) for segment in segments]
    np.testing.assert_allclose(spreads, [[0.19, 0.21], [0.48, 0.52], [0.27, 0.33]])
    assert ax.get_legend().get_texts()[0].get_text() == "STS12"
    _, mine = pyplot.subplots()
    assert make_result(layer_weights=WEIGHTS).plot_layer_weights(mine) is mine
    with pytest.raises(ValueError, match="pooling is None; this result has layer weights of ours, other: name one"):
        result.plot_layer_weights()
    with pytest.raises(ValueError, match="pooling is 'cls'"):
        result.plot_layer_weights(pooling="cls")
    with pytest.raises(ValueError, match=r"probe a model that has LayerAttention, or pass poolings=LayerAttention"):
        make_result().plot_layer_weights()


def test_nothing_is_shown(pyplot, monkeypatch):
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("shown"))
    result = make_result(layer_weights=WEIGHTS)
    result.heat_map()
    result.plot_layer_weights()


def test_plots_without_matplotlib_say_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    result = make_result(layer_weights=WEIGHTS)
    for plot in (result.heat_map, result.plot_layer_weights):
        with pytest.raises(ImportError, match=r"plots need matplotlib: pip install 'sentpool\[plot\]'"):
            plot()


# ---- the command line ---------------------------------------------------------------------------------------------


def command(capsys, *arguments):
    status = cli.main(["probe", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_command_line(capsys, model, data, tmp_path):
    status, out, err = command(
        capsys, model.folder.path, data, "--pooling", "layers=[0,1]", "--pooling", "avg", "--threads", 1,
        "--json", tmp_path / "x.json",
    )  # fmt: skip
    assert (status, err) == (0, "")
    expected = evaluation.probe(model, data, ["layers=[0,1]", "avg"])
    saved = ProbeResult.load(tmp_path / "x.json")
    assert json.dumps(saved.rows) == json.dumps(expected.rows)
    assert saved.seconds.keys() == {"load", "read", "encode", "score"}
    assert out.startswith(repr(expected))
    assert f"saved {tmp_path / 'x.json'}" in out


def test_command_line_without_data(capsys, model):
    status, out, _ = command(capsys, model.folder.path)
    assert status == 0
    assert out.startswith("No DATA given: scoring the bundled sample")
    assert "layers of mean" in out


def test_command_line_draws(capsys, model, data, tmp_path, pyplot):
    attending = SentenceEncoder(model.folder.path, pooling=attention())
    status, out, _ = command(capsys, model.folder.path, data, "--plot", tmp_path / "x.png")
    assert status == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    from sentpool import plotting

    figure = plotting.probe_figure(evaluation.probe(attending, data, tokens="max"))
    assert [ax.get_title().split(": ")[-1] for ax in figure.axes] == ["Spearman ×100 (all)", "weights of the layers"]
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "STS99"], "unknown task 'STS99'"),
        (["--pooling", "median"], "poolings: pooling is 'median'"),
        (["--json", "nowhere/x.json"], "there is no folder"),
        (["--plot", "nowhere/x.png"], "there is no folder"),
        (["--plot", "x.docx"], r"the plot's file is 'x.docx'; its name must end in .*\.png"),
    ],
)
def test_command_line_errors_are_one_line(capsys, model, data, tmp_path, monkeypatch, arguments, message):
    if "x.docx" in arguments:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, out, err = command(capsys, model.folder.path, data, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("sentpool: error: ")
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert os.listdir(tmp_path) == []


def test_command_line_without_matplotlib(capsys, model, data, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = command(capsys, model.folder.path, data, "--plot", tmp_path / "x.png")
    assert (status, out) == (1, "")
    assert err == "sentpool: error: plots need matplotlib: pip install 'sentpool[plot]'\n"
