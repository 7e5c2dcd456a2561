"""Other people's prefix indexes, on the same prompts, each in a process of its own interpreter.

None is a dependency of the package: what is not installed, or does not work on this machine, is absent:
named in the output, never replaced by a number.

    dynamo, pygtrie   in .venv: extra `bench`
    vllm              in .venv: the CPU build
    lmdeploy          in .venv-lmdeploy: `make lmdeploy`; or SAGE_LLM_OPS_LMDEPLOY_PYTHON
    sglang            where SAGE_LLM_OPS_SGLANG_PYTHON names an interpreter:

        python -m venv sglang-peer
        sglang-peer/bin/pip install torch==2.14.1 torchvision transformers==5.19.0
        sglang-peer/bin/pip install --no-deps sglang==0.5.23
        sglang-peer/bin/pip install aiohttp apache-tvm-ffi==0.1.11 compressed-tensors dill einops
        sglang-peer/bin/pip install gguf ipython msgspec numba orjson psutil pybase64 pydantic pyzmq
        sglang-peer/bin/pip install requests sentencepiece starlette

SGLang's own list of requirements is for GPUs and does not install everywhere; the modules above are what
its radix cache imports. No module is stubbed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks import prefix_peer
from benchmarks.answers import answer, ask
from benchmarks.prefix_peer import Prompts, Rates

ROOT = Path(__file__).resolve().parent.parent
FEW = {"lmdeploy": 2000}
"""Prompts that a peer gets where all of them would take minutes: a smaller index is no slower."""


def lmdeploy_python() -> str:
    """Raises `ConfigError` where there is none."""
    from sage_llm_ops.testing.lmdeploy_cpu import lmdeploy_python

    return lmdeploy_python()


def sglang_python() -> str:
    """Ours where none is named: somebody may have both."""
    return os.environ.get("SAGE_LLM_OPS_SGLANG_PYTHON") or sys.executable


PEERS: Sequence[tuple[tuple[str, ...], Callable[[], str]]] = (
    (("dynamo", "vllm", "pygtrie"), lambda: sys.executable),
    (("lmdeploy",), lmdeploy_python),
    (("sglang", "sglang_page_1"), sglang_python),
)
"""Names, functions of `prefix_peer`, and the interpreter that they run under."""


class Process:
    """One interpreter with its peers. Idle between two measurements."""

    def __init__(self, process: subprocess.Popen[str], names: Sequence[str], log: IO[str]) -> None:
        self._process, self._names, self._log = process, list(names), log
        self._who = f"the process of {', '.join(names)}"
        answer(process, log, self._who)

    def rates(self) -> dict[str, Rates]:
        """Of every peer that runs there; who does not is named on stderr, once."""
        found = {}
        for name in list(self._names):
            said = ask(self._process, self._log, self._who, name)
            if isinstance(said, str):
                print(f"peer {name}: absent: {said}", file=sys.stderr)
                self._names.remove(name)
            else:
                found[name] = Rates(*said)
        return found


@contextmanager
def process(python: str, names: Sequence[str], prompts: Prompts) -> Iterator[Process]:
    """Started, with the prompts in memory."""
    from sage_llm_ops.engines.child import child_environment

    environment = child_environment(dict(os.environ), {}, elsewhere=python != sys.executable)
    with tempfile.TemporaryFile("w+") as log, tempfile.NamedTemporaryFile(suffix=".npz") as given:
        np.savez(given, tokens=np.frombuffer(b"".join(prompts), "<i4"), bytes=[*map(len, prompts)])
        given.flush()
        with subprocess.Popen(
            [python, "-m", "benchmarks.prefix_peers", given.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=ROOT,
            text=True,
        ) as child:
            try:
                yield Process(child, names, log)
            finally:
                child.kill()  # it holds nothing that would have to be closed


@contextmanager
def peers(prompts: Prompts) -> Iterator[Callable[[], dict[str, Rates]]]:
    """What measures all of them once, whoever is there."""
    from sage_llm_ops.types.errors import ConfigError

    with ExitStack() as stack:
        started = []
        for names, python in PEERS:
            try:
                started.append(stack.enter_context(process(python(), names, prompts)))
            except (ConfigError, OSError, RuntimeError) as error:
                print(f"peers {', '.join(names)}: absent: {error}", file=sys.stderr)
        yield lambda: {name: rate for one in started for name, rate in one.rates().items()}


def serve(path: str) -> None:
    """The process: answers names with rates, or with why there are none, until its stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print; what they print is no answer
    with np.load(path) as given:
        data, ends = given["tokens"].tobytes(), np.cumsum(given["bytes"]).tolist()
    prompts = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    print(json.dumps("up"), file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        few = prompts[: FEW.get(name, len(prompts))]
        tried = _answer(name, few[:1])
        answer = tried if isinstance(tried, str) else _apart(name, few)
        print(json.dumps(answer), file=answers, flush=True)


def _answer(name: str, prompts: Prompts) -> Any:
    """Rates, or why there are none."""
    try:
        return prefix_peer.rates(getattr(prefix_peer, name)(prompts), prompts)
    except Exception as error:  # a peer of any version may fail in any way: its absence says how
        return f"{type(error).__name__}: {error}"


def _apart(name: str, prompts: Prompts) -> Any:
    """In a fork, its modules imported already: what a measurement leaves behind in the heap
    makes Dynamo's next one ten times slower."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(writing, "w") as told:
            json.dump(_answer(name, prompts), told)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    return json.loads(said) if said else f"its process ended with status {status}"


if __name__ == "__main__":
    serve(sys.argv[1])
