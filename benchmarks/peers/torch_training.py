"""Unsupervised SimCSE with torch and transformers, a step at a time: the loop of the paper's code, on the CPU."""

from __future__ import annotations

import contextlib

import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from peers.base import Job, pooling_of

TEMPERATURE = 0.05


class Encoder:
    """Trains on batches of texts in the order in which they come, in float32 or under bfloat16 autocast."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(0)
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        self.model = AutoModel.from_pretrained(job.folder, add_pooling_layer=False, **dropout).train()
        self.tokenizer = AutoTokenizer.from_pretrained(job.folder)
        self.pooling, self.precision, self.step = pooling_of(job.folder), job.precision, 0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-5, weight_decay=0.0)

    @staticmethod
    def prepare(job: Job) -> None:
        """The folder itself is read."""

    def train(self, texts: list[str], batch_size: int, max_length: int, steps: int) -> list[float]:
        """The next `steps` steps over the texts; their losses."""
        losses = []
        for _ in range(steps):
            start = self.step * batch_size % (len(texts) - batch_size + 1)
            losses.append(self._train(texts[start : start + batch_size], max_length))
            self.step += 1
        return losses

    def _train(self, texts: list[str], max_length: int) -> float:
        inputs = self.tokenizer(
            [*texts, *texts], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
        )
        autocast = torch.autocast("cpu", torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        with autocast:
            hidden = self.model(**inputs).last_hidden_state
            if self.pooling == "cls":
                pooled = hidden[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1)
            first, second = functional.normalize(pooled.float(), dim=1).chunk(2)
            loss = functional.cross_entropy(first @ second.T / TEMPERATURE, torch.arange(len(first)))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
