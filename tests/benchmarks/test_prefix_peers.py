"""Other people's indexes: who is there is measured in its own process, who is not is named."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.prefix_peer import Peer, rates
from benchmarks.prefix_peers import process
from benchmarks.suites.prefix import prompts

PROMPTS = prompts(20)


@pytest.mark.skipif(find_spec("pygtrie") is None, reason="needs pygtrie, of extra bench")
def test_a_peer_is_measured_again_and_again_and_an_absent_one_named_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with process(sys.executable, ("pygtrie", "nobody"), PROMPTS) as started:
        for _ in range(2):
            found = started.rates()
            assert list(found) == ["pygtrie"]
            assert found["pygtrie"].inserts > 0 and found["pygtrie"].lookups > 0
    assert capsys.readouterr().err.count("peer nobody: absent: AttributeError") == 1


def test_an_interpreter_that_ends_says_why(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such module >&2\nexit 3\n")
    python.chmod(0o700)
    with (
        pytest.raises(RuntimeError, match=r"(?s)ended with code 3.*no such module"),
        process(str(python), ("sglang",), PROMPTS),
    ):
        pass


def test_a_peer_that_does_not_find_what_was_inserted_has_no_rate() -> None:
    lost = Peer(lambda n: None, lambda n: None, lambda n, found: 0)
    with pytest.raises(RuntimeError, match="found 0 of the"):
        rates(lost, PROMPTS)
