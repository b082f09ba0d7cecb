"""How good are the vectors? Evaluations of our encoder, of other libraries' models and of plain functions."""

from sentpool.evaluation.comparison import Comparison, compare
from sentpool.evaluation.correlation import pearson, spearman
from sentpool.evaluation.document_retrieval import retrieval
from sentpool.evaluation.geometry_result import GeometryResult
from sentpool.evaluation.layer_geometry import geometry
from sentpool.evaluation.layer_probe import probe
from sentpool.evaluation.layer_ranking import LayersResult, layers
from sentpool.evaluation.probe_result import ProbeResult
from sentpool.evaluation.report import STSResult
from sentpool.evaluation.retrieval_result import RetrievalResult
from sentpool.evaluation.sample import sample_folder
from sentpool.evaluation.similarity_tasks import sts
from sentpool.evaluation.space_geometry import alignment, uniformity
from sentpool.evaluation.transfer_probe import transfer
from sentpool.evaluation.transfer_result import TransferResult

__all__ = [
    "Comparison",
    "GeometryResult",
    "LayersResult",
    "ProbeResult",
    "RetrievalResult",
    "STSResult",
    "TransferResult",
    "alignment",
    "compare",
    "geometry",
    "layers",
    "pearson",
    "probe",
    "retrieval",
    "sample_folder",
    "spearman",
    "sts",
    "transfer",
    "uniformity",
]
