"""How good are the vectors? Evaluations of our encoder, of other libraries' models and of plain functions."""

from sentpool.evaluation.correlation import pearson, spearman
from sentpool.evaluation.layer_probe import probe
from sentpool.evaluation.probe_result import ProbeResult
from sentpool.evaluation.report import STSResult
from sentpool.evaluation.sample import sample_folder
from sentpool.evaluation.similarity_tasks import sts

__all__ = ["ProbeResult", "STSResult", "pearson", "probe", "sample_folder", "spearman", "sts"]
