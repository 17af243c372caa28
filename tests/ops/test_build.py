"""The build: once for all processes, unharmed by a kill, and a clear word where there is no compiler.

A stand-in compiler copies a library that is there already, and writes down that it was called: builds take no time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lacray.ops import library

ROOT = Path(__file__).resolve().parents[2]
USE = (
    "import os, torch; from lacray.ops import backend_name, soft_sw;"
    "s, m = soft_sw(torch.zeros(2, 3, 4), 1.0, 0.5, gamma=0.8);"
    # One write: eight processes share the pipe.
    "os.write(1, f\"{backend_name('cpu')} {s[0].item():.4f}\\n\".encode())"
)


@pytest.fixture
def sandbox(tmp_path: Path) -> dict[str, str]:
    """An environment with a cache of its own and the stand-in compiler."""
    try:
        real = library.library("cpu")
    except library.BuildError as error:
        pytest.skip(f"no C++ compiler here: {error}")
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f"""#!/bin/sh
echo "$$" >> {tmp_path}/calls
if [ -e {tmp_path}/stall ]; then sleep 60; fi
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then cp {real} "$2.part" && mv "$2.part" "$2"; fi
  shift
done
"""
    )
    compiler.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LACRAY_")}
    return environment | {
        "LACRAY_CACHE": str(tmp_path / "cache"),
        "CXX": str(compiler),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


def python(code: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_eight_processes_at_once_build_once(sandbox: dict[str, str], tmp_path: Path) -> None:
    # Forked once torch is imported: eight imports would take longer than everything else here.
    fork = (
        "import os, torch, lacray.ops\n"
        "for child in range(8):\n"
        "    if os.fork() == 0:\n"
        f"        {USE}\n"
        "        os._exit(0)\n"
        "for child in range(8): assert os.wait()[1] == 0\n"
    )
    out, err = python(fork, sandbox).communicate(timeout=120)
    assert out.split() == ["cpu", "2.5116"] * 8, err
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == len(library.CPU_SOURCES) + 1  # and the link


def test_a_killed_build_neither_blocks_nor_poisons_the_next(sandbox: dict[str, str], tmp_path: Path) -> None:
    stall, calls = tmp_path / "stall", tmp_path / "calls"
    stall.touch()
    first = python(USE, sandbox)
    wait_for(calls.exists)
    waiting = python(USE, sandbox)  # behind the lock of the first
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    stall.unlink()
    for orphan in calls.read_text().split():  # the killed one's compilers, which outlive it
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(orphan), signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert out.split() == ["cpu", "2.5116"], err
    folder = next((tmp_path / "cache" / "ops").iterdir())
    assert sorted(p.name for p in folder.iterdir()) == ["lacray_ops.so", "lock"]


def test_a_failing_compiler_falls_back_loudly_and_leaves_nothing(sandbox: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "compiler").write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 3\n")
    process = python(USE, sandbox)
    out, err = process.communicate(timeout=60)
    assert out.split() == ["reference", "2.5116"]
    assert (
        "RuntimeWarning: lacray.ops: there are no compiled operators for 'cpu', the torch reference takes over" in err
    )
    assert "out of luck" in err
    folder = next((tmp_path / "cache" / "ops").iterdir())
    assert [p.name for p in folder.iterdir()] == ["lock"]


def test_without_a_compiler_the_reference_takes_over_and_the_strict_call_names_the_remedy(
    sandbox: dict[str, str],
) -> None:
    sandbox["CXX"] = "no-such-compiler"
    strict = (
        "from lacray.ops import BuildError, require_native\n"
        "try:\n    require_native('cpu')\nexcept BuildError as e:\n    print('BuildError:', e)\n"
    )
    out, err = python(USE, sandbox).communicate(timeout=60)
    assert out.split() == ["reference", "2.5116"]
    assert err.count("RuntimeWarning") == 1
    out, _ = python(strict, sandbox).communicate(timeout=60)
    assert out.startswith("BuildError: no C++ compiler found (CXX=no-such-compiler). Install one")
    forced = python(USE, sandbox | {"LACRAY_OPS_BACKEND": "native"})
    _, err = forced.communicate(timeout=60)
    assert forced.returncode != 0
    assert "BuildError: no C++ compiler found" in err
    command = subprocess.run(
        [sys.executable, "-m", "lacray.ops.build"], env=sandbox, capture_output=True, text=True, check=False
    )
    assert command.returncode == 2
    assert command.stderr.startswith("cpu: no C++ compiler found")


def test_the_backend_can_be_forced(sandbox: dict[str, str], tmp_path: Path) -> None:
    out, err = python(USE, sandbox | {"LACRAY_OPS_BACKEND": "reference"}).communicate(timeout=60)
    assert out.split() == ["reference", "2.5116"], err
    assert not (tmp_path / "calls").exists()
    _, err = python(USE, sandbox | {"LACRAY_OPS_BACKEND": "fast"}).communicate(timeout=60)
    assert "ValueError: LACRAY_OPS_BACKEND: must be 'reference', 'native' or unset, got 'fast'" in err


def test_the_operators_themselves_work_on_the_reference(sandbox: dict[str, str]) -> None:
    # In a compiled graph they are called whatever computes them.
    code = """
