from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest

Call = Callable[..., int]


PIPELINE = pathlib.Path(__file__).parents[2] / "pipelines" / "serving.toml"


@pytest.fixture(autouse=True)
def _inside(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_answers_are_shown_with_their_reasons(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--engine", "sim", "--instances", "2", "--max-tokens", "5"]
    assert call("run", str(PIPELINE), *argv, "--prompt", "one", "--prompt", "two") == 0
    out = capsys.readouterr().out
    assert "p1  one" in out
    assert "p2  two" in out
    assert "→ sim-0, 0 of 3 prompt tokens cached; least loaded (sim-0 0, sim-1 0" in out
    assert "total" in out
    assert call("why", "p2") == 0
    assert "p2 was answered with 5 tokens" in capsys.readouterr().out


def test_json_and_a_file_of_prompts(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    pathlib.Path("prompts.txt").write_text("first\n\nsecond\n")
    argv = ["--engine", "sim", "--max-tokens", "4", "--ledger", "deep/l.jsonl", "--json"]
    assert call("run", str(PIPELINE), "--prompts", "prompts.txt", *argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert [answer["completion_tokens"] for answer in found["answers"]] == [4, 4]
    assert found["workers"]["total"]["completed"] == 2
    assert found["ledger"] == "deep/l.jsonl"
    assert pathlib.Path("deep/l.jsonl").is_file()


def test_a_request_that_fails_is_told_and_counted(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call("run", str(PIPELINE), "--engine", "sim", "--prompt", "a", "--max-tokens", "99999999")
        == 1
    )
    assert "shorten the prompt or lower max_tokens" in capsys.readouterr().out


def test_a_recording_replays_to_the_same_digest(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--engine", "sim", "--instances", "2", "--max-tokens", "3", "--record", "r/r.jsonl"]
    assert call("run", str(PIPELINE), *argv, *(f"--prompt=x{n}" for n in range(8))) == 0
    capsys.readouterr()
    assert call("replay", "r/r.jsonl", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] is True
    assert found["digest"] == found["recorded_digest"]
    assert found["decisions"] == 16

    lines = pathlib.Path("r/r.jsonl").read_text().splitlines(keepends=True)
    footer = json.loads(lines[-1])
    changed = [*lines[:-1], json.dumps({**footer, "digest": "0" * 32}) + "\n"]
    pathlib.Path("other.jsonl").write_text("".join(changed))
    assert call("replay", "other.jsonl") == 1
    assert "OTHER decisions" in capsys.readouterr().out

    pathlib.Path("cut.jsonl").write_text("".join(lines[:-1]))
    assert call("replay", "cut.jsonl") == 2
    assert "cut off before its end" in capsys.readouterr().err


def test_another_pipeline_is_compared_not_failed(
    call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--engine", "sim", "--instances", "3", "--max-tokens", "30", "--record", "r.jsonl"]
    assert call("run", str(PIPELINE), *argv, *(f"--prompt={'x' * n}" for n in range(1, 20))) == 0
    assert call("replay", "r.jsonl", "--pipeline", str(PIPELINE)) == 0
    assert "0 of 19 placements differ" in capsys.readouterr().out
    text = PIPELINE.read_text().replace('use = "route"', 'use = "route"\nname = "place"')
    text = text.replace('"observe", "route"', '"observe", "place"')
    pathlib.Path("other.toml").write_text(text.replace('"load_balanced"', '"round_robin"'))
    assert call("replay", "r.jsonl", "--pipeline", "other.toml", "--json") == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert found["placements"] == 19
    assert found["other"]["digest"] != found["recorded"]["digest"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--engine", "sim"], "nothing to run"),
        (["--engine", "smi", "--prompt", "a"], "did you mean 'sim'"),
        (["--engine", "vllm", "--prompt", "a"], "engine 'vllm' needs --model"),
        (["--engine", "sim", "--prompts", "missing.txt"], "missing.txt: cannot be read"),
    ],
)
def test_refusals(
    call: Call, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", str(PIPELINE), *argv) == 2
    assert words in capsys.readouterr().err


def test_a_file_with_instances_keeps_them(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    text = PIPELINE.read_text() + '\n[[instances]]\ninstance_id = "mine"\nengine = "sim"\n'
    pathlib.Path("p.toml").write_text(text)
    assert call("run", "p.toml", "--prompt", "a", "--instances", "2") == 2
    assert "the file names its own instances" in capsys.readouterr().err
    assert call("run", "p.toml", "--prompt", "a", "--max-tokens", "2") == 0
    assert "→ mine" in capsys.readouterr().out


def test_replay_refuses(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("replay", "missing") == 2
    assert "missing: cannot be read" in capsys.readouterr().err
