"""How workers reach each other. So far: where each of them stands."""

from sage_llm_ops.comm_backend.topology import here

__all__ = ["here"]
