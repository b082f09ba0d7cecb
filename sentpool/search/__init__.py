"""Which vectors, or texts, are most similar to a query? Exact, or approximate by another library's index."""

from sentpool.search.approximate import ApproximateIndex
from sentpool.search.exact import Found, search
from sentpool.search.index import SearchIndex

__all__ = ["ApproximateIndex", "Found", "SearchIndex", "search"]
