"""`sage-llm-ops replay RECORDING`: whether the same events lead to the same decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_llm_ops.cli.output import Json, print_result

if TYPE_CHECKING:
    from sage_llm_ops.pipeline.recording import Recording
    from sage_llm_ops.pipeline.replay import Replay
    from sage_llm_ops.types.pipelines import PipelineSpec

Placements = dict[tuple[str, int], str]
"""Request and attempt, to worker."""


def replay(
    recording: Annotated[Path, typer.Argument(help="What `run --record` or the demo wrote.")],
    pipeline: Annotated[
        Path | None, typer.Option(help="Another pipeline: how many placements would differ?")
    ] = None,
    json: Json = False,
) -> None:
    """Feed a recorded run through the graph again. Exit code 1: it decided otherwise."""
    from sage_llm_ops.config import load_pipeline

    tape = _open(recording)
    if pipeline is not None:
        result = _compared(tape, load_pipeline(pipeline))
        print_result(result, lambda: _comparison_text(result, recording, pipeline), json=json)
        return
    again = _again(tape)
    print_result({**_plain(again), "same": again.same}, lambda: _text(again, recording), json=json)
    if not again.same:
        raise typer.Exit(1)


def replay_recording(path: Path) -> Replay:
    """The recording through its own pipeline once more."""
    return _again(_open(path))


def _open(path: Path) -> Recording:
    from sage_llm_ops.pipeline.recording import Recording
    from sage_llm_ops.types.errors import ConfigError

    try:
        return Recording(path)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None


def recorded_pipeline(tape: Recording) -> PipelineSpec:
    """The pipeline that was recorded, as it ran: the environment of today has no say in it."""
    from sage_llm_ops.config import parse_toml, pipeline_from

    name = f"{tape.path} (its pipeline)"
    return pipeline_from(parse_toml(tape.header.pipeline, name), environ={})


def _again(tape: Recording) -> Replay:
    from sage_llm_ops.pipeline.replay import replay as drive
    from sage_llm_ops.types.errors import ConfigError

    again = drive(tape, recorded_pipeline(tape))
    if again.recorded is None:
        raise ConfigError(
            f"the run was cut off before its end, so there is no digest to compare with; its "
            f"{again.events} events give {again.digest}",
            file=str(tape.path),
        )
    return again


def _compared(tape: Recording, other: PipelineSpec) -> dict[str, Any]:
    """Both pipelines under the same events. What the engines said is that of the recorded run, so
    after the first difference this says what the other would have chosen, not how that had gone."""
    first, before = _placements(tape, recorded_pipeline(tape))
    second, after = _placements(tape, other)
    differ = [key for key, worker in before.items() if key in after and after[key] != worker]
    return {
        "recorded": _plain(first),
        "other": _plain(second),
        "placements": len(before),
        "differ": len(differ),
        "missing": len(before.keys() - after.keys()),
        "added": len(after.keys() - before.keys()),
        "examples": [
            {"request": key[0], "attempt": key[1], "recorded": before[key], "other": after[key]}
            for key in differ[:3]
        ],
    }


def _placements(tape: Recording, spec: PipelineSpec) -> tuple[Replay, Placements]:
    from sage_llm_ops.pipeline.replay import replay as drive
    from sage_llm_ops.telemetry import Ledger

    book = Ledger(keep=1 << 30)
    done = drive(tape, spec, ledger=book)
    places = {(e.request, e.attempt): e.worker for e in book.entries() if e.kind == "place"}
    return done, places


def _plain(done: Replay) -> dict[str, Any]:
    return {
        "events": done.events,
        "decisions": done.decisions,
        "recorded_digest": done.recorded,
        "digest": done.digest,
    }


def _text(done: Replay, recording: Path) -> str:
    verdict = "the same decisions" if done.same else "OTHER decisions than the recording"
    return (
        f"{recording}: {done.events} events, {done.decisions} decisions in {done.seconds:.2f} s\n"
        f"  recorded  {done.recorded}\n"
        f"  replayed  {done.digest}\n"
        f"{verdict}"
    )


def _comparison_text(result: dict[str, Any], recording: Path, pipeline: Path) -> str:
    lines = [
        f"{recording}  {result['recorded']['digest']}",
        f"{pipeline}  {result['other']['digest']}",
        f"{result['differ']} of {result['placements']} placements differ",
    ]
    if result["missing"] or result["added"]:
        lines[-1] += f", {result['missing']} are not made, {result['added']} are made in addition"
    lines += [
        f"  {one['request']} attempt {one['attempt']}: {one['recorded']} → {one['other']}"
        for one in result["examples"]
    ]
    return "\n".join(lines)
