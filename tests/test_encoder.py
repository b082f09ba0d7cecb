"""SentenceEncoder on a fabricated folder: what may be passed in, what comes out, what is refused and how."""

from __future__ import annotations

import pickle
import sys
import threading

import numpy as np
import pytest
from fabricate import bert_folder, sentence_transformers_folder

import sentpool
from sentpool import SentenceEncoder, SentpoolWarning, _core

TEXTS = ["the cat sat on the mat.", "a big dog runs!", "", "happy", "the cat sat on the mat."]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> SentenceEncoder:
    return SentenceEncoder(bert_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def prompted(tmp_path_factory) -> SentenceEncoder:
    folder = sentence_transformers_folder(tmp_path_factory.mktemp("prompted"), prompts={"query": "the big "})
    return SentenceEncoder(folder)


# ---- what may be passed in -----------------------------------------------------------------------------------------


def as_series(texts):
    return pytest.importorskip("pandas").Series(texts, index=range(10, 10 + len(texts)))


@pytest.mark.parametrize(
    "form",
    [list, tuple, iter, np.array, lambda t: np.array(t, dtype=object), lambda t: (x for x in t), as_series],
    ids=["list", "tuple", "iterator", "array", "object array", "generator", "series"],
)
def test_every_kind_of_sequence(model, form):
    vectors = model.encode(form(TEXTS))
    assert vectors.dtype == np.float32 and vectors.shape == (5, 24)
    np.testing.assert_array_equal(vectors, model.encode(TEXTS))


def test_a_string_gives_one_vector(model):
    assert model.encode("happy").shape == (24,)
    np.testing.assert_array_equal(model.encode("happy"), model.encode(["happy"])[0])
    np.testing.assert_array_equal(model.encode(np.str_("happy")), model.encode("happy"))
    np.testing.assert_array_equal(model.encode(np.array("happy")), model.encode("happy"))


def test_nothing_in_gives_nothing_out(model):
    assert model.encode([]).shape == (0, 24)
    assert model.encode([], pooling=["cls", "mean"]).shape == (0, 48)
    assert model.layer_states([]).array.shape == (0, 3, 2, 24)
    assert model.hidden_states([]) == []
    assert model.encode([], convert_to_numpy=False) == []


@pytest.mark.parametrize(
    "text", ["", " ", "\0", "\n\t", "\ufeff", "🙂" * 50, "中文", "́", "\u200b", "x" * 5000, "[CLS]"]
)
def test_every_text_has_a_finite_vector(model, text):
    vector = model.encode(text)
    assert np.isfinite(vector).all()
    np.testing.assert_array_equal(vector, model.encode([TEXTS[0], text])[1])


def test_lone_surrogates_are_replaced_with_one_warning(model):
    with pytest.warns(SentpoolWarning, match="lone surrogates") as warnings:
        vectors = model.encode(["happy \ud800", "the \udfff cat"])
    assert len(warnings) == 1 and warnings[0].filename == __file__
    np.testing.assert_array_equal(vectors, model.encode(["happy \ufffd", "the \ufffd cat"]))


# ---- what comes out ------------------------------------------------------------------------------------------------


def test_normalised_and_truncated(model):
    plain = model.encode(TEXTS)
    unit = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)
    short = model.encode(TEXTS, truncate_dim=5)
    np.testing.assert_array_equal(short, plain[:, :5])
    both = model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(both, short / np.linalg.norm(short, axis=1, keepdims=True), rtol=1e-6)


def test_other_poolings(model):
    states = model.layer_states(TEXTS, tokens=("max", "cls"))
    np.testing.assert_array_equal(model.encode(TEXTS, pooling="cls"), states.array[:, -1, 1])
    np.testing.assert_array_equal(model.encode(TEXTS, pooling=("max", "cls")), states.array[:, -1].reshape(5, 48))
    with pytest.raises(ValueError, match="tokens is 'foo'; it must be one of"):
        model.layer_states(TEXTS, tokens=("foo",))
    other = SentenceEncoder(model.folder.path, pooling="last_token")
    np.testing.assert_array_equal(other.encode(TEXTS), model.encode(TEXTS, pooling=sentpool.Pooling(("last_token",))))


