from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from sage_llm_ops.cli import main
from sage_llm_ops.config import dump_pipeline, load_pipeline, load_services

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "configs" / "services.toml"
SERVING = ROOT / "pipelines" / "serving.toml"
SAMPLE = ROOT / "tests" / "config" / "003_services.toml"
PIPELINE = """\
[pipeline]
name = "p"
[[operators]]
use = "observe"
[[operators]]
use = "admit"
max_pending = 5
[[operators]]
use = "merge"
inputs = ["observe", "admit", "place"]
[[operators]]
use = "route"
name = "place"
strategy = 'a "b" <c>'
[[operators]]
use = "echo"
inputs = ["last"]
[[operators]]
use = "last"
[[instances]]
instance_id = "w0"
engine = "sim"
placement = "inline"
tensor_parallel_size = 2
[instances.options]
step_ms = 3
"""


@pytest.fixture
def pipeline(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "p.toml"
    path.write_text(PIPELINE)
    return str(path)


def run(*argv: str) -> int:
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


def test_config_check_of_services(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", str(EXAMPLE)) == 0
    out = capsys.readouterr().out
    assert "llm_control_plane" in out
    assert re.search(r'scheduling_policy +"fifo"', out)
    assert re.search(r"ledger +\(default\)", out)
    assert "w0  sim  tiny  general" in out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ('tokenizer = "/m"', 0, "far  http://gpu1:8000  m  general"),
        ('base_url = "https://gpu1/x"', 2, "base_url and host or port say the same thing twice"),
        ("token_timeot_s = 1", 2, "did you mean 'token_timeout_s'"),
    ],
)
def test_config_check_of_a_server(
    options: str, code: int, words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "services.toml"
    table = 'instance_id = "far"\nhost = "gpu1"\nmodel_name = "m"\n'
    file.write_text(
        '[services.x]\ntype = "ControlPlaneVLLMService"\n'
        f"[[services.x.instances]]\n{table}[services.x.instances.options]\n{options}\n"
    )
    assert run("config", "check", str(file)) == code
    captured = capsys.readouterr()
    assert words in captured.out + captured.err


@pytest.mark.parametrize(
    ("table", "code", "words"),
    [
        ("scheduling_options]\nlate_every = 8", 0, r"scheduling_options +\{ late_every = 8 \}"),
        (
            "scheduling_options]\nlate_evry = 8",
            2,
            r"toml:6: `services.x.scheduling_options.late_evry`.*did you mean 'late_every'",
        ),
        (
            "scheduling_options]\nlate_every = 1",
            2,
            "toml:6: `services.x.scheduling_options.late_every`.*late_every=1 must be at least 2",
        ),
        ("scheduling_options]\nlate_every = 'x'", 2, "toml:6: `services.x.scheduling_options.late"),
        ("routing_options]\nfactor = 0.5", 2, "factor=0.5"),
        ("pd_options]\nthreshold = -1", 2, "threshold=-1 must be 0 or more"),
        ("admission]\ntenant_rat = 1.0", 2, "did you mean 'tenant_rate'"),
    ],
)
def test_config_check_of_a_services_policies(
    table: str, code: int, words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "services.toml"
    file.write_text(
        '[services.x]\ntype = "ControlPlaneVLLMService"\nscheduling_policy = "slo_aware"\n'
        f'routing_strategy = "bounded_hash"\n[services.x.{table}\n'
        '[[services.x.instances]]\ninstance_id = "w0"\nengine = "sim"\nmodel_name = "m"\n'
    )
    assert run("config", "check", str(file)) == code
    captured = capsys.readouterr()
    assert re.search(words, (captured.out + captured.err).replace("\n", " "))


def test_config_check_of_the_documents_own_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", str(SAMPLE)) == 0
    assert "llm-prefill-1" in capsys.readouterr().out


def test_config_check_of_a_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", str(SERVING)) == 0
    out = capsys.readouterr().out
    assert f"{SERVING}: a pipeline" in out
    assert 'route  strategy="load_balanced"' in out


def test_config_check_asks_the_compiler(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", pipeline) == 2
    assert "unknown operator 'merge'" in capsys.readouterr().err


def test_the_example_is_accepted_with_and_without_its_comments(tmp_path: pathlib.Path) -> None:
    assert run("config", "check", str(EXAMPLE)) == 0
    uncommented = tmp_path / "services.toml"
    text = EXAMPLE.read_text(encoding="utf-8")
    uncommented.write_text(re.sub(r"^# (?=\[|[a-z_0-9]+ = )", "", text, flags=re.MULTILINE))
    service = load_services(uncommented, environ={}).service()
    assert [instance.engine for instance in service.instances] == ["sim", "sim", "vllm", None]
    assert run("config", "check", str(uncommented)) == 0
    assert service.ledger == ".sage-llm-ops/ledger.jsonl"
    assert [key.role for key in service.gateway.api_keys] == ["admin"]


def test_json(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "check", "--json", str(EXAMPLE)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["services"][0]["instances"][1]["instance_id"] == "w1"
    assert run("pipeline", "show", "--json", pipeline) == 0
    assert json.loads(capsys.readouterr().out)["operators"][1]["options"] == {"max_pending": 5}


def test_an_error_is_one_sentence_and_code_2(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('[services.llm]\ntype = "ControlPlaneVLMService"\n')
    assert run("config", "check", str(bad)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {bad}:2: `services.llm.type`: unknown service type 'ControlPlaneVLMService': "
        "did you mean 'ControlPlaneVLLMService'? known: ControlPlaneVLLMService\n"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty: neither [services.NAME] nor [pipeline]"),
        ("[servces.x]\n", ":1: `servces`: unknown table 'servces': did you mean 'services'"),
        ("[services.x]\n[pipeline]\n", ":2: `pipeline`: a file of services holds no pipeline"),
        ("[[operators]]\n", "has no [pipeline]"),
        ("a = \n", ":1: not TOML: "),
    ],
)
def test_files_of_no_kind(
    text: str, words: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.toml").write_text(text)
    assert run("config", "check", str(tmp_path / "x.toml")) == 2
    assert words in capsys.readouterr().err


def test_overrides_reach_the_commands(
    pipeline: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_LLM_OPS__OPERATORS__ADMIT__MAX_PENDING", "7")
    assert run("pipeline", "show", pipeline) == 0
    assert "admit  max_pending=7" in capsys.readouterr().out
    monkeypatch.setenv("SAGE_LLM_OPS__OPERATORS__ADMITT__MAX_PENDING", "7")
    assert run("pipeline", "show", pipeline) == 2
    assert "did you mean 'admit'?" in capsys.readouterr().err


def test_pipeline_show(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pipeline", "show", pipeline) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "source",
        "└─▶ observe",
        "   ├─▶ admit  max_pending=5",
        "   └─▶ merge  ◀ also from admit  ↺ feedback from place",
        '      └─▶ place (route)  strategy="a \\"b\\" <c>"',
        "echo  ↺ feedback from last",
        "└─▶ last",
        "",
        "instances",
        "  w0  sim inline  (the engine's model)  general  tp=2  step_ms=3",
    ]


def test_pipeline_show_mermaid(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pipeline", "show", "--mermaid", pipeline) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "flowchart TD"
    assert "  op1 --> op2" in lines
    assert "  op3 -. feedback .-> op2" in lines
    assert '  op3["place (route)<br/>strategy=#quot;a \\#quot;b\\#quot; #lt;c#gt;#quot;"]' in lines


def test_pipeline_show_toml(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pipeline", "show", "--toml", pipeline) == 0
    assert capsys.readouterr().out == dump_pipeline(load_pipeline(pipeline, environ={}))


def test_one_form_at_a_time(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pipeline", "show", "--toml", "--json", pipeline) == 2
    assert "choose one of" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("sage-llm-ops ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, sage_llm_ops.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pydantic', 'sage', 'rich', 'msgspec', 'numpy', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "pipeline" in done.stdout
