"""Every encoder family against transformers, over random configurations of odd sizes: every layer's states, and the
gradients of a step of training."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from numpy_dropout import (  # noqa: E402
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FEED_FORWARD,
    INNER,
    kept_probabilities,
    kept_states,
)
from safetensors.numpy import load_file  # noqa: E402

from sentpool import _core, weights  # noqa: E402
from sentpool.config import EncoderConfig  # noqa: E402
from sentpool.objectives import InfoNCE  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

# Threads that wait for each other take longer than these small products.
torch.set_num_threads(1)

VOCABULARY = 97
SEEDS = range(3)
TEMPERATURE = 0.05
ACTIVATIONS = ["gelu", "gelu_new", "relu", "silu", "gelu_fast", "gelu_pytorch_tanh"]
# The classes by model_type; Nomic-BERT came with transformers 5.
CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
    "electra": "Electra",
    "albert": "Albert",
    "modernbert": "ModernBert",
    "nomic_bert": "NomicBert",
}


def own_fields(family: str, seed: int, rng: random.Random, hidden: int, layers: int, eps: float) -> dict:
    """What only this family's configuration has."""
    if family == "modernbert":
        return {
            **{f"{name}_token_id": id for id, name in enumerate(("pad", "bos", "eos"))},
            **{f"{name}_token_id": id for id, name in enumerate(("cls", "sep"), 1)},
            "num_hidden_layers": max(layers, 3),
            "norm_eps": eps,
            "norm_bias": seed % 2 == 1,
            "attention_bias": seed % 3 == 1,
            "mlp_bias": seed % 3 == 2,
            "local_attention": rng.choice([2, 6, 10, 32, 128]),
            "global_attn_every_n_layers": rng.choice([1, 2, 3]),
            "local_rope_theta": rng.choice([10000.0, 500.0]),
            "attn_implementation": "eager",
        }
    own = {"layer_norm_eps": eps}
    if family in ("electra", "albert"):
        own["embedding_size"] = rng.choice([hidden, 17, 200])
    if family == "albert":
        own["num_hidden_groups"] = min(1 + seed, layers)
    if family in ("bert", "electra"):
        own["type_vocab_size"] = 3
    if family in ("roberta", "xlm-roberta", "camembert"):
        own |= {"type_vocab_size": 1 + seed % 2, "pad_token_id": (1, 0, 5)[seed % 3]}
    return own


def random_encoder(family: str, seed: int):
    """An encoder of transformers with random weights, biases and norms among them."""
    rng, name = random.Random(f"{family} {seed}"), CLASSES[family]
    if not hasattr(transformers, f"{name}Model"):
        pytest.skip(f"this transformers has no {name}Model")
    heads, layers = rng.choice([1, 2, 3, 5, 7]), rng.randint(1, 5)
    hidden = heads * rng.choice([4, 8, 12, 22, 36])
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": rng.choice([5, 31, 100, 300]),
        "max_position_embeddings": rng.choice([20, 70, 300]),
        "initializer_range": min(0.2, 1.5 / hidden**0.5),  # what is far from chaotic
    }
    fields |= own_fields(family, seed, rng, hidden, layers, rng.choice([1e-12, 1e-5]))
    act = {"distilbert": "activation", "modernbert": "hidden_activation"}.get(family, "hidden_act")
    fields[act] = ACTIVATIONS[(seed + len(family)) % len(ACTIVATIONS)]
    if family == "distilbert":
        fields["hidden_dim"] = fields.pop("intermediate_size")
        del fields["layer_norm_eps"]
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**fields)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # transformers begins with ones and zeros
            torch.nn.init.normal_(parameter, float(parameter.mean() > 0.5), 0.2)
    return model


def core_of(theirs, folder):
    """The core with the weights of a model of transformers, and the configuration that it was read by."""
    theirs.save_pretrained(folder)
    config = EncoderConfig.read(folder)
    model = _core.Model(**config.core_arguments())
    weights.load_into(model, folder, config)
    model.finish()
    return model, config


def their_states(model, ids: np.ndarray) -> np.ndarray:
    """(L + 1, T, H); the last one after the final layer norm where there is one."""
    with torch.no_grad():
        out = model(
            torch.from_numpy(ids[None].astype(np.int64)),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            output_hidden_states=True,
        )
    return np.stack([*(state[0].numpy() for state in out.hidden_states[:-1]), out.last_hidden_state[0].numpy()])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", CLASSES)
def test_states_of_every_layer(tmp_path, family, seed):
    """From one token to the maximum; ids at random, among them the padding token, which shifts positions of RoBERTa."""
    theirs = random_encoder(family, seed)
    ours, config = core_of(theirs, tmp_path)
    assert config.architecture.model_type == family
    rng = np.random.default_rng(seed)
    for length in (1, 2, 7, 17, 40, config.max_tokens):
        ids = rng.integers(0, VOCABULARY, min(length, config.max_tokens)).astype(np.int32)
        expected = their_states(theirs, ids)
        found = ours.hidden_states(ids, [0, len(ids)])
        assert found.shape == expected.shape
        for layer, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert np.abs(one - other).max() <= 2e-5 * np.abs(other).max(), (length, layer)


