"""Who is next and where it goes. Pure state machines: no SAGE, engine, thread or clock in here."""

from sage_llm_ops.scheduler_ir.admission import Admission, AdmissionOptions
from sage_llm_ops.scheduler_ir.parallelism import ParallelismOptimizer
from sage_llm_ops.scheduler_ir.pd_separation import (
    SPLITTERS,
    PDNever,
    PDSeparator,
    SeparatorOptions,
    Split,
)
from sage_llm_ops.scheduler_ir.quarantine import Quarantine
from sage_llm_ops.scheduler_ir.retry_budget import RetryBudget, RetryRule
from sage_llm_ops.scheduler_ir.routing import ROUTINGS, Choice, Routing
from sage_llm_ops.scheduler_ir.strategies import STRATEGIES, Strategy

__all__ = [
    "ROUTINGS",
    "SPLITTERS",
    "STRATEGIES",
    "Admission",
    "AdmissionOptions",
    "Choice",
    "PDNever",
    "PDSeparator",
    "ParallelismOptimizer",
    "Quarantine",
    "RetryBudget",
    "RetryRule",
    "Routing",
    "SeparatorOptions",
    "Split",
    "Strategy",
]
