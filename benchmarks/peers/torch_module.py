"""The model as one torch module, pooling included: what the exporters of other libraries start from."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel

from peers.base import pooling_of

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class PooledEncoder(torch.nn.Module):
    """Token ids in, normalised embeddings out."""

    def __init__(self, folder: Path, attention: str) -> None:
        super().__init__()
        # "eager" spells attention out, which graph optimisers recognise; "sdpa" keeps it one operation.
        self.encoder = AutoModel.from_pretrained(folder, attn_implementation=attention, add_pooling_layer=False).eval()
        self.pooling = pooling_of(folder)

    def forward(self, input_ids, attention_mask, token_type_ids):
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        if self.pooling == "cls":
            embedding = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            embedding = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(embedding, dim=1)


def example() -> dict[str, torch.Tensor]:
    """Two sentences of different lengths, to trace the module with."""
    ids = torch.randint(1000, 20000, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return dict(zip(INPUTS, (ids, mask, torch.zeros_like(ids)), strict=True))
