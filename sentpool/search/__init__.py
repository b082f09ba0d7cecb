"""Which vectors, or texts, are most similar to a query? Exact, or approximate by another library's index."""

from sentpool.search.approximate import ApproximateIndex
from sentpool.search.exact import Found, search
from sentpool.search.index import SearchIndex
from sentpool.search.quantized import search_bits, search_quantized

__all__ = ["ApproximateIndex", "Found", "SearchIndex", "search", "search_bits", "search_quantized"]
