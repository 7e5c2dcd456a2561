"""What is known of worker classes before any step of theirs was seen: `priors.json`, with sources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from sage_llm_ops.cost_model.step import Coefficients

TABLED = {"llama-2-70b": "llama2-70b", "bloom": "bloom-176b"}
"""Models that a table calls otherwise than their makers do."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Step coefficients of one class and where they come from."""

    coefficients: Coefficients
    source: str


@cache
def table() -> dict[str, Any]:
    """The shipped file: `steps` by class, `operators` by name."""
    found: dict[str, Any] = json.loads((files(__package__) / "priors.json").read_text("utf-8"))
    return found


def prior(hardware: str, model: str, tensor_parallel: int) -> Prior | None:
    """None where nothing fits: a guess from other hardware would look like knowledge."""
    if not hardware:
        return None
    name = model.rsplit("/", 1)[-1].lower()
    short = name.removeprefix("meta-")
    for more in ("-instruct", "-hf", "-chat"):
        short = short.removesuffix(more)
    for key in (name, short, TABLED.get(short, "")):
        row = table()["steps"].get(f"{hardware.lower()}|{key}|{tensor_parallel}")
        if row is not None:
            return Prior(np.array(row["ms"]), row["source"])
    return None
