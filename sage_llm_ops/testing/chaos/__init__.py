"""Everything goes wrong, on a seeded schedule, under load: `python -m sage_llm_ops.testing.chaos`.

`run` starts a fleet of real workers, notes what each prompt is answered while all is calm, then
lets clients ask, cancel and vanish while workers are killed, stopped, slowed and made to lie, and
checks at the end that nothing that was promised was broken. A fleet of another kind joins with a
class like `fleet.ProcessFleet`.
"""

from sage_llm_ops.testing.chaos.fleet import ChaosFleet, ProcessFleet
from sage_llm_ops.testing.chaos.report import Report
from sage_llm_ops.testing.chaos.run import run

__all__ = ["ChaosFleet", "ProcessFleet", "Report", "run"]
