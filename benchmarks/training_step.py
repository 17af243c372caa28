"""The operator's share of a training step: encoder and loss, forward and backward, on random frames.

    python benchmarks/training_step.py                                the paper's setting (search_spaces/paper.yaml)
    python benchmarks/training_step.py --space lac.yaml               another one
    python benchmarks/training_step.py --device cuda                  GPU: kernels' time, not the calls'

Times are torch.profiler's. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lacray.config import Config
from lacray.data.loader import Batch
from lacray.encoder import build_encoder
from lacray.fit import TrainStep
from lacray.losses import build_loss
from lacray.ops import backend_name
from lacray.study.space import find_space, load_space


def random_batch(config: Config, device: str) -> Batch:
    data = config.data
    B, T, size = data.batch_size, data.num_frames, data.size
    frames = torch.randint(0, 256, (B, 2, T, data.num_contexts, 3, size, size), dtype=torch.uint8)
    steps = torch.arange(T).expand(B, 2, T)
    lengths = torch.full((B, 2), T)
    return Batch(frames, steps, lengths, False, lengths, [], ["random"] * 2 * B).to(torch.device(device))


def measure(config: Config, device: str, repetitions: int) -> dict[str, Any]:
    """Seconds of a step, and those of the operator in it."""
    torch.manual_seed(0)
    modules = build_encoder(config.encoder, config.data), build_loss(config)
    step = TrainStep(*modules).to(device).train()
    batch = random_batch(config, device)

    def once() -> Tensor:
        loss, _ = step(batch)
        loss.backward()
        return loss

    once()
    on_gpu = device == "cuda"
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(repetitions):
            once()
        if on_gpu:
            torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / repetitions
    # On a GPU the kernels by their names; on a CPU the innermost calls, which are the operators' kernels.
    operator = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / repetitions
        for event in profiler.key_averages()
        if "lacray" in event.key
    }
    if not operator:
        raise SystemExit(
            "no call of the operator in the step: the loss has no alignment (loss.alpha or loss.beta is 0)"
        )
    return {"seconds": seconds, "operator": sum(operator.values()), "calls": operator}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="paper.yaml", help="a search space, of which its fixed setting counts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repetitions", type=int, default=2)
    arguments = parser.parse_args()
    space = load_space(find_space(arguments.space), {"encoder.weights": "none"})  # they change no time
    config = space.config()
    result = measure(config, arguments.device, arguments.repetitions)
    share = result["operator"] / result["seconds"]
    print(f"step {result['seconds']:.3f} s, operator {result['operator'] * 1e3:.3f} ms: {share:.2%}")
    on_gpu = arguments.device == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    document = {
        "benchmark": "training_step",
        "space": space.name,
        "device": device,
        "torch": torch.__version__,
        "backend": backend_name(arguments.device),
        **result,
        "share": share,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
