"""The longest reusable prefix anywhere in the fleet."""

from sage_llm_ops.prefix_reuse.engine_hashes import EngineHashes
from sage_llm_ops.prefix_reuse.found import PrefixMatch
from sage_llm_ops.prefix_reuse.hashing import PrefixKeys, block_keys
from sage_llm_ops.prefix_reuse.index import PrefixReuseIndex
from sage_llm_ops.prefix_reuse.matcher import PrefixMatcher
from sage_llm_ops.prefix_reuse.metrics import PrefixReuseMetrics
from sage_llm_ops.prefix_reuse.view import PrefixFleet

__all__ = [
    "EngineHashes",
    "PrefixFleet",
    "PrefixKeys",
    "PrefixMatch",
    "PrefixMatcher",
    "PrefixReuseIndex",
    "PrefixReuseMetrics",
    "block_keys",
]
