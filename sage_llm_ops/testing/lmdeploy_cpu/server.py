"""LMDeploy's own api_server on the CPU device: `python -m ... .server MODEL NAME PORT SESSION_LEN`.

Its engine runs in a process that it spawns, which imports this module again: that puts the stand-ins in
place there too. There nobody tells when the engine is made, so "cuda" means the CPU for good.
"""

from __future__ import annotations

import sys

from sage_llm_ops.testing.lmdeploy_cpu.install import install

install()

from sage_llm_ops.testing.lmdeploy_cpu.cuda import ToCpu  # noqa: E402

ToCpu().__enter__()


def main(model: str, name: str, port: str, session_len: str) -> None:
    import torch
    from lmdeploy.messages import PytorchEngineConfig
    from lmdeploy.serve.openai import api_server

    from sage_llm_ops.testing.lmdeploy_cpu.engine import DEFAULTS

    torch.set_num_threads(1)
    config = PytorchEngineConfig(
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


if __name__ == "__main__":
    main(*sys.argv[1:])
