"""The samples that only show signatures, against ours. Every difference is stated here."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any

import pytest

import sage_llm_ops
from sage_llm_ops import ControlPlaneManager, ExecutionCoordinator, RequestPriority
from tests.seeds.rows import text
from tests.seeds.shapes import Promise, check_methods, defaults, ours, promises

DIFFERENT: dict[tuple[str, str], Any] = {
    ("RequestMetadata", "request_id"): None,  # made where it is left out
    ("ExecutionInstance", "host"): None,  # given: HTTP; not given: direct
    ("ExecutionInstance", "port"): None,
    ("ExecutionInstance", "gpu_count"): None,  # what the parallelism needs
    ("ExecutionInstance", "health_status"): "unknown",  # until somebody has looked
}
"""Defaults of ours that are not the document's, on purpose."""


@pytest.mark.parametrize("name", ["RequestMetadata", "ExecutionInstance", "SchedulingDecision"])
def test_002_4_types(name: str) -> None:
    promise = promises(text("002-4"))[name]
    fields = dataclasses.fields(ours(name))
    assert [field.name for field in fields[: len(promise.fields)]] == list(promise.fields)
    for field, shown in zip(fields, promise.fields.values(), strict=False):
        _check_default(name, field, shown)


def _check_default(name: str, field: dataclasses.Field[Any], shown: str | None) -> None:
    required = dataclasses.MISSING
    promised = required if shown is None else eval(shown, {"RequestPriority": RequestPriority})
    if (name, field.name) in DIFFERENT:
        assert field.default == DIFFERENT[name, field.name] != promised
    else:
        assert field.default == promised, field.name


def test_002_4_further_fields_are_optional() -> None:
    for name, promise in promises(text("002-4")).items():
        for field in dataclasses.fields(ours(name))[len(promise.fields) :]:
            default, factory = field.default, field.default_factory
            assert default is not dataclasses.MISSING or factory is not dataclasses.MISSING


def test_002_4_instance_type_is_an_enum() -> None:
    instance = sage_llm_ops.ExecutionInstance("w", instance_type="general")
    assert instance.instance_type is sage_llm_ops.ExecutionInstanceType.GENERAL


def _manager() -> Promise:
    return promises(text("002-5"))["ControlPlaneManager"]


def test_002_5_constructor() -> None:
    shown = defaults(_manager().methods["__init__"])
    parameters = list(inspect.signature(ControlPlaneManager).parameters.values())
    first = {parameter.name: parameter.default for parameter in parameters[: len(shown)]}
    assert list(first) == list(shown)
    assert first == shown


def test_002_5_methods() -> None:
    check_methods(ControlPlaneManager, _manager())


def test_002_5_attributes_and_views() -> None:
    manager = ControlPlaneManager()
    for name in _manager().attributes:
        assert hasattr(manager, name), name
    queue, running = manager.pending_queue, manager.running_requests
    assert (len(queue), list(queue), len(running), list(running)) == (0, [], 0, [])
    assert running.get("nobody") is None
    for view in (queue, running):
        assert not any(hasattr(view, verb) for verb in ("append", "pop", "clear", "__setitem__"))


def test_002_5_router() -> None:
    assert ControlPlaneManager().router.strategy == "load_balanced"


def test_002_6_executor() -> None:
    promise = promises(text("002-6"))["ExecutionCoordinator"]
    check_methods(ExecutionCoordinator, promise)
    coordinator = ExecutionCoordinator()
    assert dict(coordinator.instances) == dict(coordinator.http_clients) == {}
    assert not hasattr(coordinator.instances, "__setitem__")


def _check_classes(name: str) -> None:
    for cls, promise in promises(text(name)).items():
        check_methods(ours(cls), promise)


def test_002_7_policies() -> None:
    _check_classes("002-7")


def test_002_8_pd_routing() -> None:
    _check_classes("002-8")
    assert ours("PDRoutingStrategy")().config.prefilling_threshold_input_tokens == 800


def test_002_9_router() -> None:
    _check_classes("002-9")
    shown = promises(text("002-9"))["RequestRouter"].methods["__init__"]
    assert isinstance(shown, ast.FunctionDef)
    assert defaults(shown) == {"strategy": "load_balanced"}
    assert ours("RequestRouter")().strategy == "load_balanced"


def test_002_10_parallelism() -> None:
    _check_classes("002-10")
    tp, pp, dp = ours("ParallelismOptimizer")().optimize_hybrid_config(8)
    assert tp * pp * dp == 8
