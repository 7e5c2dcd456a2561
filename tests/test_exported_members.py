"""The public face: what users may import from the top, and that each name is there."""

from __future__ import annotations

import importlib
import inspect

import pytest

import sage_llm_ops
from sage_llm_ops import core, testing

PUBLIC = [
    "ControlPlaneManager",
    "ControlPlaneVLLMService",
    "DecodingConfig",
    "ExecutionCoordinator",
    "ExecutionInstance",
    "ExecutionInstanceType",
    "PDSeparationConfig",
    "ParallelismConfig",
    "ParallelismType",
    "PerformanceMetrics",
    "PrefillingConfig",
    "RequestMetadata",
    "RequestPriority",
    "RequestStatus",
    "SamplingParams",
    "SchedulingDecision",
]
"""A name may be added here; one that is taken away breaks somebody's import."""


def test_the_list() -> None:
    assert sorted(sage_llm_ops.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(sage_llm_ops))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_a_class_of_that_name_at_home(name: str) -> None:
    found = getattr(sage_llm_ops, name)
    assert inspect.isclass(found)
    assert found.__name__ == name
    assert getattr(importlib.import_module(found.__module__), name) is found


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="ControlPlaneManger"):
        _ = sage_llm_ops.ControlPlaneManger  # type: ignore[attr-defined]


@pytest.mark.parametrize("room", [core, testing], ids=lambda room: room.__name__)
def test_rooms_keep_their_lists(room: object) -> None:
    names: list[str] = room.__all__  # type: ignore[attr-defined]
    assert all(hasattr(room, name) for name in names)
    assert len(set(names)) == len(names)
