"""Model folders to and from sentence-transformers, transformers and training code in torch."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

from fabricate import VOCABULARY, bert_folder, sentence_transformers_folder, tokenizer_json, write_json  # noqa: E402

from sentpool import SentenceEncoder  # noqa: E402
from sentpool.pooling import (  # noqa: E402
    Dense,
    LayerAttention,
    Layers,
    Normalize,
    Pooling,
    SbertWk,
    ScalarMix,
    Truncate,
    WeightedLayer,
)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TEXTS = ["the cat sat on the mat", "a big dog", "", "unhappy running ! the dog", "the " * 40]
SENTENCES = ["A cat sits on the mat.", "Stocks fell on Monday, and rose again.", "", "why not? " * 60]
L, H = 5, 24


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


THEIRS = {
    **{name: name for name in ("cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token")},
    **{name: name for name in ("first_last", "embedding_last", "top2", "all_layers", "layers=[2]")},
    "modes in order": ("cls", "max", "mean"),
    "modes in another order": ("mean", "cls", "mean"),
    "layers of modes": Layers([0, 2, -1], tokens=("cls", "weighted_mean", "mean_sqrt_len", "last_token")),
    "weighted layers": WeightedLayer([1.5, -0.25, 0.5], layer_start=L - 2),
    "SimCSE": Pooling("cls", head=(Dense(normal(H, H), normal(H), "tanh"),)),
    "layers and a head": Pooling(
        Layers([1, -1]), head=(Dense(normal(7, H), None, "gelu"), Normalize(), Dense(normal(5, 7), normal(5), "relu"))
    ),
    **{
        activation: Pooling("mean", head=(Dense(normal(7, H), normal(7), activation),))
        for activation in ("identity", "sigmoid")
    },
}


def opened_by_theirs(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("include_prompt", [True, False])
def test_sentence_transformers_opens_what_we_save(tmp_path, name, include_prompt):
    source = sentence_transformers_folder(
        tmp_path / "source", num_hidden_layers=L, prompts={"query": "the big "}, max_seq_length=12
    )
    chosen = Pooling.from_name(THEIRS[name])
    model = SentenceEncoder(source, pooling=Pooling(chosen.layers, chosen.head, include_prompt))
    model.save_pretrained(tmp_path / "saved")
    # In float64: with some heads, torch's own rounding in float32 is as large as the bound.
    theirs = opened_by_theirs(tmp_path / "saved").double()
    assert theirs.max_seq_length == 12
    scale = np.abs(model.encode(TEXTS)).max()
    np.testing.assert_allclose(theirs.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=2e-6 * max(scale, 1))
    ours = model.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name="query"), ours, rtol=0, atol=2e-6 * max(scale, 1))


@pytest.mark.parametrize("pooling", [None, "first_last", "all_layers", ("cls", "mean")])
def test_sentence_transformers_opens_minilm_that_we_save(minilm, tmp_path, pooling):
    model = SentenceEncoder(minilm, pooling=pooling)
    model.save_pretrained(tmp_path / "saved")
    theirs = opened_by_theirs(tmp_path / "saved")
    np.testing.assert_allclose(theirs.encode(SENTENCES), model.encode(SENTENCES), rtol=0, atol=2e-6)
    reference = opened_by_theirs(minilm)
    if pooling is None:
        np.testing.assert_array_equal(theirs.encode(SENTENCES), reference.encode(SENTENCES))


def test_settings_that_sentence_transformers_reads(tmp_path):
    source = sentence_transformers_folder(tmp_path / "source", head=(7,))
    settings = {"prompts": {"query": "the: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    write_json(source / "config_sentence_transformers.json", settings | {"truncate_dim": 5})
    model = SentenceEncoder(source)
    model.save_pretrained(tmp_path / "saved")
    theirs = opened_by_theirs(tmp_path / "saved")
    assert (theirs.prompts["query"], theirs.default_prompt_name) == ("the: ", "query")
    assert (theirs.similarity_fn_name, theirs.truncate_dim) == ("dot", 5)
    np.testing.assert_allclose(theirs.encode(TEXTS), model.encode(TEXTS), atol=2e-6)
    # And back: what they save of it opens here.
    theirs.save(str(tmp_path / "again"))
    np.testing.assert_array_equal(SentenceEncoder(tmp_path / "again").encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize(
    "pooling",
    [
        ScalarMix(normal(L + 1)),
        LayerAttention(*(normal(H, H, seed=s) for s in range(3))),
        SbertWk(),
        Layers([1, -1], tokens="max"),
        Pooling("mean", head=(Truncate(5),)),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_sentence_transformers_refuses_what_it_cannot_compute(tmp_path, monkeypatch, pooling, installed):
    source = bert_folder(tmp_path / "source", num_hidden_layers=L)
    SentenceEncoder(source, pooling=pooling).save_pretrained(tmp_path / "saved")
    if not installed:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sentpool"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "sentpool", None)
    with pytest.raises(Exception, match="sentpool"):
        opened_by_theirs(tmp_path / "saved")
    with pytest.raises(Exception, match="sentpool|has no attribute 'load'"):
        sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)


def test_transformers_opens_the_encoder(tmp_path):
    source = bert_folder(tmp_path / "source", dtype="F16", pruned_heads={})
    SentenceEncoder(source, pooling="top2").save_pretrained(tmp_path / "saved")
    ours, theirs = (
        transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
        for folder in (tmp_path / "saved", source)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    batch = SentenceEncoder(tmp_path / "saved").tokenizer.encode(TEXTS[:4])
    expected = [ids.tolist() for ids in np.split(batch.ids, batch.offsets[1:-1])]
    assert tokenizer(TEXTS[:4])["input_ids"] == expected


@pytest.mark.parametrize("modes", [("mean",), ("cls", "mean_sqrt_len_tokens"), ("weightedmean", "lasttoken")])
@pytest.mark.parametrize("safetensors", [True, False])
def test_weighted_layers_that_sentence_transformers_saves(tmp_path, modes, safetensors):
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    source = bert_folder(tmp_path / "plain", num_hidden_layers=L)
    transformer = modules.Transformer(str(source), config_kwargs={"output_hidden_states": True})
    weights = torch.nn.Parameter(torch.tensor([0.5, -0.25, 1.5]))
    weighted = modules.WeightedLayerPooling(H, num_hidden_layers=L, layer_start=3, layer_weights=weights)
    pooling = modules.Pooling(H, pooling_mode=modes)
    theirs = sentence_transformers.SentenceTransformer(modules=[transformer, weighted, pooling], device="cpu")
    theirs.save(str(tmp_path / "saved"), safe_serialization=safetensors)
    ours = SentenceEncoder(tmp_path / "saved")
    assert ours.pooling.layers == WeightedLayer([0.5, -0.25, 1.5], 3, ours.pooling.tokens)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "saved/config.json").read_text())["output_hidden_states"] is True


# Training code: its modules written down once more, saved as transformers' Trainer saves them.


class Projection(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.dense = torch.nn.Linear(inputs, H)

    def forward(self, x):
        return torch.tanh(self.dense(x))


class BertForCL(torch.nn.Module):
    """SimCSE's model: [CLS] and, unless it is for training only, a dense layer with tanh."""

    def __init__(self, config):
        super().__init__()
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.mlp = Projection(H)

    def states(self, ids):
        output = self.bert(torch.tensor([ids]), output_hidden_states=True)
        return torch.stack(output.hidden_states)[:, 0]

    def forward(self, ids):
        return self.mlp(self.states(ids)[-1, 0])


