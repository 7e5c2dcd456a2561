"""What happened and why: the decision ledger and the measured numbers."""

from sage_llm_ops.telemetry.ledger import Ledger
from sage_llm_ops.telemetry.metrics import Metrics

__all__ = ["Ledger", "Metrics"]