def test_layer_states_and_hidden_states_agree(model):
    states = model.layer_states(TEXTS)
    hidden = model.hidden_states(TEXTS)
    assert states.tokens == ("cls", "mean") and states.layers == (0, 1, 2)
    assert [h.shape for h in hidden] == [(3, T, 24) for T in states.lengths]
    for i, h in enumerate(hidden):
        np.testing.assert_array_equal(states.array[i, :, 0], h[:, 0])
        np.testing.assert_allclose(states.array[i, :, 1], h.mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.hidden_states(TEXTS[1]), hidden[1])
    for tokens, h in zip(model.encode(TEXTS, output_value="token_embeddings"), hidden, strict=True):
        np.testing.assert_array_equal(tokens, h[-1])
    assert model.encode("happy", output_value="token_embeddings").ndim == 2


def test_prompts_are_put_before_the_text(prompted):
    expected = prompted.encode(["the big " + text for text in TEXTS])
    np.testing.assert_array_equal(prompted.encode(TEXTS, prompt="the big "), expected)
    np.testing.assert_array_equal(prompted.encode(TEXTS, prompt_name="query"), expected)
    assert (prompted.encode(TEXTS) != expected).any()
    with pytest.raises(ValueError, match=r"prompt_name is 'nope'; the model's prompts are: "):
        prompted.encode(TEXTS, prompt_name="nope")


def test_truncation_is_ignored_said_or_refused(model):
    long = ["happy", "the cat " * 40, "a dog"]
    vectors, info = model.encode_with_info(long)
    assert info.n_truncated == 1 and info.n_tokens == model.max_seq_length + 3 + 4
    with pytest.warns(SentpoolWarning, match="1 of 3 texts have more than 32 tokens and were truncated"):
        np.testing.assert_array_equal(model.encode(long, on_truncate="warn"), vectors)
    with pytest.raises(ValueError, match=r"sentences\[1\] has more than max_seq_length = 32 tokens"):
        model.encode(long, on_truncate="raise")


def test_max_seq_length_is_settable(tmp_path):
    model = SentenceEncoder(bert_folder(tmp_path))
    model.max_seq_length = 6
    assert len(model.hidden_states("the cat sat on the mat")[0]) == 6
    with pytest.raises(ValueError, match="max_seq_length is 33; allowed are 2 .* to 32"):
        model.max_seq_length = 33


def test_similarity(model):
    a, b = model.encode(TEXTS), model.encode(TEXTS[::-1])
    exact = (a.astype(float) @ b.astype(float).T) / np.outer(
        np.linalg.norm(a.astype(float), axis=1), np.linalg.norm(b, axis=1)
    )
    np.testing.assert_allclose(model.similarity(a, b), exact, atol=1e-7)
    np.testing.assert_allclose(model.similarity_pairwise(a, b), exact.diagonal(), atol=1e-7)
    assert (model.similarity(a, a).diagonal() == 1).all() and (model.similarity_pairwise(a, a.copy()) == 1).all()
    assert model.similarity(a[0], b).shape == (1, 5)
    assert (model.similarity(np.zeros((2, 24)), a) == 0).all()
    for bad in (np.zeros((2, 2, 2)), np.zeros((2, 23)), np.array([["x"] * 24]), np.zeros((2, 24), dtype=object)):
        with pytest.raises((TypeError, ValueError), match=r"\ba\b|rows of 23"):
            model.similarity(bad, a)


