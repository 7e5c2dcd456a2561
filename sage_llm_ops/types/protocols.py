"""What one pure room may know of another: they meet here, not in each other's modules."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.ids import WorkerId


class FleetView(Protocol):
    """The fleet as a routing reads it: one row a worker, in the order they joined."""

    ids: list[WorkerId]
    slots: npt.NDArray[np.int64]
    """Nodes a worker takes at a time."""
    running: npt.NDArray[np.int64]
    """Nodes it holds now, reservations of this very moment included."""
    tokens: npt.NDArray[np.int64]
    """Tokens those nodes may come to."""
    assigned: npt.NDArray[np.int64]
    """Nodes it was ever given."""
