"""Strategies: order, and nothing lost or doubled."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.scheduler_ir import STRATEGIES, Strategy
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import Needs, RequestId
from sage_llm_ops.types.requests import Request, SamplingParams


def job(seq: int, priority: int = 2, model: str = "m") -> Job:
    request = Request(RequestId(f"r{seq}"), model, b"", 1, SamplingParams(), priority=priority)
    return Job(request, seq)


def never(needs: Needs) -> bool:
    return False


def drain(strategy: Strategy) -> list[int]:
    out = []
    while (found := strategy.offer(0.0, never)) is not None:
        strategy.placed(found.request.id)
        out.append(found.seq)
    return out


KEYS = {
    "fifo": lambda job: (job.seq,),
    "priority": lambda job: (job.request.priority, job.seq),
}
JOBS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xyz")), max_size=40)


def test_every_registered_strategy_is_tested_here() -> None:
    assert set(KEYS) == set(STRATEGIES)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@given(given=JOBS, shuffle=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_whatever_the_order_of_pushes(
    name: str, given: list[tuple[int, str]], shuffle
) -> None:
    jobs = [job(seq, priority, model) for seq, (priority, model) in enumerate(given)]
    pushed = list(jobs)
    shuffle.shuffle(pushed)
    strategy = STRATEGIES[name]()
    for one in pushed:
        strategy.push(one, 0.0)
    expected = [one.seq for one in sorted(jobs, key=KEYS[name])]
    assert [one.seq for one in strategy] == expected
    assert drain(strategy) == expected
    assert not len(strategy)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@given(st.lists(st.tuples(st.sampled_from("ponrb"), st.integers(0, 15)), max_size=80))
@settings(max_examples=40, deadline=None)
def test_nothing_lost_nothing_twice(name: str, history: list[tuple[str, int]]) -> None:
    strategy = STRATEGIES[name]()
    pending: dict[str, Job] = {}
    offered: Job | None = None
    blocked: set[str] = set()
    for verb, which in history:
        one = job(which, priority=which % 5, model="xyz"[which % 3])
        name_ = one.request.id
        if verb == "p" and name_ not in pending:
            strategy.push(one, 0.0)
            pending[name_] = one
        elif verb == "o" and offered is None:
            offered = strategy.offer(0.0, lambda needs, now=frozenset(blocked): needs[0] in now)
            open_ones = [j for j in pending.values() if j.needs[0] not in blocked]
            assert offered is (min(open_ones, key=KEYS[name]) if open_ones else None)
        elif verb == "n" and offered is not None:
            if which % 2:
                strategy.placed(offered.request.id)
                del pending[offered.request.id]
            else:
                strategy.no_room(offered.request.id)
            offered = None
        elif verb == "r":
            assert strategy.remove(name_) is pending.pop(name_, None)
            offered = None if offered is not None and offered.request.id == name_ else offered
        elif verb == "b":
            blocked ^= {"xyz"[which % 3]}
        strategy.check_integrity()
        assert {j.request.id for j in strategy} == set(pending)
        assert len(strategy) == len(pending)


def test_misuse_is_an_integrity_error() -> None:
    strategy = STRATEGIES["fifo"]()
    strategy.push(job(1), 0.0)
    with pytest.raises(IntegrityError, match="'r1' was pushed twice"):
        strategy.push(job(1), 0.0)
    strategy.push(job(2), 0.0)
    strategy.offer(0.0, never)
    with pytest.raises(IntegrityError, match="'r1' is still offered"):
        strategy.offer(0.0, never)
    with pytest.raises(IntegrityError, match="answer for 'r2', but 'r1' is offered"):
        strategy.placed(RequestId("r2"))


def test_jobs_that_are_removed_behind_a_blocked_head_leave_nothing() -> None:
    """Clients that give up while a worker is away must not fill the memory."""
    strategy = STRATEGIES["fifo"]()
    strategy.push(job(0), 0.0)
    for seq in range(1, 5000):
        strategy.push(job(seq), 0.0)
        strategy.offer(0.0, lambda needs: True)
        strategy.remove(RequestId(f"r{seq}"))
    assert sum(len(queue) for queue in strategy._queues.values()) < 600
    assert drain(strategy) == [0]