@pytest.mark.parametrize(
    ("metric", "formula"),
    [
        ("dot", lambda x, y: x @ y),
        ("euclidean", lambda x, y: -np.sqrt(((x - y) ** 2).sum())),
        ("manhattan", lambda x, y: -np.abs(x - y).sum()),
    ],
)
def test_other_similarities(metric, formula):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 37)).astype(np.float32), rng.standard_normal((4, 37)).astype(np.float32)
    expected = [[formula(x, y) for y in b.astype(float)] for x in a.astype(float)]
    np.testing.assert_allclose(_core.similarity(a, b, metric), expected, rtol=1e-6)
    np.testing.assert_allclose(_core.similarity_pairwise(a, b[:3], metric), np.diagonal(expected), rtol=1e-12)


def test_arrays_of_any_layout_are_read_alike():
    a = np.random.default_rng(1).standard_normal((6, 10)).astype(np.float32)
    expected = _core.similarity(a, a, "dot")
    read_only = a.copy()
    read_only.flags.writeable = False
    layouts = [
        np.asfortranarray(a),
        np.repeat(a, 2, 0)[::2],
        a[::-1][::-1],
        a.astype(">f4"),
        a.astype(float),
        read_only,
    ]
    for layout in layouts:
        before = layout.copy()
        np.testing.assert_array_equal(_core.similarity(layout, layout, "dot"), expected)
        np.testing.assert_array_equal(layout, before)


# ---- what it says about itself -------------------------------------------------------------------------------------


def test_representations(model):
    assert "layers=2" in repr(model) and "pooling=mean" in repr(model) and "\n" not in repr(model)
    assert model._repr_html_().startswith("<table>")
    assert model.get_sentence_embedding_dimension() == 24
    provenance = model.provenance()
    assert set(provenance["versions"]) == {"sentpool", "python", "numpy", "tokenizers", "safetensors"}
    assert len(provenance["weights_sha256"]["model.safetensors"]) == len(provenance["tokenizer_sha256"]) == 64


def test_show_config_says_what_runs(capsys):
    sentpool.show_config()
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert {"sentpool", "isa", "gemm", "units", "blis", "threads"} <= set(lines)
    assert lines["isa"].split()[0] == _core.config()["isa"]


def test_a_pickled_model_is_read_again(model):
    model.max_seq_length = 12
    try:
        other = pickle.loads(pickle.dumps(model))
    finally:
        model.max_seq_length = 32
    assert other.max_seq_length == 12
    np.testing.assert_array_equal(other.encode(TEXTS), model.encode(TEXTS))


def test_one_warning_where_only_software_can_fuse(model, monkeypatch):
    from sentpool import encoder

    monkeypatch.setattr(encoder._core, "config", lambda: {"isa": "generic"})
    monkeypatch.delenv("SENTPOOL_ISA", raising=False)
    encoder._warn_if_slow.cache_clear()
    with pytest.warns(SentpoolWarning, match="no AVX2 and FMA") as warnings:
        encoder._warn_if_slow()
        encoder._warn_if_slow()
    assert len(warnings) == 1
    encoder._warn_if_slow.cache_clear()
    monkeypatch.setenv("SENTPOOL_ISA", "generic")
    encoder._warn_if_slow()


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (["ok", 3], r"sentences\[1\] is int 3, not str"),
        (["ok", None], r"sentences\[1\] is NoneType None, not str; drop missing values"),
        (["ok", float("nan")], r"sentences\[1\] is float nan, not str; drop missing values .*fillna"),
        (["ok", b"bytes"], r"sentences\[1\] is bytes b'bytes', not str; decode it"),
        ([["ok"]], r"sentences\[0\] is list \['ok'\], not str; pass one flat list"),
        (b"bytes", "sentences must be a str or a sequence of str, not bytes"),
        (None, "sentences must be a str or a sequence of str, not NoneType None"),
        (7, "sentences must be a str or a sequence of str, not int 7"),
        ({"a": 1}, "sentences must be a str or a sequence of str, not dict"),
        ({"a", "b"}, "sentences must be a str or a sequence of str, not set"),
        (np.array([["a", "b"]]), r"sentences must be one-dimensional, not ndarray of shape \(1, 2\)"),
        (np.array([1.5, 2.5]), r"sentences\[0\] is float64"),
    ],
)
def test_sentences_that_are_none(model, sentences, message):
    for method in (model.encode, model.layer_states, model.hidden_states):
        with pytest.raises(TypeError, match=message):
            method(sentences)
    assert np.isfinite(model.encode("the next call works")).all()


