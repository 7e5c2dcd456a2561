"""One pipeline over two engines: the same answers from both, and from one after the other."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_llm_ops import RequestMetadata
from sage_llm_ops.cli.fleet import with_fleet
from sage_llm_ops.config import load_pipeline
from sage_llm_ops.core import ControlPlane, RestartPolicy
from sage_llm_ops.pipeline.handle import RequestHandle
from tests.e2e.fleet import request, wait_all_up, wait_for_tokens_of
from tests.lmdeploy_env import lmdeploy_python

pytestmark = [pytest.mark.vllm, pytest.mark.lmdeploy, pytest.mark.slow]
PIPELINE = Path(__file__).parents[2] / "pipelines" / "mixed_engines.toml"
ENGINES = ("vllm", "lmdeploy")
COUNT = 48
TOKENS = 200


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    pytest.importorskip("vllm")
    spec = with_fleet(load_pipeline(PIPELINE))
    instances = tuple(with_python(each, lmdeploy_python()) for each in spec.instances)
    plane = ControlPlane(
        dataclasses.replace(spec, instances=instances),
        log_dir=tmp_path_factory.mktemp("logs"),
        restart=RestartPolicy(first_s=0.05, most_s=0.5),
    )
    try:
        plane.start()
        yield plane
    finally:
        plane.stop(5.0)


def with_python(instance: object, python: str) -> object:
    if "python" not in instance.options:
        return instance
    return dataclasses.replace(instance, options={**instance.options, "python": python})


def submit(plane: ControlPlane, tag: str, **fields: object) -> list[RequestHandle]:
    requests = [request(tag, n, max_tokens=TOKENS, **fields) for n in range(COUNT)]
    return [plane.submit(each) for each in requests]


@pytest.fixture(scope="module")
def calm(plane: ControlPlane) -> list[tuple[int, ...]]:
    """What vLLM alone says."""
    return [handle.result(120.0).token_ids for handle in submit(plane, "calm", pin="vllm")]


def test_both_say_the_same(plane: ControlPlane, calm: list[tuple[int, ...]]) -> None:
    alone = [handle.result(120.0) for handle in submit(plane, "alone", pin="lmdeploy")]
    assert [result.token_ids for result in alone] == calm
    assert {result.instance_id for result in alone} == {"lmdeploy"}
    assert len({ids[-20:] for ids in calm}) == COUNT, "they would say the same to anything"


def test_mixed_traffic(plane: ControlPlane, calm: list[tuple[int, ...]]) -> None:
    mixed = [handle.result(120.0) for handle in submit(plane, "mixed")]
    assert [result.token_ids for result in mixed] == calm
    assert {result.instance_id for result in mixed} == set(ENGINES)
    assert any(result.usage.cached_tokens for result in mixed)


def test_chat_and_stop_strings(plane: ControlPlane) -> None:
    said = {}
    for engine in ENGINES:
        chat = RequestMetadata(
            messages=[{"role": "user", "content": "hello world"}],
            sampling_params={"max_tokens": 40, "temperature": 0.0},
            pin=engine,
        )
        whole = plane.submit(chat).result(60.0)
        word = whole.text[20:23]
        stop = {"max_tokens": 40, "temperature": 0.0, "stop": [word]}
        cut = plane.submit(dataclasses.replace(chat, sampling_params=stop)).result(60.0)
        assert cut.finish_reason == "stop"
        assert cut.text == whole.text[: whole.text.index(word)]
        said[engine] = (whole.token_ids, cut.token_ids)
    assert said["vllm"] == said["lmdeploy"]


@pytest.mark.parametrize("dies", ENGINES)
def test_the_other_goes_on_in_the_middle_of_an_answer(
    plane: ControlPlane, calm: list[tuple[int, ...]], dies: str
) -> None:
    handles = submit(plane, f"{dies}-dies")
    wait_for_tokens_of(dies, handles, 5)
    os.kill(plane.worker(dies).describe()["pid"], signal.SIGKILL)
    results = [handle.result(120.0) for handle in handles]
    assert [result.token_ids for result in results] == calm
    moved = [result for result in results if result.attempts > 1]
    assert moved and {result.instance_id for result in moved} <= set(ENGINES)
    assert set(ENGINES) - {dies} <= {result.instance_id for result in moved}
    assert plane.pipeline.plane.broken == 0
    plane.pipeline.plane.fleet.check_integrity()
    wait_all_up(plane)
