"""The rules of the house, read from the code itself."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sciml_discover
from sciml_discover.base import Options
from sciml_discover.experiment import Experiment
from sciml_discover.result import Record

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sciml_discover", "tasks", "flows")

FLOORS = (
    ("base", "errors", "threads", "warned", "atomic", "locks"),
    ("expressions", "printing", "callables", "observation", "system", "systems", "units"),
    ("trajectories", "controls", "smoothers", "noise", "integrate", "linear_algebra", "tables", "readers"),
    (
        "coordinates",
        "factors",
        "library",
        "constraints",
        "holes",
        "masked_libraries",
        "exchange",
        "evidence",
        "ude",
    ),
    ("objectives", "optimizers", "solve", "unknown_inputs", "trained", "checkpoint", "presets", "training"),
    (
        "residual_samples",
        "regressors",
        "refit",
        "profiles",
        "seeds",
        "blocks",
        "outlook",
        "shortlist",
        "hole_by_hole",
        "criterion",
        "scores",
        "judge",
        "search",
    ),
    ("digits", "simplify", "laws", "same_laws", "identifiability", "ranking", "selection"),
    ("forecasts", "next_measurement", "baselines", "validation"),
    ("result", "report", "exports"),
    ("payload", "store", "option_errors", "toml_writer", "experiment"),
    ("stages", "run_folders", "cache", "provenance", "runs"),
)
"""Every module and package of the library, from the ground up: each imports only from those before it."""

ORDER = [name for floor in FLOORS for name in floor]

TASK_LINES = 25
"""A task of more lines does science; that belongs in the library."""


def files(*packages: str) -> list[Path]:
    """Return the Python files of some packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def place(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if isinstance(node, ast.stmt | ast.expr) else ""
    return f"{path.relative_to(ROOT)}{line}"


def imported(path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Yield every module that a file imports, wherever in the file, its dotted name as long as possible."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{place(path, node)}: a relative import"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def floor_of(path: Path) -> str:
    """Return the module or package of the library that a file belongs to."""
    return path.relative_to(ROOT / "sciml_discover").parts[0].removesuffix(".py")


def in_subprocess(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_module_of_the_library_stands_on_one_floor() -> None:
    there = {floor_of(path) for path in files("sciml_discover")} - {"__init__"}
    assert sorted(ORDER) == sorted(there), "put a new module into FLOORS above, where it may import from"


@pytest.mark.parametrize("path", files("sciml_discover"), ids=place)
def test_imports_go_downward_only(path: Path) -> None:
    here = floor_of(path)
    below = ORDER if here == "__init__" else ORDER[: ORDER.index(here) + 1]
    for node, name in imported(path):
        parts = name.split(".")
        if parts[0] == "sciml_discover" and len(parts) > 1:
            assert parts[1] in below, f"{place(path, node)}: {here} stands below {parts[1]}"


def test_the_library_imports_neither_prefect_nor_what_stands_on_it() -> None:
    for path in files("sciml_discover"):
        for node, name in imported(path):
            assert name.split(".")[0] not in {"prefect", "tasks", "flows"}, place(path, node)


def test_tasks_do_not_import_flows() -> None:
    for path in files("tasks"):
        for node, name in imported(path):
            assert name.split(".")[0] != "flows", place(path, node)


def test_modules_of_a_package_do_not_import_in_circles() -> None:
    for path in files("sciml_discover"):
        importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )


def test_the_library_works_without_prefect() -> None:
    done = in_subprocess(
        "import sys, pkgutil, importlib\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('prefect', 'typer', 'rich', 'fastapi', 'sqlalchemy'):\n"
        "            raise ImportError('blocked: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import sciml_discover\n"
        "for module in pkgutil.walk_packages(sciml_discover.__path__, 'sciml_discover.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sciml_discover.discover.__name__)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "discover"


def test_reading_an_experiment_loads_nothing_heavy() -> None:
    # A lazily imported module stands in sys.modules, unexecuted, until somebody looks into it.
    heavy = (
        "torch",
        "sympy",
        "pysindy",
        "scipy.integrate",
        "matplotlib",
        "sklearn",
        "pyarrow",
        "jinja2",
        "pint",
    )
    done = in_subprocess(
        "import sys\n"
        "import sciml_discover\n"
        "from sciml_discover.experiment import load_experiment\n"
        "load_experiment('data/hudson_bay/experiment.toml', ['train.starts=2'])\n"
        "import sciml_discover.stages, sciml_discover.runs, sciml_discover.result\n"
        f"print([name for name in {heavy!r} if name in sys.modules"
        " and type(sys.modules[name]).__name__ != '_LazyModule'])\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def public_definitions(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Yield what a file offers: itself, its public functions and classes, their public methods."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    yield tree(path), path.stem
    for node in tree(path).body:
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        yield node, node.name
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, kinds) and not method.name.startswith("_"):
                    yield method, f"{node.name}.{method.name}"


@pytest.mark.parametrize("path", files(*PACKAGES), ids=place)
def test_public_names_are_documented(path: Path) -> None:
    for node, name in public_definitions(path):
        assert isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node), f"{place(path, node)}: {name} has no docstring"


def every_subclass(base: type) -> Iterator[type]:
    for child in base.__subclasses__():
        yield child
        yield from every_subclass(child)


def test_every_field_of_options_and_results_is_described() -> None:
    for module in pkgutil.walk_packages(sciml_discover.__path__, "sciml_discover."):
        importlib.import_module(module.name)
    checked = 0
    for base in (Options, Record):
        for model in every_subclass(base):
            if not model.__module__.startswith("sciml_discover"):
                continue  # made by a test
            for name, field in model.model_fields.items():
                checked += 1
                assert field.description or name == "kind", f"{model.__name__}.{name} has no description"
    assert checked > 100


@pytest.mark.parametrize("path", files("tasks"), ids=place)
def test_tasks_are_thin(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= TASK_LINES, f"{place(path, node)}: {node.name} has {lines} lines"


BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint", "input",
    "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.load",
    "sympy.parse_expr", "pickle.load", "pickle.loads", "marshal.loads",
}  # fmt: skip
BANNED_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "sympy.parsing"}


def called_name(node: ast.Call) -> str:
    return ast.unparse(node.func)


@pytest.mark.parametrize("path", files(*PACKAGES, "data"), ids=place)
def test_nothing_runs_what_somebody_wrote(path: Path) -> None:
    for node, name in imported(path):
        modules = {name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)}
        assert not modules & BANNED_MODULES, f"{place(path, node)}: imports {name}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert called_name(node) not in BANNED_CALLS, f"{place(path, node)}: calls {called_name(node)}"
            for keyword in node.keywords:
                true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                assert not (keyword.arg in {"shell", "allow_pickle"} and true), place(path, node)