def test_a_table_is_not_a_column(model):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"not DataFrame of shape \(1, 2\); pass one column: frame\['text'\]"):
        model.encode(pandas.DataFrame({"a": ["x"], "b": ["y"]}))


def test_subclasses_of_str_are_their_text(model):
    class Odd(str):
        __hash__ = None

        def __eq__(self, other):
            return True

        def __radd__(self, other):
            return "something else"

    texts = [Odd("the cat"), Odd("a dog")]
    np.testing.assert_array_equal(model.encode(texts), model.encode(["the cat", "a dog"]))
    np.testing.assert_array_equal(model.encode(texts, prompt="big "), model.encode(["big the cat", "big a dog"]))


def test_numbers_beyond_float32_are_no_vectors(model):
    with pytest.raises(ValueError, match="b holds numbers beyond the range of float32"):
        model.similarity(np.ones((1, 2)), np.full((1, 2), 1e300))


def test_layer_states_leave_out_a_prompt_that_is_not_pooled(tmp_path):
    pooling = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True, "include_prompt": False}
    model = SentenceEncoder(sentence_transformers_folder(tmp_path, pooling=pooling))
    states = model.layer_states(TEXTS, tokens=["mean"], prompt="the big ").array
    np.testing.assert_array_equal(states[:, -1, 0], model.encode(TEXTS, prompt="the big "))


def test_the_pooling_of_a_model_is_settable(tmp_path):
    model = SentenceEncoder(bert_folder(tmp_path))
    model.pooling = "cls"
    np.testing.assert_array_equal(model.encode(TEXTS), model.encode(TEXTS, pooling="cls"))
    with pytest.raises(ValueError, match="pooling is 'median'"):
        model.pooling = "median"


def test_a_missing_value_of_pandas(model):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"sentences\[1\] is .*(NAType|nan).*drop missing values"):
        model.encode(pandas.Series(["a", None], dtype="string"))


@pytest.mark.parametrize("name", ["batch_size", "threads", "truncate_dim"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (2.0, TypeError), (True, TypeError), ("2", TypeError)],
)
def test_counts_are_positive_integers(model, name, value, error):
    with pytest.raises(error, match=f"{name} (is|must be)"):
        model.encode(TEXTS, **{name: value})
    assert np.isfinite(model.encode("the next call works")).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"truncate_dim": 25}, ValueError, "truncate_dim is 25; the embedding has only 24"),
        ({"pooling": "median"}, ValueError, "pooling is 'median'; it must be one of cls, mean"),
        ({"pooling": 3}, TypeError, "pooling must be a name"),
        ({"pooling": []}, TypeError, "pooling must be a name"),
        ({"on_truncate": "explode"}, ValueError, "on_truncate is 'explode'; it must be 'ignore' or 'warn' or 'raise'"),
        ({"precision": "int4"}, ValueError, "precision is 'int4'; it must be 'float32' or 'int8'"),
        ({"output_value": "tokens"}, ValueError, "output_value is 'tokens'"),
        ({"convert_to_tensor": True}, ValueError, "convert_to_tensor is True; .*torch.from_numpy"),
        ({"device": "cuda"}, ValueError, "device is 'cuda'; .*pass None or 'cpu'"),
        ({"prompt": 3}, TypeError, "prompt must be a str, not int 3"),
        ({"prompt_name": ["x"]}, ValueError, r"prompt_name is \['x'\]; the model's prompts are: none"),
        ({"threads": 2**70}, ValueError, "threads is 1180.*; it must be a positive integer below"),
        ({"batch_size": 2**70}, ValueError, "batch_size is 1180"),
        ({"output_value": "token_embeddings", "truncate_dim": 3}, ValueError, "truncate_dim, pooling and prec"),
        ({"normalise": True}, TypeError, r"encode\(\) got an unexpected keyword argument 'normalise'"),
    ],
)
def test_options_that_are_none(model, options, error, message):
    with pytest.raises(error, match=message):
        model.encode(TEXTS, **options)
    assert np.isfinite(model.encode("the next call works")).all()