def their_gradients(model, config, rows: list[np.ndarray], folder) -> dict[str, np.ndarray]:
    """Of the InfoNCE loss of mean-pooled rows, whose halves are pairs; by the core's names of tensors. They go through
    a folder as if they were weights, for a model's own names need not be those of its files."""
    model.zero_grad()
    means = [model(torch.from_numpy(ids[None].astype(np.int64))).last_hidden_state[0].mean(0) for ids in rows]
    left, right = torch.nn.functional.normalize(torch.stack(means)).reshape(2, len(rows) // 2, -1)
    torch.nn.functional.cross_entropy(left @ right.T / TEMPERATURE, torch.arange(len(left))).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.save_pretrained(folder, state_dict=gradients)
    stored, found = load_file(folder / "model.safetensors"), {}
    for name, tensor in config.tensors().items():
        found |= zip(tensor.core, np.split(stored[name], len(tensor.core)), strict=True)
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", CLASSES)
def test_gradients_of_a_step(tmp_path, family, seed):
    """Of every tensor, within 1e-4 of its largest entry, or twice as far as PyTorch in float32: where tokens have
    become alike, as in RoBERTa 0, queries and keys get small differences. BERT and RoBERTa alone have every activation.

    A key's bias moves all scores of a query alike, unless rotation tells keys apart: its true gradient is 0, and that
    of the query's bias is the measure.
    """
    theirs = random_encoder(family, seed)
    core, config = core_of(theirs, tmp_path)
    rng = np.random.default_rng(seed)
    lengths = [min(length, config.max_tokens) for length in (1, 9, 40, 17, 300, 3, 2, 33)]
    rows = [rng.integers(0, VOCABULARY, length).astype(np.int32) for length in lengths]
    for module in theirs.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # takes the padding token out of the gradient though it is in the loss
    rounded = their_gradients(theirs, config, rows, tmp_path / "float32")
    expected = their_gradients(theirs.double(), config, rows, tmp_path / "float64")

    training, last = _core.Training(core), config.num_hidden_layers
    offsets = np.cumsum([0, *lengths])
    states = training.forward(np.concatenate(rows), offsets, [last], ["mean"], step=0, first_row=0, threads=2)
    _, d_embeddings = InfoNCE(TEMPERATURE)(states.reshape(2, len(rows) // 2, -1))
    training.backward(d_embeddings.reshape(states.shape), threads=2)

    def distance(one, other):
        return np.abs(one - other).max()

    assert expected.keys() == training.slices.keys()
    for name, (start, stop, shape) in training.slices.items():
        is_zero = name.endswith("key.bias") and "rotary" not in config.core_arguments()
        scale = expected[name.replace("key", "query") if is_zero else name]
        bound = max(1e-4 * np.abs(scale).max(), 2 * distance(rounded[name], expected[name]))
        assert distance(training.gradients[start:stop].reshape(shape), expected[name]) <= bound, name


def drop_as_we_draw(model, draws: dict):
    """Let a model of transformers in training drop what our draws say, where and as likely as it drops itself; returns
    what does it, `drop(x, p, name)`."""
    layers = [0]

    def drop(x, p, name):
        is_attention = x.dim() == 4  # probabilities, which come first in a layer
        layers[0] += is_attention
        if p == 0:
            return x
        if is_attention:
            kept = kept_probabilities(p, draws | {"layer": layers[0], "site": ATTENTION}, *x.shape[1:3])
        else:
            named = {"embedding": EMBEDDING, "att": ATTENTION_OUTPUT, "mlp.drop": INNER}
            site = next((site for part, site in named.items() if part in name), FEED_FORWARD)
            kept = kept_states(p, draws | {"layer": layers[0], "site": site}, 0, *x.shape[1:])
        return x * torch.from_numpy(kept[None]) / (1 - p)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.forward = lambda x, p=module.p, name=name: drop(x, p, name)
    return drop


@pytest.mark.parametrize("family", CLASSES)
def test_values_are_dropped_where_transformers_drops_them(tmp_path, monkeypatch, family):
    """Every probability of the configuration is another one."""
    theirs = random_encoder(family, 1)
    config = theirs.config
    config._attn_implementation, config.reference_compile = "eager", False
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
    for p, name in enumerate((*names, "embedding_dropout", "mlp_dropout"), 1):
        if hasattr(config, name):
            setattr(config, name, p / 20)
    again = type(theirs)(config)
    again.load_state_dict(theirs.state_dict())
    ours, read = core_of(again, tmp_path)
    ids = np.random.default_rng(0).integers(5, VOCABULARY, 17).astype(np.int32)
    drop = drop_as_we_draw(again.double().train(), {"seed": 3, "step": 4, "row": 5})
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, p=0.5, training=True, inplace=False: drop(x, p, ""))
    expected = their_states(again, ids)
    found = ours.hidden_states(ids, [0, len(ids)], dropout=(read.dropout, 3, 4, 5))
    for layer, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert np.abs(one - other).max() <= 2e-5 * np.abs(other).max(), layer


@pytest.mark.parametrize("family", CLASSES)
def test_defaults_are_those_of_transformers(tmp_path, family):
    config_class = getattr(transformers, f"{CLASSES[family]}Config", None)
    if config_class is None:
        pytest.skip(f"this transformers has no {CLASSES[family]}Config")
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}', encoding="utf-8")
    ours, theirs = EncoderConfig.read(tmp_path), config_class()
    for name in ours.architecture.defaults:
        field = ours.architecture.field_name(name)
        if field is not None:
            assert getattr(ours, name) == getattr(theirs, field), name
    for rate, field in zip(ours.dropout, ours.architecture.dropout, strict=True):
        assert rate == (getattr(theirs, field) if field else 0), field