import torch
from lacray.ops import reference, soft_sw
inputs = [x.double().requires_grad_() for x in (torch.randn(2, 5, 7), torch.rand(5, 7), torch.rand(5, 7))]
lengths = torch.tensor([[5, 7], [3, 4]])
def loss(f, s, go, ge):
    score, match = f(s, go, ge, gamma=0.7, lengths=lengths)
    return score.sum() + torch.where(torch.isfinite(match), match, 0.0).square().sum()
compiled = torch.compile(lambda *a: loss(soft_sw, *a), fullgraph=True, backend="aot_eager")
a = torch.autograd.grad(compiled(*inputs), inputs)
b = torch.autograd.grad(loss(reference.soft_sw, *inputs), inputs)
assert all(torch.allclose(x, y) for x, y in zip(a, b))
for end_to_end in (False, True):
    torch.library.opcheck(torch.ops.lacray.soft_sw.default, (*inputs, lengths, 0.7, end_to_end))
for smooth in (False, True):
    torch.library.opcheck(torch.ops.lacray.dtw.default, (inputs[0], lengths, 0.7, 3, smooth, True))
print("same")
"""
    out, err = python(code, sandbox | {"LACRAY_OPS_BACKEND": "reference"}).communicate(timeout=120)
    assert out.split() == ["same"], err


def test_without_a_cache_that_can_be_written_they_are_compiled_into_a_temporary_folder(
    sandbox: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    (tmp_path / "tmp").mkdir()
    for _ in range(2):
        out, err = python(USE, sandbox | {"TMPDIR": str(tmp_path / "tmp")}).communicate(timeout=60)
        assert out.split()[1] == "2.5116"
        assert out.split()[0] != "reference"
        assert f"{tmp_path / 'cache'} cannot be written" in err
    assert len(list((tmp_path / "tmp").glob("lacray-*/ops/*/lacray_ops.so"))) == 1


def test_a_library_that_cannot_be_loaded_names_the_remedy(sandbox: dict[str, str]) -> None:
    python(USE, sandbox).communicate(timeout=60)
    built = next((Path(sandbox["LACRAY_CACHE"]) / "ops").glob("*/lacray_ops.so"))
    built.write_bytes(b"not a library")
    out, err = python(USE, sandbox).communicate(timeout=60)
    assert out.split() == ["reference", "2.5116"]
    assert "python -m lacray.ops.build --force" in err


def test_a_second_process_starts_quickly(sandbox: dict[str, str]) -> None:
    python(USE, sandbox).communicate(timeout=60)
    timed = (
        "import time, torch; import torch.library; start = time.perf_counter()\n"
        "import lacray.ops; lacray.ops.backend_name('cpu'); print(time.perf_counter() - start)\n"
        "import sys; assert 'torch.utils.cpp_extension' not in sys.modules"
    )
    times = []
    for _ in range(3):
        out, err = python(timed, sandbox).communicate(timeout=60)
        assert err == ""
        times.append(float(out))
    assert min(times) < 0.2
