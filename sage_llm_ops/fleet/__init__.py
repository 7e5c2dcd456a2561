"""Which workers there are, what they hold and where there is room. Pure; written only by Observe and Route."""

from sage_llm_ops.fleet.view import Fleet, Needs

__all__ = ["Fleet", "Needs"]
