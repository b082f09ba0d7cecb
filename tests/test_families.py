"""The encoder families without torch: states against NumPy in float64, equal bits, saving, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fabricate import write_json
from fabricate_families import CONFIGS, family_folder, family_tensors
from folder_checks import refused
from noise import noisy_ids
from numpy_families import Encoder
from safetensors.numpy import load_file
from test_bits import environments, golden

import sentpool
from sentpool import SentenceEncoder, SentpoolWarning, Trainer, _core, objectives
from sentpool.config import EncoderConfig
from sentpool.trained_weights import put_tensors, trained_tensors

every_family = pytest.mark.parametrize("family", CONFIGS)
HERE = Path(__file__).resolve().parent
SENTENCES = ["The cat sat on the mat.", "A BIG dog runs!", "", "unhappy running 中文", "the " * 400]
LENGTHS = (1, 2, 7, 17, 33, 72)
# What bits could depend on: windows wider than a block of 256 keys, heads of odd sizes, biases everywhere.
VARIANTS = {
    "modernbert wide": ("modernbert", {"local_attention": 400, "max_position_embeddings": 600}),
    "modernbert biased": (
        "modernbert",
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "num_attention_heads": 3, "hidden_size": 42},
    ),
    "mpnet long": ("mpnet", {"max_position_embeddings": 400}),
    "electra plain": ("electra", {"embedding_size": 24}),
    "albert one group": ("albert", {"num_hidden_groups": 1}),
    "nomic biased": (
        "nomic_bert own code",
        {"qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True, "activation_function": "geglu"},
    ),
} | {family: (family, {}) for family in CONFIGS}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def opened(folder: Path, variant: str) -> SentenceEncoder:
    family, changes = VARIANTS[variant]
    return SentenceEncoder(family_folder(folder / variant, family, **changes))


def packed(model: SentenceEncoder, lengths) -> tuple[np.ndarray, np.ndarray]:
    """Token ids at random and offsets; lengths are cut where positions end."""
    lengths = [min(length, model.folder.config.max_tokens) for length in lengths]
    return noisy_ids(model.folder.config.vocab_size, sum(lengths)), np.cumsum([0, *lengths])


# ---- states --------------------------------------------------------------------------------------------------------


@every_variant
def test_states_of_every_layer(tmp_path, variant):
    model = opened(tmp_path, variant)
    config = json.loads((tmp_path / variant / "config.json").read_text())
    oracle = Encoder(config, family_tensors(config))
    ids, offsets = packed(model, (*LENGTHS, 600))
    found = model._core.hidden_states(ids, offsets)
    for start, end in zip(offsets, offsets[1:], strict=False):
        expected = oracle.states(ids[start:end])
        assert found[:, start:end].shape == expected.shape
        for layer, (one, other) in enumerate(zip(found[:, start:end], expected, strict=True)):
            assert np.abs(one - other).max() <= 2e-5 * np.abs(other).max(), (end - start, layer)


@every_family
def test_the_embedding_is_the_mean_of_the_last_states(tmp_path, family):
    model = SentenceEncoder(family_folder(tmp_path, family))
    means = [states[-1].mean(0, dtype=np.float64) for states in model.hidden_states(SENTENCES)]
    np.testing.assert_allclose(model.encode(SENTENCES), means, atol=1e-5)
    longest = model.folder.config.max_tokens
    assert model.hidden_states(SENTENCES[-1]).shape[1] == min(longest, model.max_seq_length) == longest


def test_padding_tokens_inside_a_sentence_have_no_positions_of_their_own(tmp_path):
    """fairseq's rule; the ids are those of a sentence in which somebody wrote the padding token."""
    model = SentenceEncoder(family_folder(tmp_path, "roberta", pad_token_id=3))
    ids = np.array([5, 3, 6, 3, 3, 7], np.int32)
    table, words = (
        family_tensors(CONFIGS["roberta"])[f"embeddings.{kind}_embeddings.weight"] for kind in ("position", "word")
    )
    rows = [4, 3, 5, 3, 3, 6]
    z = words[ids] + table[rows] + family_tensors(CONFIGS["roberta"])["embeddings.token_type_embeddings.weight"][0]
    z = z - z.mean(1, keepdims=True)
    expected = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-5)
    norm = [family_tensors(CONFIGS["roberta"])[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")]
    found = model._core.hidden_states(ids, [0, 6])[0]
    np.testing.assert_allclose(found, expected * norm[0] + norm[1], atol=1e-5)


# Every probability that a family has, differently.
RATES = {
    "distilbert": {"dropout": 0.1, "attention_dropout": 0.2},
    "modernbert": {"embedding_dropout": 0.1, "attention_dropout": 0.2, "mlp_dropout": 0.3},
    "nomic_bert own code": {"resid_pdrop": 0.1, "attn_pdrop": 0.2},
}
BERT_RATES = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}


@every_variant
def test_states_with_dropout(tmp_path, variant):
    """Where the family's own code drops, and nowhere else."""
    family, changes = VARIANTS[variant]
    model = SentenceEncoder(family_folder(tmp_path, family, **changes, **RATES.get(family, BERT_RATES)))
    config = json.loads((tmp_path / "config.json").read_text())
    ids, offsets = packed(model, LENGTHS)
    found = model._core.hidden_states(ids, offsets, dropout=(model.folder.config.dropout, 7, 3, 5), threads=2)
    for row, (start, end) in enumerate(zip(offsets, offsets[1:], strict=False), 5):
        expected = Encoder(config, family_tensors(config), {"seed": 7, "step": 3, "row": row}).states(ids[start:end])
        for layer, (one, other) in enumerate(zip(found[:, start:end], expected, strict=True)):
            assert np.abs(one - other).max() <= 2e-5 * np.abs(other).max(), (end - start, layer)


@every_family
def test_each_probability_is_read_and_dropout_replaces_all(tmp_path, family):
    """One at a time from `config.json`; `Trainer(dropout=)` stands for all of them, even of a folder that has none."""
    rates = RATES.get(family, BERT_RATES)
    none = SentenceEncoder(family_folder(tmp_path / "none", family, **dict.fromkeys(rates, 0.0)))
    assert not any(none.folder.config.dropout)
    applied = [rate > 0 for rate in Trainer(none, objectives.InfoNCE(), dropout=0.25).settings.dropout]
    seen = np.zeros(5, bool)
    for name in rates:
        one = SentenceEncoder(family_folder(tmp_path / name, family, **{**dict.fromkeys(rates, 0.0), name: 0.25}))
        assert set(one.folder.config.dropout) == {0.0, 0.25}
        seen |= np.array(one.folder.config.dropout) > 0
        assert one.hidden_states("the cat", dropout_seed=1).tobytes() != none.hidden_states("the cat").tobytes()
    assert seen.tolist() == applied


def test_a_probability_that_the_family_does_not_apply_is_said(tmp_path):
    quiet = SentenceEncoder(family_folder(tmp_path / "quiet", "nomic_bert own code", embd_pdrop=0.0))
    Trainer(quiet, objectives.InfoNCE())
    model = SentenceEncoder(family_folder(tmp_path / "m", "nomic_bert own code", embd_pdrop=0.1))
    with pytest.warns(SentpoolWarning, match="embd_pdrop is 0.1, and nothing is dropped by it"):
        Trainer(model, objectives.InfoNCE())
    Trainer(model, objectives.InfoNCE(), dropout=0.1)


# ---- bits ----------------------------------------------------------------------------------------------------------


def digest(model: SentenceEncoder, **options) -> str:
    ids, offsets = packed(model, (3, 72, 1, 31, 600, 33, 8, 300, 17))
    layers = range(model.n_layers + 1)
    states = model._core.layer_states(ids, offsets, layers, ("cls", "mean", "max"), **options)
    hidden = model._core.hidden_states(ids, offsets, threads=options.get("threads", 1))
    return hashlib.sha256(states.tobytes() + hidden.tobytes()).hexdigest()


@pytest.mark.bits
@every_variant
def test_batch_and_threads_change_nothing(tmp_path, variant):
    model, expected = opened(tmp_path, variant), golden()[variant]
    for threads in (1, 2, 3, 7):
        for batch_size in (1, 8, 512):
            assert digest(model, threads=threads, batch_size=batch_size) == expected, (threads, batch_size)
    ids, offsets = packed(model, (3, 72, 1, 31, 600, 33))
    whole = model._core.hidden_states(ids, offsets)
    for start, end in zip(offsets, offsets[1:], strict=False):
        alone = model._core.hidden_states(ids[start:end], [0, end - start])
        assert alone.tobytes() == np.ascontiguousarray(whole[:, start:end]).tobytes()


CHILD = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_families import SentenceEncoder, digest
print(json.dumps({path.name: digest(SentenceEncoder(path), threads=2) for path in Path(sys.argv[2]).iterdir()}))
"""


@pytest.fixture(scope="module")
def variants(tmp_path_factory) -> Path:
    """A folder with every variant."""
    folder = tmp_path_factory.mktemp("families")
    for variant, (family, changes) in VARIANTS.items():
        family_folder(folder / variant, family, **changes)
    return folder


@pytest.mark.every_way
@pytest.mark.bits
@pytest.mark.parametrize("way", environments())
def test_golden_hashes(variants, way):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(HERE), str(variants)],
        env=os.environ | environments()[way],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    expected = golden()
    assert json.loads(run.stdout.splitlines()[-1]) == {variant: expected[variant] for variant in VARIANTS}


# ---- folders -------------------------------------------------------------------------------------------------------


@every_family
def test_the_core_has_the_tensors_of_the_table(tmp_path, family):
    config = EncoderConfig.read(family_folder(tmp_path, family))
    assert _core.Model(**config.core_arguments()).tensors() == config.core_shapes()
    stored = family_tensors(json.loads((tmp_path / "config.json").read_text()))
    assert config.tensor_shapes() == {name: array.shape for name, array in stored.items()}


@every_family
def test_saved_and_opened_again(tmp_path, family):
    model = SentenceEncoder(family_folder(tmp_path / "source", family), pooling="cls")
    model.save_pretrained(tmp_path / "saved")
    again = SentenceEncoder(tmp_path / "saved")
    assert again.encode(SENTENCES).tobytes() == model.encode(SENTENCES).tobytes()
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    # Nomic-BERT's hub folders open elsewhere by their code alone
    assert ("auto_map" in written) == (family == "nomic_bert own code")


@every_family
def test_trained_weights_are_saved_as_the_family_stores_them(tmp_path, family):
    """The same numbers with a step's change in them, under the names and in the stacks of the source."""
    model = SentenceEncoder(family_folder(tmp_path / "source", family))
    changed = {name: array * np.float32(1.25) for name, array in trained_tensors(model._core).items()}
    put_tensors(model._core, changed)
    model._trained = {"steps": 1}
    model.save_pretrained(tmp_path / "saved")
    stored = family_tensors(json.loads((tmp_path / "source" / "config.json").read_text()))
    written = load_file(tmp_path / "saved" / "model.safetensors")
    assert written.keys() == stored.keys()
    assert all(np.array_equal(written[name], array * np.float32(1.25)) for name, array in stored.items())
    assert SentenceEncoder(tmp_path / "saved").encode(SENTENCES).tobytes() == model.encode(SENTENCES).tobytes()


@pytest.mark.parametrize(
    ("family", "prefix"),
    [
        ("roberta", "roberta."),
        ("xlm-roberta", "roberta."),
        ("camembert", "roberta."),
        ("distilbert", "distilbert."),
        ("mpnet", "mpnet."),
        ("electra", "electra."),
        ("albert", "albert."),
        ("modernbert", "model."),
        ("nomic_bert", "nomic_bert."),
        ("nomic_bert own code", "bert."),
    ],
)
def test_prefixes_of_training_classes(tmp_path, family, prefix):
    plain = SentenceEncoder(family_folder(tmp_path / "plain", family))
    head = {"lm_head.bias": np.zeros(3, np.float32)}
    with pytest.warns(sentpool.SentpoolWarning, match="1 tensor is not used by the encoder: lm_head.bias"):
        prefixed = SentenceEncoder(family_folder(tmp_path / "prefixed", family, prefix=prefix, extra=head))
    assert prefixed.encode(SENTENCES).tobytes() == plain.encode(SENTENCES).tobytes()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("roberta", {"pad_token_id": 999}, "'pad_token_id' is 999; expected an integer from 0 to"),
        ("roberta", {"pad_token_id": 80}, "'pad_token_id' is 80; expected an integer from 0 to"),
        ("roberta", {"max_position_embeddings": 2}, "'max_position_embeddings' is 2; expected more than 2"),
        ("roberta", {"position_embedding_type": "relative_key"}, "'position_embedding_type' is 'relative_key'"),
        ("distilbert", {"dim": 25}, "'n_heads' is 2; expected a divisor of dim, which is 25"),
        ("distilbert", {"dim": "24"}, "'dim' is '24'; expected an integer"),
        ("distilbert", {"activation": "quick_gelu"}, "'activation' is 'quick_gelu'"),
        ("distilbert", {"n_layers": 4}, "16 tensors are missing for model_type 'distilbert'"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "'relative_attention_num_buckets' is 16; expected 32"),
        ("electra", {"embedding_size": 0}, "'embedding_size' is 0; expected an integer from 1"),
        ("albert", {"inner_group_num": 2}, "'inner_group_num' is 2; expected 1"),
        ("albert", {"num_hidden_groups": 4}, "'num_hidden_groups' is 4; expected an integer from 1 to 3"),
        ("modernbert", {"local_attention": 1}, "'local_attention' is 1; expected an integer from 2"),
        ("modernbert", {"layer_types": ["full_attention"]}, "'layer_types' is .*; expected 4 of full_attention"),
        ("modernbert", {"num_attention_heads": 8}, "'num_attention_heads' is 8; expected heads of an even size"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "'rope_parameters.full_attention.rope_type' is 'yarn'; expected \"default\"",
        ),
        ("modernbert", {"rope_scaling": {"type": "linear"}}, "'rope_scaling' is .*; expected null"),
        ("nomic_bert", {"head_dim": 16}, "'head_dim' is 16; expected 12"),
        ("nomic_bert own code", {"prenorm": True}, "'prenorm' is True; expected false"),
        (
            "nomic_bert own code",
            {"activation_function": "gelu"},
            "'activation_function' is 'gelu'; expected \"swiglu\"",
        ),
        (
            "nomic_bert own code",
            {"rotary_emb_fraction": 0.0},
            "'rotary_emb_fraction' is 0.0; expected a part",
        ),
        ("nomic_bert own code", {"mlp_fc2_bias": True}, "'mlp_fc2_bias' is True; expected false"),
        ("nomic_bert own code", {"rotary_scaling_factor": 2}, "'rotary_scaling_factor' is 2; expected null"),
    ],
)
def test_what_a_family_does_not_do_is_refused_by_name_and_value(tmp_path, family, changes, message):
    family_folder(tmp_path, family)
    config = CONFIGS[family] | changes
    write_json(tmp_path / "config.json", config)
    refused(tmp_path, message)


