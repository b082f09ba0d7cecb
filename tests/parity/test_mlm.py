"""The head of a masked language model against those of transformers: loss and every gradient."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fabricate_families import CONFIGS, family_folder  # noqa: E402

from sentpool import SentenceEncoder, Trainer, _core, objectives  # noqa: E402
from sentpool.config import EncoderConfig  # noqa: E402
from sentpool.masked_language_model import MaskedLanguageModel  # noqa: E402
from sentpool.mlm_head import read_head  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


def bert(**changes):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        intermediate_size=40,
        max_position_embeddings=60,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **changes,
    )
    model = transformers.BertForMaskedLM(config)
    for parameter in model.parameters():  # biases and layer norms start as 0 and 1
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return SentenceEncoder(folder)


def head_of(model):
    """The prediction head of a BERT or RoBERTa, and its parameters by our names; of the decoder the bias alone."""
    if hasattr(model, "cls"):
        head, transform = model.cls, model.cls.predictions.transform
        dense, norm, decoder = transform.dense, transform.LayerNorm, model.cls.predictions.decoder
    else:
        head, dense, norm, decoder = model.lm_head, model.lm_head.dense, model.lm_head.layer_norm, model.lm_head.decoder
    named = {"dense.weight": dense.weight, "dense.bias": dense.bias, "bias": decoder.bias}
    return head, named | {"norm.weight": norm.weight, "norm.bias": norm.bias}, decoder.weight


def assert_head_agrees(reference, masked, rows, labels):
    head, parameters, words = head_of(reference)
    table = words.detach().numpy().astype(np.float32).copy()
    x = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    reference.double().zero_grad()
    expected = torch.nn.functional.cross_entropy(head(x), torch.tensor(labels, dtype=torch.long))
    expected.backward()
    masked.start(len(rows))
    d_rows = masked.backward(rows, labels, np.array([0, 20, len(rows)]), table)
    d_table = np.zeros_like(table)
    assert masked.finish(d_table) == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: masked.store.gradient(name) for name in parameters} | {"words": d_table, "rows": d_rows}
    references = {name: parameter.grad for name, parameter in parameters.items()} | {
        "words": words.grad,
        "rows": x.grad,
    }
    for name, gradient in gradients.items():
        exact = references[name].numpy()
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=2e-5 * np.abs(exact).max(), err_msg=name)


def batch():
    rng = np.random.default_rng(1)
    return rng.standard_normal((50, 32)).astype(np.float32), rng.integers(0, len(VOCABULARY), 50)


def test_bert(tmp_path):
    reference = bert()
    masked = MaskedLanguageModel(saved(reference, tmp_path), weight=1.0)
    assert_head_agrees(reference, masked, *batch())


def test_roberta(tmp_path):
    """Its head, in a folder whose encoder is a BERT: what is read are the names."""
    plain = bert()
    config = transformers.RobertaConfig(**plain.config.to_diff_dict() | {"model_type": "roberta"})
    reference = transformers.RobertaForMaskedLM(config)
    for parameter in reference.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    tensors = {name: value for name, value in plain.state_dict().items() if not name.startswith("cls.")}
    tensors |= {name: value for name, value in reference.state_dict().items() if name.startswith("lm_head.")}
    model = saved(plain, tmp_path)
    from safetensors.torch import save_file

    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, tmp_path / "model.safetensors")
    masked = MaskedLanguageModel(SentenceEncoder(model.folder.path), weight=1.0)
    assert_head_agrees(reference, masked, *batch())


def test_the_whole_model(tmp_path):
    """Masked sentences through encoder and head: the loss of BertForMaskedLM."""
    reference = bert().eval()
    model = saved(reference, tmp_path)
    masked = MaskedLanguageModel(model, seed=5)
    texts = ["a b c d e f g h", "q w e r t y", "m n b v c x z l k j h g f d s a", "p"] * 6
    tokens = model.tokenizer.encode(texts)
    chosen = masked.choose(tokens.ids, tokens.offsets, step=1)
    assert len(chosen.labels) > 10
    labels = np.full(len(tokens.ids), -100)
    labels[chosen.positions] = chosen.labels
    total = 0.0
    for first, end in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True):
        ids, wanted = (torch.tensor(part[first:end], dtype=torch.long)[None] for part in (chosen.ids, labels))
        if (wanted >= 0).any():
            total += reference(input_ids=ids, labels=wanted).loss.item() * int((wanted >= 0).sum())
    states = model._core.hidden_states(chosen.ids, tokens.offsets)[-1][chosen.positions]
    masked.start(len(chosen.labels))
    table = reference.bert.embeddings.word_embeddings.weight.detach().numpy()
    groups = np.arange(len(texts) + 1)
    masked.backward(states, chosen.labels, masked.cuts(chosen.positions, tokens.offsets, groups), table)
    assert masked.finish(np.zeros_like(table)) == pytest.approx(total / len(chosen.labels), rel=1e-5)


FAMILIES = {
    "Bert": {"hidden_act": "gelu"},
    "Roberta": {},
    "XLMRoberta": {},
    "Camembert": {},
    "DistilBert": {"dim": 32, "n_heads": 2, "n_layers": 2, "hidden_dim": 40, "activation": "relu"},
    "MPNet": {},
    "Albert": {"embedding_size": 20, "hidden_act": "gelu_new"},
    "Electra": {"embedding_size": 20},
    "ModernBert": {"num_hidden_layers": 3, "cls_token_id": 2, "sep_token_id": 3, "attn_implementation": "eager"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_every_family(family, tmp_path):
    """Logits of transformers, from ids to the end, against the head of the folder on the last layer's states."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 40}
    fields = {**sizes, "vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 0, **FAMILIES[family]}
    config = getattr(transformers, f"{family}Config")(**fields)
    reference = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    for parameter in reference.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    reference.tie_weights()
    reference.save_pretrained(tmp_path)
    ids, labels = torch.arange(5, 25)[None], np.arange(20) % 50
    logits = reference(input_ids=ids).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
    head = read_head(tmp_path, EncoderConfig.read(tmp_path), seed=0)
    assert not head.is_fresh
    p = [head.parameters[name] for name in ("dense.weight", "dense.bias", "norm.weight", "norm.bias")]
    p += [reference.get_input_embeddings().weight.detach().numpy(), head.parameters["bias"]]
    gradients = tuple(map(np.zeros_like, p))
    rows = reference.base_model(input_ids=ids).last_hidden_state[0].detach().numpy()
    losses, _ = _core.mlm_head(rows, labels, [0, 20], tuple(p), gradients, head.eps, head.activation, 1.0)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", [family for family in CONFIGS if not family.startswith("nomic")])
def test_a_trained_head_opens_in_transformers(family, tied, tmp_path):
    """Every tensor finds its place, and its losses are those of the head that was trained."""
    torch.manual_seed(2)
    folder = family_folder(tmp_path / "m", family, **({"pad_token_id": 0} if family == "modernbert" else {}))
    if not tied:
        config = transformers.AutoConfig.from_pretrained(folder, tie_word_embeddings=False)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    model = SentenceEncoder(folder)
    trainer = Trainer(model, objectives.InfoNCE(), mlm_weight=0.5, batch_size=4, learning_rate=1e-3, max_steps=3)
    trainer.fit(["the cat sat on the mat", "big dog runs", "a happy cat", "the dog", "small cat", "a mat", "big mat"])
    model.save_pretrained(tmp_path / "saved")
    reference, loading = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True, attn_implementation="eager"
    )
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    decoder, words = reference.get_output_embeddings().weight, reference.get_input_embeddings().weight
    assert (decoder is words) == tied
    batch = model.tokenizer.encode(["the small dog sat on a happy mat"])
    labels = np.arange(len(batch.ids)) % len(words)
    logits = reference.eval()(input_ids=torch.tensor(batch.ids, dtype=torch.long)[None]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
    masked = MaskedLanguageModel(model)
    masked.start(len(labels))
    rows = model.hidden_states("the small dog sat on a happy mat")[-1]
    masked.backward(rows, labels, np.array([0, len(labels)]), words.detach().numpy())
    assert masked.finish(np.zeros_like(words.detach().numpy())) == pytest.approx(expected, rel=2e-5)
    # An encoder alone is in the folder as before.
    states = transformers.AutoModel.from_pretrained(tmp_path / "saved").eval()(torch.tensor(batch.ids)[None])[0]
    np.testing.assert_allclose(states[0].detach().numpy(), rows, atol=2e-5)