class Attention(torch.nn.Module):
    """Oh et al. 2022: a query from [CLS] of every layer, keys and values from the means of all."""

    def __init__(self):
        super().__init__()
        for part in ("key", "query", "value"):
            setattr(self, part, torch.nn.Sequential(torch.nn.Linear(H, H, bias=False), torch.nn.RReLU()))

    def forward(self, states):
        sources, targets = states[:, 0], states.mean(1)
        outputs = []
        for source in sources:
            scores = self.key(targets) @ self.query(source) / len(sources)
            outputs.append(torch.softmax(scores, 0) @ self.value(targets))
        return torch.cat([sources[-1], torch.stack(outputs).mean(0)])


class AttentionForCL(BertForCL):
    def __init__(self, config):
        super().__init__(config)
        self.attn, self.mlp = Attention(), Projection(2 * H)

    def forward(self, ids):
        return self.mlp(self.attn(self.states(ids)))


@pytest.mark.parametrize("kind", [BertForCL, AttentionForCL])
def test_checkpoints_of_training_code(tmp_path, kind):
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=H,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=0.3,
        architectures=["BertForCL"],
    )
    theirs = kind(config).eval()
    config.save_pretrained(tmp_path)
    write_json(tmp_path / "tokenizer.json", tokenizer_json())
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    ours = SentenceEncoder(tmp_path, pooling="cls_mlp" if kind is BertForCL else None)
    assert ours.pooling == ours.folder.pooling
    batch = ours.tokenizer.encode(TEXTS)
    with torch.no_grad():
        expected = [theirs(ids.tolist()).numpy() for ids in np.split(batch.ids, batch.offsets[1:-1])]
    np.testing.assert_allclose(ours.encode(TEXTS), expected, rtol=0, atol=1e-5)
    ours.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(SentenceEncoder(tmp_path / "saved").encode(TEXTS), ours.encode(TEXTS))
    if kind is BertForCL:
        again = opened_by_theirs(tmp_path / "saved").encode(TEXTS)
        np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5)
