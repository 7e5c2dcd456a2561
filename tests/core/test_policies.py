"""Policies as a manager's arguments, a services file and a dry run have them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionInstance, PDSeparationConfig, RequestMetadata
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.core.dry_run import CostOptimizedPolicy, FIFOPolicy, RequestRouter
from sage_llm_ops.operators.pd_split import PDSplit
from sage_llm_ops.scheduler_ir import SPLITTERS
from sage_llm_ops.types.errors import ConfigError, OverBudget, UnknownName

HEAD = """\
[services.llm]
type = "ControlPlaneVLLMService"
"""


def splitter(manager: ControlPlaneManager) -> str:
    operator = manager.control.pipeline.operators["pd_split"]
    assert isinstance(operator, PDSplit)
    return operator.splitter.name


@pytest.mark.parametrize("policy", sorted(SPLITTERS))
def test_every_pd_policy_can_be_chosen_everywhere(policy: str, tmp_path: Path) -> None:
    """Regression: a services file could only have the default one."""
    file = tmp_path / "s.toml"
    file.write_text(f'{HEAD}pd_policy = "{policy}"\n')
    assert splitter(ControlPlaneManager.from_config(file)) == policy
    assert splitter(ControlPlaneManager(pd_policy=policy)) == policy
    config = PDSeparationConfig(routing_policy=policy)
    assert splitter(ControlPlaneManager(pd_config=config)) == policy
    assert splitter(ControlPlaneManager(pipeline=serving(pd_policy=policy))) == policy


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"pd_policy": "sometimes"}, "'sometimes'"),
        ({"pd_policy": "hash", "enable_pd_separation": False}, "pd_policy out"),
        (
            {"pd_policy": "hash", "pd_config": PDSeparationConfig(routing_policy="always")},
            "contradict",
        ),
    ],
)
def test_pd_policies_that_cannot_be(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ControlPlaneManager(**said)


@pytest.mark.parametrize("key", ["scheduling_policy", "routing_strategy", "pd_policy"])
def test_an_unknown_name_is_told_where_it_stands(key: str, tmp_path: Path) -> None:
    """Regression: a manager named the operator's option, which stands in no services file."""
    file = tmp_path / "s.toml"
    file.write_text(f'{HEAD}ledger = "x"\n{key} = "nobody"\n')
    with pytest.raises(UnknownName) as caught:
        ControlPlaneManager.from_config(file)
    assert (caught.value.file, caught.value.line) == (str(file), 4)
    assert caught.value.key == f"services.llm.{key}"


@pytest.mark.parametrize(
    "beside",
    [
        {"scheduling_policy": "nobody"},
        {"routing_strategy": "random"},
        {"enable_pd_separation": False},
        {"admission": {"max_pending": 1}},
        {"pd_policy": "hash"},
        {"max_in_flight": 7},
    ],
)
def test_beside_a_pipeline_nothing_is_accepted_and_ignored(beside: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(beside))):
        ControlPlaneManager(pipeline=serving(), **beside)


FLEET = [
    ExecutionInstance("dear", model_name="m", price_per_hour=100.0),
    ExecutionInstance("cheap", model_name="m", price_per_hour=1.0),
]


def test_a_dry_run_minds_money_as_the_graph_does() -> None:
    """Regression: `cost_optimized` said the same as all others, and nobody looked at a budget."""
    request = RequestMetadata(request_id="a", prompt="hello", model_name="m")
    tight = RequestMetadata(request_id="b", prompt="hello", model_name="m", cost_budget=5e-4)
    none = RequestMetadata(request_id="c", prompt="hello", model_name="m", cost_budget=1e-9)

    async def decide() -> list[str]:
        plain, thrifty = FIFOPolicy(), CostOptimizedPolicy()
        asked = [(plain, request), (thrifty, request), (plain, tight), (thrifty, tight)]
        found = [(await policy.schedule(one, FLEET)).instance_id for policy, one in asked]
        with pytest.raises(OverBudget, match="cost_budget=1e-09"):
            await plain.schedule(none, FLEET)
        return found

    assert asyncio.run(decide()) == ["dear", "cheap", "cheap", "cheap"]


def test_a_managers_router_has_its_options() -> None:
    manager = ControlPlaneManager(routing_strategy="affinity", routing_options={"factor": 3.0})
    assert manager.router._routing.options.factor == 3.0
    with pytest.raises(UnknownName, match="did you mean 'factor'"):
        RequestRouter("affinity", options={"factr": 3.0})


def test_a_service_routes_by_prefixes_where_nobody_says(tmp_path: Path) -> None:
    """Neither its table, nor who makes the manager, nor a pipeline that says its own."""
    file = tmp_path / "s.toml"
    file.write_text(HEAD)
    of = ControlPlaneManager.from_config
    assert of(file).routing_strategy == "predicted_latency"
    assert of(file, routing_strategy="locality").routing_strategy == "locality"
    assert of(file, pipeline=serving()).routing_strategy == "load_balanced"
    assert ControlPlaneManager().routing_strategy == "load_balanced"
