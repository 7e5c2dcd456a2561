"""A pipeline as a mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from sage_llm_ops.cli.graph_text import options_text
from sage_llm_ops.types.pipelines import SOURCE, PipelineSpec


def mermaid_lines(spec: PipelineSpec) -> Iterator[str]:
    """Operators as boxes, feedback edges dotted."""
    nodes = {SOURCE: "source_"} | {op.id: f"op{i}" for i, op in enumerate(spec.operators)}
    yield "flowchart TD"
    yield f"  {nodes[SOURCE]}([{SOURCE}])"
    for operator in spec.operators:
        title = operator.id if operator.id == operator.use else f"{operator.id} ({operator.use})"
        label = "<br/>".join(
            map(_escaped, (title, *(options_text({k: v}) for k, v in operator.options.items())))
        )
        yield f'  {nodes[operator.id]}["{label}"]'
    for index, operator in enumerate(spec.operators):
        feedback = spec.feedback_of(index)
        for name in spec.inputs_of(index):
            arrow = "-. feedback .->" if name in feedback else "-->"
            yield f"  {nodes[name]} {arrow} {nodes[operator.id]}"


def _escaped(text: str) -> str:
    for char, code in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        text = text.replace(char, code)
    return text
