"""Names that packages add, and every way in which that is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.scheduler_ir import Strategy
from sage_llm_ops.scheduler_ir.strategies import FIFO
from sage_llm_ops.types.errors import ConfigError, PluginError, UnknownName
from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec
from sage_llm_ops.types.registry import Registry
from tests.plugins.packages import install

GOOD = """
from sage_llm_ops.scheduler_ir import Strategy
class Late(Strategy):
    name = "latest_first"
    def key(self, job, now): return (-job.seq,)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def registry() -> Registry[Strategy]:
    return Registry("scheduling policy", "strategies", Strategy, {"fifo": FIFO})


def add(site: Path, package: str, name: str, source: str = GOOD, value: str = "Late") -> None:
    install(site, package, "strategies", {name: value}, source)


def test_a_plugin_is_found_by_name_and_imported_when_it_is_named(site: Path) -> None:
    add(site, "slo_lazy", "latest_first")
    names = registry()
    assert sorted(names) == ["fifo", "latest_first"]
    assert ("latest_first" in names, "lastest_first" in names, len(names)) == (True, False, 2)
    assert (names.origin("latest_first"), names.origin("fifo")) == ("slo_lazy", "")
    assert names.resolve("fifo") is FIFO
    assert "slo_lazy" not in sys.modules
    found = names.resolve("latest_first")
    assert found is sys.modules["slo_lazy"].Late
    assert names["latest_first"] is found


def test_what_is_installed_later_is_found(site: Path) -> None:
    names = registry()
    with pytest.raises(UnknownName):
        names.resolve("latest_first")
    add(site, "slo_later", "latest_first")
    assert names.resolve("latest_first").name == "latest_first"


def test_an_unknown_name_lists_plugins_without_importing_them(site: Path) -> None:
    add(site, "slo_listed", "latest_first", "raise SystemExit('imported')")
    with pytest.raises(UnknownName) as refused:
        registry().resolve("lates_first", file="p.toml", line=3, key="strategy")
    assert str(refused.value) == (
        "p.toml:3: `strategy`: unknown scheduling policy 'lates_first': did you mean "
        "'latest_first'? known: fifo, latest_first"
    )


def test_a_clash_with_a_built_in_name_is_refused_when_it_is_used(site: Path) -> None:
    add(site, "slo_clash", "fifo")
    with pytest.raises(
        PluginError, match=r"package 'slo_clash' registers .* 'fifo', which is buil"
    ):
        registry().resolve("fifo")


def test_two_packages_of_one_name_are_refused(site: Path) -> None:
    add(site, "slo_one", "latest_first")
    add(site, "slo_two", "latest_first")
    with pytest.raises(PluginError, match="registered by 'slo_one' and 'slo_two'; uninstall one"):
        registry().resolve("latest_first")


@pytest.mark.parametrize(
    ("source", "value", "words"),
    [
        ("import no_such_module_of_ours", "Late", "ModuleNotFoundError: No module named 'no_such"),
        ("1 / 0", "Late", "ZeroDivisionError: division by zero"),
        ("", "Late", "AttributeError: module "),
        ("class Late: name = 'latest_first'", "Late", "is no subclass of Strategy"),
        ("Late = 3", "Late", "is no subclass of Strategy"),
        (GOOD.replace('"latest_first"', '"late"'), "Late", "calls itself 'late': set `name = 'l"),
    ],
)
def test_what_cannot_be_used_names_package_and_cause(
    source: str, value: str, words: str, site: Path
) -> None:
    package = f"slo_bad_{abs(hash((source, value)))}"
    add(site, package, "latest_first", source, value)
    with pytest.raises(PluginError) as refused:
        registry().resolve("latest_first", file="p.toml", line=7, key="strategy")
    said = str(refused.value)
    assert said.startswith(
        f"p.toml:7: `strategy`: scheduling policy 'latest_first' of package {package!r} "
    )
    assert words in said
    assert isinstance(refused.value, ConfigError)


def test_a_built_in_name_may_stand_as_a_path() -> None:
    path = "sage_llm_ops.scheduler_ir.strategies.fifo:FIFO"
    assert Registry("policy", "none", Strategy, {"fifo": path})["fifo"] is FIFO


def test_a_pipeline_says_where_it_named_what_cannot_be_imported(site: Path) -> None:
    install(site, "slo_operator", "operators", {"broken_op": "X"}, "import no_such_module_of_ours")
    spec = PipelineSpec("p", (OperatorSpec("broken_op", line=4),), file="p.toml")
    fresh: Registry[object] = Registry("operator", "operators", object, OPERATORS.built_in)
    with pytest.raises(
        PluginError, match=r"^p.toml:4: `use`: operator 'broken_op' of package 'slo"
    ):
        check(spec, fresh)  # type: ignore[arg-type]
