"""Which workers there are, what they hold and where there is room. Pure.

Written only by Observe and Route."""

from sage_llm_ops.fleet.view import Fleet

__all__ = ["Fleet"]
