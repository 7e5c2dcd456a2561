"""Each engine on a real card. The figures are the suite's (benchmarks/suites/gpu_engines.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.gpu_checks import ENGINES, Card, card, prompts_of, reference, why_not

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module", params=ENGINES)
def plane(request: pytest.FixtureRequest) -> Iterator[Card]:
    why = why_not(request.param)
    if why:
        pytest.skip(f"{request.param}: {why}")
    with card(request.param) as plane:
        yield plane


def test_greedy_output_is_that_of_transformers(plane: Card) -> None:
    """Of 16-bit weights and other kernels: nearly always."""
    prompts = prompts_of(0)[:8]
    said = [list(result.token_ids) for result in plane.run(prompts, 16)]
    same = [ours == theirs for ours, theirs in zip(said, reference(prompts, 16), strict=True)]
    assert sum(same) >= 7


def test_a_prompt_that_comes_again_is_cached(plane: Card) -> None:
    prompts = prompts_of(5)[:1]
    first, second = (plane.run(prompts, 8)[0] for _ in range(2))
    assert first.token_ids == second.token_ids
    assert first.usage.cached_tokens == 0 and second.usage.cached_tokens >= 128


def test_cancel_frees_the_cache(plane: Card) -> None:
    assert plane.usage_after_cancel() < 0.01
