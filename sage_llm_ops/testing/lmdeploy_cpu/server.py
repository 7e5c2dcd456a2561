"""LMDeploy's own api_server on the CPU device: `python -m ... .server MODEL NAME PORT SESSION_LEN`."""

from __future__ import annotations

import sys
from typing import Any

from sage_llm_ops.engines.lifeline import guard
from sage_llm_ops.testing.lmdeploy_cpu.install import install


def main(model: str, name: str, port: str, session_len: str) -> None:
    guard(0, "")  # whatever ends the tests, it does not outlive them
    install()
    import torch
    from lmdeploy.serve.openai import api_server

    from sage_llm_ops.testing.lmdeploy_cpu.cuda import ToCpu
    from sage_llm_ops.testing.lmdeploy_cpu.engine import DEFAULTS

    torch.set_num_threads(1)
    # The server makes its engine whenever it likes: from here on "cuda" means the CPU for good.
    ToCpu().__enter__()
    config = one_process()(
        session_len=int(session_len),
        enable_prefix_caching=True,
        distributed_executor_backend="uni",
        **DEFAULTS,
    )
    config.dtype = "float32"
    api_server.serve(
        model,
        model_name=name,
        backend="pytorch",
        backend_config=config,
        server_name="127.0.0.1",
        server_port=int(port),
        enable_abort_handling=True,
    )


def one_process() -> type[Any]:
    """A configuration whose engine stays in the server's process, although the server says otherwise.

    In LMDeploy 0.18 the start of an engine process loses a race now and then: the child lets go of a
    lock whose keeper its parent has closed, and dies.
    """
    from lmdeploy.messages import PytorchEngineConfig

    class OneProcess(PytorchEngineConfig):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, False if name == "enable_mp_engine" else value)

    return OneProcess


if __name__ == "__main__":
    main(*sys.argv[1:])
