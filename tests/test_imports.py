"""Imports run one way, and what needs no Ray works without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT

WITHOUT = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""

# Of the package's own modules, which each may import besides itself. Not listed: the entry points, which may all.
FOUNDATION = {"cache", "config", "metrics", "native", "odds", "ops", "text"}
DATA_SIDE = {
    *("losses", "encoder", "data", "evaluation", "batch_norm"),
    *("distributed", "checkpoint", "embedding", "whole", "fit"),
}
MAY_IMPORT: dict[str, set[str]] = {
    "cache": {"text"},
    "metrics": set(),
    "native": set(),
    "text": set(),
    "config": {"text"},
    "ops": {"cache", "config", "exits", "native", "text"},
    "odds": {"ops"},
    "losses": FOUNDATION,
    "batch_norm": set(),
    "weights": {"config"},
    "trunk": {"config", "weights"},
    "encoder": FOUNDATION | {"batch_norm", "trunk"},
    "data": FOUNDATION | {"simpouring"},
    "evaluation": FOUNDATION,
    "distributed": set(),
    "simpouring": {"cache"},
    "checkpoint": FOUNDATION | {"losses", "encoder", "distributed"},
    "embedding": FOUNDATION | {"data", "encoder", "evaluation", "distributed"},
    "whole": FOUNDATION | {"data", "distributed", "encoder", "losses"},
    "fit": FOUNDATION | DATA_SIDE,
    "results": {"config", "exits", "metrics"},
    "apply": FOUNDATION | DATA_SIDE | {"results"},
    "run": FOUNDATION | DATA_SIDE | {"results", "apply"},
    "worker": FOUNDATION | DATA_SIDE | {"results", "run"},
    "nodes": {"config", "results"},
    "watch": set(),
    "exits": {"config", "watch"},
    "cli": {"config", "data", "results", "text", "watch"},
    "backbone": {"config", "weights"},
    "extraction": FOUNDATION | {"backbone", "data"},
    "page": FOUNDATION | {"apply", "data"},
    "work": {"apply", "cli", "config", "data", "exits", "text"},
    "cluster": {"cache", "cli", "config", "exits"},
    "progress": {"cli", "worker"},
    "study": FOUNDATION | DATA_SIDE | {"results", "run", "worker", "nodes", "watch", "cli", "exits"},
}
ENTRY_POINTS = {path.stem for path in (ROOT / "lacray").glob("*.py") if '__name__ == "__main__"' in path.read_text()}


def imported(path: Path, package: str) -> Iterator[str]:
    """Every module that a file imports, wherever in it, with its whole name; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def files_of(folder: str) -> Iterator[tuple[Path, str, str]]:
    """(file, its package, its part: the first name below the package)."""
    root = ROOT / folder
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        part = inside.parts[0].removesuffix(".py")
        yield path, ".".join([folder, *inside.parts[:-1]]), part


def own_parts(path: Path, package: str) -> set[str]:
    modules = {p.name.removesuffix(".py") for p in (ROOT / "lacray").iterdir()}
    names = [name.split(".") for name in imported(path, package)]
    return {name[1] for name in names if name[0] == "lacray" and len(name) > 1 and name[1] in modules}


def test_imports_run_one_way():
    wrong, parts = [], set()
    for path, package, part in files_of("lacray"):
        parts.add(part)
        # A package's __main__ is an entry point, too.
        if part in ENTRY_POINTS or part == "__init__" or path.name == "__main__.py":
            continue
        assert part in MAY_IMPORT, f"{path}: a new module; say in this test what it may import"
        extra = own_parts(path, package) - MAY_IMPORT[part] - {part}
        wrong += [f"{path.relative_to(ROOT)} imports lacray.{name}" for name in sorted(extra)]
    assert wrong == []
    assert parts - {"__init__"} == set(MAY_IMPORT) | ENTRY_POINTS


def test_nothing_imports_an_entry_point():
    wrong = [
        str(path.relative_to(ROOT))
        for path, package, part in files_of("lacray")
        if part not in ENTRY_POINTS and own_parts(path, package) & ENTRY_POINTS
    ]
    assert wrong == []


def test_entry_points_define_nothing_that_a_worker_would_unpickle():
    # Run as __main__, their classes and functions would be pickled by a name that a worker does not have.
    assert {"train", "tune"} <= ENTRY_POINTS
    for name in sorted(ENTRY_POINTS):
        tree = ast.parse((ROOT / "lacray" / f"{name}.py").read_text())
        decorated = [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and any("ray.remote" in ast.unparse(decorator) for decorator in node.decorator_list)
        ]
        assert decorated == []


def test_only_the_worker_imports_ray_train():
    found = {
        path.name
        for path, package, _ in files_of("lacray")
        if any(name == "ray.train" or name.startswith("ray.train.") for name in imported(path, package))
    }
    assert found == {"worker.py"}


def test_ray_stays_in_the_worker_and_around_the_entry_points():
    found = {
        part
        for path, package, part in files_of("lacray")
        if any(name.split(".")[0] == "ray" for name in imported(path, package))
    }
    assert found <= {"worker", "cluster", "progress", "nodes", "watch", "study"} | ENTRY_POINTS


def test_analysis_reads_results_and_metrics_and_nothing_else_of_lacray():
    for path, package, _ in files_of("analysis"):
        names = set(imported(path, package))
        assert own_parts(path, package) <= {"exits", "metrics", "results", "text"}, path
        assert not {name.split(".")[0] for name in names} & {"torch", "torchvision", "ray"}, path


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


def test_operators_losses_and_training_work_where_ray_is_not_installed():
    code = """
import torch
import lacray.ops, lacray.losses, lacray.fit, lacray.checkpoint, lacray.results, lacray.evaluation
import lacray.run, lacray.apply
score, match = lacray.ops.soft_sw(torch.rand(2, 3, 4), torch.tensor(1.0), torch.tensor(0.5), gamma=0.8)
assert score.shape == (2,) and match.shape == (2, 3, 4)
assert "ray" not in sys.modules
try:
    import lacray.worker
except ModuleNotFoundError as error:
    assert error.name == "ray", error
else:
    raise SystemExit("the blocker does not block")
print("done")
"""
    outcome = run_without({"ray", "optuna"}, code)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip() == "done"


@pytest.mark.parametrize("module", ["lacray", "lacray.results", "analysis.report"])
def test_package_results_and_report_need_no_torch(module):
    outcome = run_without({"ray", "torch", "torchvision"}, f"import {module}\nprint('done')")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip() == "done"


def test_a_file_with_a_forbidden_import_would_be_found(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from .. import fit\n    from ray.train import report\n    import lacray.tune as t\n")
    names = set(imported(path, "lacray.data"))
    assert {"lacray.fit", "ray.train", "lacray.tune"} <= names
    assert own_parts(path, "lacray.data") == {"fit", "tune"}
