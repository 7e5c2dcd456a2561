"""`/openapi.json` is true: schemathesis tries to catch the server lying."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_llm_ops.config.gateway import GatewayConfig
from tests.service.serving import ADMIN, KEYS, sim

LEFT_OUT = (
    # Rules between fields (min_tokens <= max_tokens, prompt + max_tokens <= room) are no schema's.
    "positive_data_acceptance",
)


@pytest.mark.slow
def test_it_does_what_it_says(tmp_path: Path) -> None:
    config = GatewayConfig(port=0, api_keys=KEYS)
    # HTTP headers are open: one that nobody knows is no mistake.
    (tmp_path / "schemathesis.toml").write_text("[generation]\nallow-extra-parameters = false\n")
    with sim(config=config, max_model_len=4096, tasks=("generate", "embed")) as serving:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                f"{serving.url}/openapi.json",
                "--header",
                f"Authorization: Bearer {ADMIN}",
                "--max-examples=20",
                "--exclude-checks",
                ",".join(LEFT_OUT),
                "--phases=examples,coverage,fuzzing",
                "--generation-deterministic",
                "--no-color",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
