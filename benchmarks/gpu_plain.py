"""An engine on the GPU without us: `python -m benchmarks.gpu_plain ENGINE MODEL` in its environment.

Each line of JSON on stdin is a batch, `[prompt, ...]` of token ids and the tokens to make; the answer
is the seconds it took. Runs the engine's own batch interface with its defaults.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

Run = Callable[[list[list[int]], int], None]


def vllm(model: str) -> Run:
    from vllm import LLM, SamplingParams

    llm = LLM(model, dtype="float16", enable_prefix_caching=True)

    def run(prompts: list[list[int]], tokens: int) -> None:
        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)

    return run


def lmdeploy(backend: str) -> Callable[[str], Run]:
    def load(model: str) -> Run:
        from sage_llm_ops.engines.lmdeploy.engine import LmdeployEngine

        # Our loader, since LMDeploy's batch interface takes text only; what runs is its stream.
        engine = LmdeployEngine({"model": model, "backend": backend, "dtype": "float16"})
        engine.start()
        core: Any = engine._core
        numbers = count(1)

        async def one(ids: list[int], tokens: int) -> None:
            from lmdeploy.messages import GenerationConfig

            config = GenerationConfig(max_new_tokens=tokens, top_k=1, stop_token_ids=[])
            handle = core._open()
            async for _ in core._stream(handle, next(numbers), ids, config, ""):
                pass
            core._close(handle)

        async def batch(prompts: list[list[int]], tokens: int) -> None:
            await asyncio.gather(*(one(ids, tokens) for ids in prompts))

        return lambda prompts, tokens: core._run(batch(prompts, tokens))

    return load


LOADERS = {
    "vllm": vllm,
    "lmdeploy-pytorch": lmdeploy("pytorch"),
    "lmdeploy-turbomind": lmdeploy("turbomind"),
}


def main(engine: str, model: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print; what they print is no answer
    run = LOADERS[engine](model)
    print(json.dumps("up"), file=answers, flush=True)
    for line in sys.stdin:
        prompts, tokens = json.loads(line)
        began = time.perf_counter()
        run(prompts, tokens)
        print(json.dumps(time.perf_counter() - began), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
