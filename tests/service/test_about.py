"""What the server says about a request."""

from __future__ import annotations

from sage_llm_ops.service.gateway.about import explained
from sage_llm_ops.telemetry.ledger import Entry


def test_one_list_of_workers_where_a_row_had_two() -> None:
    """`b` has left and `c` has its row when the second attempt is placed."""
    why = explained(
        "r",
        [
            Entry("fleet", 1, 0.0, workers=["a", "b"]),
            Entry("place", 2, 0.1, "r", 1, "b", rows=[0, 1], costs=[2.0, 1.0]),
            Entry("fleet", 3, 0.2, workers=["a", "c"]),
            Entry("place", 4, 0.3, "r", 2, "c", rows=[1], costs=[1.0]),
        ],
    )
    assert why.workers == ["a", "b", "c"]
    assert [entry.rows for entry in why.entries] == [[0, 1], [2]]
