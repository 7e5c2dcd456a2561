"""The simulated engine: scale, tests and what-if without a model."""

from sage_llm_ops.engines.sim.core import SimCore
from sage_llm_ops.engines.sim.engine import SimEngine
from sage_llm_ops.engines.sim.options import SimOptions

__all__ = ["SimCore", "SimEngine", "SimOptions"]