def test_newer_fields_of_modernbert_say_the_same(tmp_path):
    old = SentenceEncoder(family_folder(tmp_path / "old", "modernbert"))
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    rotary = {
        "full_attention": {"rope_type": "default", "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }
    without = dict.fromkeys(("global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"))
    folder = family_folder(tmp_path / "new", "modernbert", **without, layer_types=kinds, rope_parameters=rotary)
    assert SentenceEncoder(folder).encode(SENTENCES).tobytes() == old.encode(SENTENCES).tobytes()


def test_a_stacked_tensor_of_the_wrong_height_is_named_with_its_parts(tmp_path):
    folder = family_folder(tmp_path, "modernbert")
    write_json(folder / "config.json", CONFIGS["modernbert"] | {"intermediate_size": 41})
    refused(folder, r"'layers.0.mlp.Wi.weight' has shape \(80, 24\); .* \(82, 24\) \(2 x intermediate_size 82, hidden")


# ---- the core ------------------------------------------------------------------------------------------------------

PLAIN = {
    "vocab_size": 9,
    "max_positions": 8,
    "type_vocab_size": 0,
    "hidden": 12,
    "layers": 2,
    "heads": 2,
    "intermediate": 5,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rotary": 3}, "rotary is 3; it must be even"),
        ({"rotary": 8}, "rotary is 8; it must be from 0 to 6"),
        ({"rotary_base": 0.0}, "rotary_base must be a finite number, above 0"),
        ({"padding_id": 1}, "padding_id is 1; it must be from -1 to -1"),
        ({"padding_id": 9, "position_offset": 1}, "padding_id is 9; it must be from -1 to 8"),
        ({"relative_buckets": 3}, "relative_buckets is 3; it must be from 4"),
        ({"local_layers": [1]}, "local_window is 0; it must be from 1"),
        ({"local_layers": [2], "local_window": 1}, "local_layers is 2; it must be from 0 to 1"),
        ({"groups": 3}, "groups is 3; it must be from 1 to 2"),
        ({"embedding": 5}, "embedding is 5; without a projection it must be hidden"),
        ({"first_norm": False}, "first_norm can only be left out with pre_norm"),
        ({"type_vocab_size": -1}, "type_vocab_size is -1; it must be from 0"),
    ],
)
def test_the_core_refuses_what_it_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        _core.Model(**PLAIN | changes)
    with pytest.raises(TypeError):
        _core.Model(**PLAIN, local_layers=3)


@pytest.mark.parametrize("family", ["modernbert", "mpnet", "albert"])
def test_every_allocation_may_fail(tmp_path, family):
    model = SentenceEncoder(family_folder(tmp_path, family))
    ids, offsets = packed(model, (5, 30))
    expected = model._core.hidden_states(ids, offsets, threads=2)
    for n in range(1, 100):
        _core.fail_allocation(n)
        try:
            found = model._core.hidden_states(ids, offsets, threads=2)
        except MemoryError:
            continue
        finally:
            _core.fail_allocation(0)
        assert found.tobytes() == expected.tobytes()
        if n > 8:
            break
    else:
        pytest.fail("no call went through")
