"""Admit: let in, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.admit import Admit
from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.events import Arrive
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request, SamplingParams


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"model": "nope"}, "no_instance", ["'nope'", "models here: 'm'"]),
        ({"task": "embed"}, "no_instance", ["'embed'", "only 'generate'"]),
        ({"pin": "w9"}, "no_instance", []),
        ({"n_prompt": 4090, "max_tokens": 8}, "invalid_request", ["4090", "4096", "shorten"]),
        ({"estimated": True, "max_tokens": 4096}, "invalid_request", ["any prompt", "4096"]),
        ({"timeout_s": float("nan")}, "invalid_request", ["timeout_s=nan", "0 or more"]),
        ({"timeout_s": -1.0}, "invalid_request", ["timeout_s=-1.0"]),
    ],
)
def test_refusals_name_value_and_limit(
    graph: Harness, fields: dict[str, Any], code: str, said: list[str]
) -> None:
    assert not graph.arrive("a", **fields)
    (end,) = graph.refused
    assert end.code == code
    for word in said:
        assert word in end.message
    graph.check_empty()


@pytest.mark.parametrize("tokens", [2**31 - 1, 2**63, 10**30])
def test_more_tokens_than_can_be_counted(make: Callable[..., Harness], tokens: int) -> None:
    """Regression: where no instance had said how long a sequence it takes, they went into the sums."""
    graph = make()
    graph.join("w0")
    assert not graph.arrive("a", max_tokens=tokens, n_prompt=1)
    assert graph.refused[0].code == "invalid_request"
    assert f"max_tokens={tokens}" in graph.refused[0].message
    graph.up("w0", max_model_len=0)
    assert not graph.arrive("b", max_tokens=tokens, n_prompt=1)
    assert graph.arrive("c", max_tokens=2**31 - 2, n_prompt=1)


def test_an_estimate_refuses_nobody(graph: Harness) -> None:
    assert graph.arrive("a", estimated=True, n_prompt=9000, max_tokens=4095)


def test_max_pending_counts_those_that_wait(graph: Harness) -> None:
    graph.configure("admit", "max_pending", 1)
    assert graph.arrive("runs")
    assert graph.arrive("waits")
    assert not graph.arrive("too much")
    assert graph.refused[0].code == "overloaded"
    assert "max_pending=1" in graph.refused[0].message
    graph.done(graph.node_of("runs"))
    assert graph.arrive("fits again")


def test_a_duplicate_leaves_the_first_one_and_its_deadline_alone(graph: Harness) -> None:
    graph.arrive("blocks")
    graph.arrive("a", timeout_s=1.0)
    assert not graph.arrive("a")
    assert graph.refused[0].code == "duplicate_request"
    graph.advance(1.0)
    assert graph.codes("a") == ["deadline_expired"]


def test_an_id_may_be_used_again_once_its_request_ended(graph: Harness) -> None:
    graph.arrive("a")
    graph.done(graph.node_of("a"))
    graph.hands.ends.clear()
    assert graph.arrive("a")


def test_the_default_timeout_is_live(graph: Harness) -> None:
    graph.configure("admit", "default_timeout_s", 2.0)
    graph.arrive("blocks", timeout_s=100.0)
    graph.arrive("a")
    graph.advance(2.0)
    assert graph.codes("a") == ["deadline_expired"]


def test_no_default_timeout_is_written_as_0_too(graph: Harness) -> None:
    graph.configure("admit", "default_timeout_s", 0.0)
    graph.arrive("blocks")
    graph.arrive("a")
    graph.advance(1000.0)
    assert graph.codes("a") == []


def test_a_burst_after_an_idle_hour_is_not_refused_for_its_pace(graph: Harness) -> None:
    """Regression: with `feasible`, requests that had come one in ten seconds told the door that no
    more than that could be served."""
    graph.configure("admit", "feasible", True)
    for n in range(20):
        graph.arrive(f"calm{n}")
        graph.advance(0.1)
        graph.done(graph.node_of(f"calm{n}"))
        graph.advance(10.0)
    for n in range(8):
        assert graph.arrive(f"burst{n}", slo_ms=5_000.0), graph.refused[-1].message


def test_requests_wait_for_a_worker_that_is_registered_but_not_up(
    make: Callable[..., Harness],
) -> None:
    graph = make()
    graph.join("w0")
    assert graph.arrive("a")
    assert graph.waiting() == ["a"]
    graph.up("w0")
    assert graph.worker_of("a") == "w0"


def test_unknown_names_are_not_remembered(graph: Harness) -> None:
    """Whoever asks for ten thousand models must not fill the memory."""
    for n in range(50):
        graph.arrive(f"r{n}", model=f"typo-{n}")
    assert len(graph.plane.fleet._may) == 0


class Fragile(Admit):
    """Stumbles over one request."""

    def arrive(self, event: Arrive) -> Any:
        if event.request.id == "bad":
            raise RuntimeError("boom")
        return super().arrive(event)


def test_a_request_that_breaks_admit_ends_by_name(make: Callable[..., Harness]) -> None:
    graph = make(registry={**OPERATORS, "admit": Fragile})
    graph.add("w0", slots=1)
    graph.broken = 1
    assert graph.arrive("bad")
    assert graph.codes("bad") == ["integrity"]
    assert "'admit'" in graph.end_of("bad").message
    assert graph.arrive("good")
    assert graph.worker_of("good") == "w0"


def test_a_request_that_is_none_leaves_the_graph_alive(graph: Harness) -> None:
    graph.broken = 1
    wrong = Request(
        id=RequestId("wrong"), model="m", tokens=b"", n_prompt=None, sampling=SamplingParams()
    )
    graph.arrive_request(wrong)
    assert graph.codes("wrong") == ["integrity"]
    assert graph.arrive("right")