@pytest.mark.parametrize("path", files("sciml_discover"), ids=place)
def test_the_library_prints_nothing_and_asserts_nothing(path: Path) -> None:
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), f"{place(path, node)}: assert is gone under python -O"
        if isinstance(node, ast.Call):
            assert called_name(node) != "print", place(path, node)
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in {"sys.stdout", "sys.stderr"}, place(path, node)


@pytest.mark.parametrize("path", files(*PACKAGES), ids=place)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            silent = all(isinstance(child, ast.Pass) for child in node.body)
            broad = node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            assert not (silent and broad), f"{place(path)}:{node.lineno}"


@pytest.mark.parametrize("path", files(*PACKAGES, "tests"), ids=place)
def test_annotations_are_not_evaluated(path: Path) -> None:
    if len(tree(path).body) <= 1:
        return  # a docstring at most
    assert "__future__.annotations" in [name for _, name in imported(path)], place(path)


def test_no_module_hides_one_of_the_standard_library() -> None:
    # A Prefect worker puts flows/ on the path, so a flows/queue.py would hide the module queue.
    for path in files("tasks", "flows"):
        assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names, place(path)


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("end", [r"pytest", r"sciml-discover run data/hudson_bay/experiment\.toml"])
def test_the_readme_has_one_line_for_each_command(end: str) -> None:
    assert len(re.findall(rf"^python3 -m venv \.venv && .*&& {end}$", readme(), flags=re.MULTILINE)) == 1


def option_names(options: type[Options], seen: set[type] | None = None) -> Iterator[str]:
    """Yield the names of all fields of options and of the options inside them, aliases preferred."""
    seen = set() if seen is None else seen
    if options in seen:
        return
    seen.add(options)
    for name, field in options.model_fields.items():
        yield field.alias or name
        for inner in every_subclass(Options):
            if inner.__name__ in re.findall(r"\w+", str(field.annotation)):
                yield from option_names(inner, seen)


def test_the_readme_names_every_key_of_the_experiment_file() -> None:
    text = readme()
    missing = sorted({name for name in option_names(Experiment) if f"`{name}`" not in text})
    assert not missing, f"README.md, 'The experiment file', does not name {missing}"


def test_the_readme_names_only_files_that_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", readme()):
        assert (ROOT / target).exists(), target
