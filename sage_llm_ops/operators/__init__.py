"""The operators, in the order of the flow. `OPERATORS` holds the names a pipeline file may use,
plug-ins among them."""

from sage_llm_ops.operators.admit import Admit
from sage_llm_ops.operators.advance import Advance
from sage_llm_ops.operators.base import Operator
from sage_llm_ops.operators.deliver import Deliver
from sage_llm_ops.operators.execute import Execute
from sage_llm_ops.operators.measure import Measure
from sage_llm_ops.operators.observe import Observe
from sage_llm_ops.operators.pd_split import PDSplit
from sage_llm_ops.operators.plane import Hands, NobodyKnows, Plane, PrefixView, Timers
from sage_llm_ops.operators.prefix_lookup import PrefixLookup
from sage_llm_ops.operators.recover import Recover
from sage_llm_ops.operators.route import Route
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.types.registry import Registry

_OURS = (
    Observe,
    Admit,
    Advance,
    Execute,
    Recover,
    Schedule,
    PrefixLookup,
    PDSplit,
    Route,
    Measure,
    Deliver,
)
OPERATORS: Registry[Operator] = Registry(
    "operator", "operators", Operator, {kind.name: kind for kind in _OURS}
)

__all__ = ["OPERATORS", "Hands", "NobodyKnows", "Operator", "Plane", "PrefixView", "Timers"]
