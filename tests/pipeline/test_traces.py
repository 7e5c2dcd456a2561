"""Reading recorded workloads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sage_llm_ops.pipeline.synthetic import generate_trace
from sage_llm_ops.pipeline.traces import TraceRequest, read_trace, to_request
from sage_llm_ops.types.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SAGE_LLM_OPS_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no recorded traces on this machine")

MOONCAKE = (
    '{"timestamp": 500, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
    '{"timestamp": 1750, "input_length": 512, "output_length": 7, "hash_ids": [0]}\n'
)
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9951690,396,109\n"
)


def write(folder: Path, text: str) -> Path:
    file = folder / "trace.txt"
    file.write_text(text)
    return file


def test_mooncake(tmp_path: Path) -> None:
    assert list(read_trace(write(tmp_path, MOONCAKE))) == [
        TraceRequest(0.0, 600, 5, (0, 1), 512),
        TraceRequest(1.25, 512, 7, (0,), 512),
    ]


def test_azure(tmp_path: Path) -> None:
    first, second = read_trace(write(tmp_path, AZURE.replace("\n", "\r\n")))
    assert first == TraceRequest(0.0, 374, 44)
    assert (second.n_prompt, second.n_output) == (396, 109)
    assert second.at == pytest.approx(4.314579, abs=1e-6)


def test_compressed_and_limited(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    file = tmp_path / "t.jsonl.zst"
    file.write_bytes(zstandard.ZstdCompressor().compress(MOONCAKE.encode()))
    assert len(list(read_trace(file))) == 2
    assert len(list(read_trace(file, limit=1))) == 1
    assert list(read_trace(file, limit=0)) == []


def test_without_zstandard_the_error_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "t.jsonl.zst"
    file.write_bytes(b"\x28\xb5\x2f\xfd rest")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match="pip install zstandard"):
        read_trace(file)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (MOONCAKE + '{"timestamp": 1}\n', 3, "input_length"),
        (MOONCAKE + "nonsense\n", 3, "nonsense"),
        (MOONCAKE.replace("[0, 1]", "[0]"), 1, "hash_ids"),
        (MOONCAKE.replace('"output_length": 7', '"output_length": 0'), 2, "output_length=0"),
        (MOONCAKE.replace("1750", "250"), 2, "sort the file"),
        (AZURE + "2023-11-16 18:16:00.0,x,1\n", 4, "'x'"),
        (AZURE + "2023-11-16 18:16:00.0,1\n", 4, "2 cells"),
        (AZURE + "noon,1,1\n", 4, "noon"),
        ("a,b,c\n1,2,3\n", 1, "known"),
        ("", 1, "known"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, line: int, says: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as caught:
        list(read_trace(file))
    assert (caught.value.file, caught.value.line) == (str(file), line)


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match="no such trace"):
        read_trace("nowhere.jsonl")


@needs_data
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mooncake_synthetic_trace.jsonl.zst", 3993),
        ("mooncake_conversation_first30min.jsonl.zst", 5719),
        ("azure_llm_conv_2023.csv.zst", 19_366),
    ],
)
def test_the_recorded_ones(name: str, count: int) -> None:
    requests = list(read_trace(DATA / name))
    assert len(requests) == count
    assert requests[0].at == 0.0


def test_a_generated_trace_is_alike_and_repeatable() -> None:
    made = list(generate_trace(400, seed=5, rate=10.0))
    assert made == list(generate_trace(400, seed=5, rate=10.0))
    assert made != list(generate_trace(400, seed=6, rate=10.0))
    assert made[-1].at == pytest.approx(40.0, rel=0.3)
    seen: set[int] = set()
    hits = 0
    for request in made:
        assert len(request.blocks) == -(-request.n_prompt // 512)
        hits += sum(block in seen for block in request.blocks)
        seen.update(request.blocks)
    share = hits / sum(len(request.blocks) for request in made)
    assert 0.3 < share < 0.9
    with pytest.raises(ConfigError, match="rate"):
        list(generate_trace(1, rate=0.0))


def test_to_request() -> None:
    request = to_request(TraceRequest(1.0, 600, 5, (0, 1), 512), 3, "m")
    assert (request.id, request.model, request.tokens, request.n_prompt) == ("t3", "m", b"", 600)
    assert (request.max_tokens, request.sampling.temperature) == (5, 0.0)
    assert (request.blocks, request.block_size) == ((0, 1), 512)
