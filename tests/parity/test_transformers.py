"""Parity with PyTorch, transformers and sentence-transformers in float32; needs the extra `parity`."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sentpool import SentenceEncoder  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def stsb(data_dir):
    """The 2,758 sentences of the STS-B test set."""
    with open(data_dir / "sts" / "STSBenchmark" / "sts-test.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    sentences = [sentence for row in rows for sentence in row[5:7]]
    assert len(sentences) == 2758
    return sentences


@pytest.fixture(scope="module")
def reference(minilm):
    return transformers.AutoModel.from_pretrained(minilm).eval()


@pytest.fixture(scope="module")
def ours(minilm):
    return SentenceEncoder(minilm)


def layers_of(model, ids):
    """States (L + 1, T, H) of one sentence."""
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.stack(states)[:, 0].numpy()


def test_ids_are_those_of_transformers(minilm, ours, stsb):
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = [
        *stsb[:500],
        "",
        " ",
        "\0",
        "naïve café",
        "東京 is far",
        "👩‍👩‍👧",
        "a" * 300,
        "İstanbul",
        "[MASK] [SEP]",
        "́́e",
    ]
    batch = ours.tokenizer.encode(texts)
    expected = tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    assert [ids.tolist() for ids in np.split(batch.ids, batch.offsets[1:-1])] == expected


def test_minilm_embeddings(reference, ours, stsb):
    """Every sentence of the STS-B test set, normalised: at most 2e-6 apart."""
    vectors = ours.encode(stsb, normalize_embeddings=True)
    batch = ours.tokenizer.encode(stsb)
    lengths = np.diff(batch.offsets)
    for length in np.unique(lengths):  # sentences of one length need no padding
        (same,) = np.nonzero(lengths == length)
        ids = batch.ids[batch.offsets[same][:, None] + np.arange(length)]
        with torch.no_grad():
            states = reference(torch.from_numpy(ids).long()).last_hidden_state.numpy()
        mean = states.mean(1, dtype=np.float64)
        expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        assert np.abs(vectors[same] - expected).max() <= 2e-6


def test_minilm_layers(reference, ours, stsb):
    """CLS and mean of every layer: at most 2e-5 apart, relative to the layer's largest value."""
    sentences = stsb[:200]
    states = ours.layer_states(sentences, tokens=("cls", "mean")).array
    batch = ours.tokenizer.encode(sentences)
    for ours_, ids in zip(states, np.split(batch.ids, batch.offsets[1:-1]), strict=True):
        theirs = layers_of(reference, ids.tolist())
        pooled = np.stack([theirs[:, 0], theirs.mean(1)], axis=1)
        for layer, expected in enumerate(pooled):
            assert np.abs(ours_[layer] - expected).max() <= 2e-5 * np.abs(expected).max()


def test_minilm_hidden_states(reference, ours, stsb):
    text = " ".join(stsb[:60])
    states = ours.hidden_states(text)
    theirs = layers_of(reference, ours.tokenizer.encode([text]).ids.tolist())
    assert states.shape == theirs.shape == (7, 256, 384)
    np.testing.assert_allclose(states, theirs, atol=2e-5 * np.abs(theirs).max())


VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{c}" for c in "abcdefghij"),
]


def random_bert(folder, seed):
    """A random BERT of odd sizes with its tokenizer, saved by transformers."""
    rng = random.Random(seed)
    heads = rng.choice([1, 3, 5, 7])
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY) + rng.randrange(3),
        hidden_size=heads * rng.choice([4, 8, 11, 32]),
        num_attention_heads=heads,
        num_hidden_layers=rng.randint(1, 5),
        intermediate_size=rng.choice([5, 31, 100, 300]),
        max_position_embeddings=rng.choice([20, 70, 300]),
        type_vocab_size=rng.choice([1, 2, 3]),
        layer_norm_eps=rng.choice([1e-12, 1e-5]),
        initializer_range=0.2,
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return model


@pytest.mark.parametrize("seed", range(6))
def test_random_bert(tmp_path, seed):
    theirs, rng = random_bert(tmp_path, seed), random.Random(seed)
    ours = SentenceEncoder(tmp_path)
    longest = theirs.config.max_position_embeddings
    texts = ["", "a", " ".join(rng.choices("abcxyz", k=longest * 2))]
    texts += ["".join(rng.choices("abcdefghij  ", k=rng.randint(1, 40))) for _ in range(10)]
    batch = ours.tokenizer.encode(texts)
    assert np.diff(batch.offsets).max() == longest
    for states, ids in zip(ours.hidden_states(texts), np.split(batch.ids, batch.offsets[1:-1]), strict=True):
        for layer, expected in enumerate(layers_of(theirs, ids.tolist())):
            assert np.abs(states[layer] - expected).max() <= 2e-5 * np.abs(expected).max()


# ---- sentence-transformers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentence_transformers():
    return pytest.importorskip("sentence_transformers")


def test_minilm_equals_sentence_transformers(sentence_transformers, minilm, ours, stsb):
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu")
    texts = [*stsb[:100], "", " ".join(stsb[:60])]
    np.testing.assert_allclose(ours.encode(texts), theirs.encode(texts), atol=2e-6)
    np.testing.assert_allclose(
        ours.encode(texts, truncate_dim=64, normalize_embeddings=True),
        theirs.encode(texts, truncate_dim=64, normalize_embeddings=True),
        atol=2e-6,
    )


@pytest.mark.parametrize(
    "modes", [("cls",), ("mean", "max"), ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")]
)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_folder_saved_by_sentence_transformers(sentence_transformers, tmp_path, modes, include_prompt):
    """Pooling, Dense, Normalize and prompts as sentence-transformers itself writes and computes them."""
    from sentence_transformers import models

    bert = tmp_path / "bert"
    bert.mkdir()
    width = random_bert(bert, 3).config.hidden_size
    encoder = models.Transformer(str(bert), max_seq_length=18)
    flags = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens"}
    wanted = {
        f"pooling_mode_{flags.get(mode, mode + ('_tokens' if mode == 'weightedmean' else ''))}": True for mode in modes
    }
    pooling = models.Pooling(width, **{"pooling_mode_mean_tokens": False, **wanted}, include_prompt=include_prompt)
    torch.manual_seed(1)
    dense = models.Dense(width * len(modes), 13, activation_function=torch.nn.Tanh())
    theirs = sentence_transformers.SentenceTransformer(
        modules=[encoder, pooling, dense, models.Normalize()],
        device="cpu",
        prompts={"query": "a bc: "},
        default_prompt_name="query",
    )
    theirs.save(str(tmp_path / "saved"))
    ours = SentenceEncoder(tmp_path / "saved")
    texts = ["", "abc de", "a " * 40, "jihg fedc ba"]
    np.testing.assert_allclose(ours.encode(texts), theirs.encode(texts), atol=5e-6)
    np.testing.assert_allclose(ours.encode(texts, prompt="xyz "), theirs.encode(texts, prompt="xyz "), atol=5e-6)
    vectors = theirs.encode(texts)
    np.testing.assert_allclose(ours.similarity(vectors, vectors), theirs.similarity(vectors, vectors), atol=1e-6)