def test_a_vector_that_is_not_finite_is_an_error(tmp_path):
    """Finite weights can still overflow: large rows through layer norm into large products."""
    from fabricate import bert_config, bert_tensors, write_safetensors

    folder = bert_folder(tmp_path)
    tensors = bert_tensors(bert_config())
    for name in tensors:
        if name.endswith("output.LayerNorm.weight"):
            tensors[name] = np.full_like(tensors[name], 3e38)
    write_safetensors(folder / "model.safetensors", tensors)
    model = SentenceEncoder(folder)
    for run in (model.encode, model.layer_states, model.hidden_states):
        with pytest.raises(ValueError, match=r"the vector of sentences\[0\] is not finite"):
            run(TEXTS)
    with pytest.raises(ValueError, match="is not finite"):
        model.encode(TEXTS, output_value="token_embeddings")


def test_every_allocation_may_fail(model, tmp_path):
    """MemoryError, and the next call works; for opening as for encoding, whichever allocation it is."""

    def failures(action) -> int:
        for n in range(1, 1000):
            _core.fail_allocation(n)
            try:
                action()
            except MemoryError:
                continue
            finally:
                _core.fail_allocation(0)
            return n - 1
        raise AssertionError("never succeeded")

    expected = model.encode(TEXTS)
    assert failures(lambda: model.encode(TEXTS, threads=2)) >= 3
    np.testing.assert_array_equal(model.encode(TEXTS), expected)
    # the model, its layers, the counts of loaded rows, and one block for all weights
    assert failures(lambda: SentenceEncoder(model.folder.path)) == 4


def test_parts_of_a_list_change_nothing(model, monkeypatch):
    """However many texts are tokenised, computed and finished at a time, and wherever equal ones stand."""
    texts = [f"the cat {'sat ' * (i % 5)}" for i in (3, 0, 3, 1, 4, 0, 2, 1, 3)]
    expected = np.stack([model.encode(text) for text in texts])
    for size in (1, 2, 3, 512):
        monkeypatch.setattr("sentpool.encoding_run._BLOCK_SENTENCES", size)
        monkeypatch.setattr("sentpool.tokenizer._AT_ONCE", size)
        assert model.encode(texts).tobytes() == expected.tobytes(), size


def test_as_many_vectors_as_texts(model):
    run = model._run(["a", "b", "c"], threads=1)
    for finish, match in ((lambda states: states[:2, 0, 0], "2 vectors for 3 texts"), (lambda states: [], "0 vectors")):
        with pytest.raises(ValueError, match=match):
            run.pooled([0], ["mean"], (model.hidden_size,), finish)


def test_many_python_threads_share_a_model(model):
    expected = model.encode(TEXTS)
    wrong = []

    def work():
        for _ in range(20):
            if not (model.encode(TEXTS, threads=2) == expected).all():
                wrong.append(1)

    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
    assert not wrong


def test_prompts_travel_with_a_copy(prompted):
    prompted.prompts["passage"] = "a small "
    try:
        assert pickle.loads(pickle.dumps(prompted)).prompts == prompted.prompts
    finally:
        del prompted.prompts["passage"]


def test_a_progress_bar_when_asked_for(model, capsys):
    model.encode(TEXTS, show_progress_bar=True)
    assert "Encoding" in capsys.readouterr().err
    model.encode(TEXTS)
    assert capsys.readouterr() == ("", "")
