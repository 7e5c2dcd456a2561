"""`sage-llm-ops run PIPELINE`: start it, answer some prompts, say where each went and why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_llm_ops.cli.output import Json, json_text, readable

if TYPE_CHECKING:
    from sage_llm_ops.core import ControlPlane
    from sage_llm_ops.pipeline.handle import RequestHandle
    from sage_llm_ops.types.pipelines import PipelineSpec

LEDGER = Path(".sage-llm-ops/ledger.jsonl")


def run(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline's .toml.")],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file, one prompt a line.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 64,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.0,
    model: Annotated[
        str | None, typer.Option(help="Hub name, directory, or `tiny` (random, made here).")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Default: the one installed, or sim.")] = None,
    instances: Annotated[
        int | None, typer.Option(min=1, help="So many, where the file names none.")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="Record the run (for `replay`).")] = None,
    ledger: Annotated[Path | None, typer.Option(help=f"Default: the file's, or {LEDGER}.")] = None,
    json: Json = False,
) -> None:
    """Run prompts through the pipeline on real workers. Exit code 1: one was not answered."""
    texts = _prompts(prompt or [], prompts)
    spec = _spec(pipeline, ledger, engine=engine, instances=instances, model=model)
    sampling = {"max_tokens": max_tokens, "temperature": temperature}
    with serving(spec, record) as plane:
        handles = _submit(plane, texts, sampling)
        if json:
            answers = [_answer(plane, handle) for handle in handles]
        else:
            answers = list(_told(plane, handles, texts))
        table = plane.pipeline.plane.metrics.table()
    if json:
        typer.echo(json_text({"answers": answers, "workers": table, "ledger": spec.ledger}))
    else:
        from sage_llm_ops.cli.numbers import print_workers

        print_workers(table, "workers")
        typer.echo(f"why in full: sage-llm-ops why {handles[-1].request_id} --ledger {spec.ledger}")
    if any("error" in answer for answer in answers):
        raise typer.Exit(1)


@contextlib.contextmanager
def serving(spec: PipelineSpec, record: Path | None) -> Iterator[ControlPlane]:
    """A started control plane that is stopped whatever happens: orderly, or at once on an error."""
    from sage_llm_ops.core import ControlPlane

    folder = Path(spec.ledger or LEDGER).parent
    for needed in (folder, *([record.parent] if record else [])):
        needed.mkdir(parents=True, exist_ok=True)
    plane = ControlPlane(spec, record=record, log_dir=folder)
    done = False
    try:
        names = ", ".join(i.instance_id for i in spec.instances)
        typer.echo(f"starting {names}: {plane.model_for(None)}", err=True)
        plane.start()
        yield plane
        done = True
    finally:
        plane.stop(STOP_S if done else 0.0)


STOP_S = 5.0
"""Everything has ended by then: this is for the workers, which are killed after it."""


def _prompts(given: list[str], file: Path | None) -> list[str]:
    from sage_llm_ops.types.errors import ConfigError

    texts = list(given)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", file=str(file)) from None
        texts += [line for line in lines if line.strip()]
    if not texts:
        raise ConfigError("nothing to run: give --prompt TEXT or --prompts FILE with a line in it")
    return texts


def _spec(file: Path, ledger: Path | None, **fleet: Any) -> PipelineSpec:
    import dataclasses

    from sage_llm_ops.cli.fleet import with_fleet
    from sage_llm_ops.config import load_pipeline

    spec = with_fleet(load_pipeline(file), **fleet)
    return dataclasses.replace(spec, ledger=str(ledger or spec.ledger or LEDGER))


def _submit(plane: ControlPlane, texts: list[str], sampling: dict[str, Any]) -> list[RequestHandle]:
    from sage_llm_ops.types.requests import RequestMetadata

    return [
        plane.submit(
            RequestMetadata(request_id=f"p{number}", prompt=text, sampling_params=sampling)
        )
        for number, text in enumerate(texts, 1)
    ]


def _told(
    plane: ControlPlane, handles: list[RequestHandle], texts: list[str]
) -> Iterator[dict[str, Any]]:
    """Prints each answer while it comes, in the order of the prompts."""
    for handle, text in zip(handles, texts, strict=True):
        typer.echo(typer.style(f"{handle.request_id}  {text}", bold=True))
        _stream(plane, handle)
        answer = _answer(plane, handle)
        if "error" in answer:
            typer.echo(typer.style(f"  → {answer['error']}", fg=typer.colors.RED))
        else:
            cached = f"{answer['cached_tokens']} of {answer['prompt_tokens']} prompt tokens cached"
            typer.echo(f"  → {answer['worker']}, {cached}; {answer['why']}")
        yield answer


def _stream(plane: ControlPlane, handle: RequestHandle) -> None:
    from sage_llm_ops.types.errors import RequestError

    decoder = plane.tokenizer(handle.request.model).decoder()
    try:
        for ids in handle.iter():
            typer.echo(readable(decoder.push(ids), keep="\n\t"), nl=False)
    except RequestError:
        pass  # told below, with what is known of it
    typer.echo(readable(decoder.flush(), keep="\n\t"))


def _answer(plane: ControlPlane, handle: RequestHandle) -> dict[str, Any]:
    """One request as plain values; waits for its end."""
    from sage_llm_ops.types.errors import RequestError

    try:
        result = handle.result()
    except RequestError as error:
        return {"request_id": handle.request_id, "error": str(error), "code": error.code}
    return {
        "request_id": result.request_id,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "worker": result.instance_id,
        "attempts": result.attempts,
        "why": why_there(plane, result.request_id),
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "cached_tokens": result.usage.cached_tokens,
        "ttft_s": result.timings.ttft_s,
        "latency_s": result.timings.latency_s,
    }


def why_there(plane: ControlPlane, request_id: str) -> str:
    """The reason of its last placement, from the ledger's memory."""
    from sage_llm_ops.cli.story import because

    fleet: list[str] = []
    said = ""
    for entry in plane.pipeline.ledger.about(request_id):
        if entry.kind == "fleet":
            fleet = entry.workers
        elif entry.kind == "place":
            said = because(entry, fleet)
    return said
