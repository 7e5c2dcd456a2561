from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_llm_ops.cli import main


@pytest.fixture
def call() -> Callable[..., int]:
    """The exit code of a command, however it ends."""

    def run(*argv: str) -> int:
        try:
            return main(argv)
        except SystemExit as end:
            return int(end.code or 0)

    return run
