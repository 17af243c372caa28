"""A training step by its parts, for every loss: decode, augment, encoder, loss, optimiser; and the operators' share.

    python benchmarks/step.py                             all losses, the default setting on SimPouring, on the CPU
    python benchmarks/step.py lac scl --threads 1         some of them
    python benchmarks/step.py lac --space methods/lac.yaml data.root=simpouring encoder.weights=none --repetitions 2
    python benchmarks/step.py --device cuda

The step is lacray.fit's own, watched from outside: marks are set where clips enter the encoder, where embeddings
leave it, and where their gradient comes back. The losses take turns, so that what else the machine does meets all of
them. A share is a part of the step with all frames in memory, as they are from the second epoch on; `decode` is what
the first epoch pays on top; `whole videos` is what a loss that sees them whole pays once an epoch, shared out over
its steps. Claim: no loss takes more than 5 % of it. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measuring import now, quartiles
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lacray import fit
from lacray.config import LOSS_CONFIGS, Config, UserError, build, parse_assignments
from lacray.data import FrameStore, PairLoader, VideoSet, open_videos
from lacray.encoder import build_encoder
from lacray.losses import build_loss
from lacray.ops import backend_name
from lacray.whole import WholeEmbedder

PARTS = (
    *("load", "augment", "encoder forward", "loss forward", "loss backward", "encoder backward", "optimiser"),
    "whole videos",
)
LOSS_PARTS = ("loss forward", "loss backward")
NEEDED = {"tcn": {"data.positive_window": 5}}
CLAIM = 0.05


class Step:
    """A setting's training step, whose parts are clocked."""

    def __init__(self, config: Config, videos: VideoSet, device: torch.device, store: FrameStore) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        encoder = build_encoder(config.encoder, config.data, num_features=videos.num_features)
        self.module = fit.TrainStep(encoder, build_loss(config)).to(device).train()
        self.optimizer = fit._optimizer(config, self.module)
        self.loader = PairLoader(videos.train, config.data, seed=config.seed, store=store, steps_per_epoch=10_000)
        self.batches = self.loader.epoch(0)
        self.clock: Callable[[], float] = lambda: now(next(self.module.parameters()))
        self.marks: dict[str, float] = {}
        self.module.encoder.register_forward_pre_hook(lambda *_: self._mark("augmented"))
        self.module.encoder.register_forward_hook(self._embedded)
        self.module.loss.register_forward_pre_hook(lambda *_: self._mark("paired"))
        self.module.loss.register_forward_hook(lambda *_: self._mark("lost"))
        self.whole = self._see_videos(videos, store) if self.module.loss.wants_videos(1.0) else 0.0

    def _see_videos(self, videos: VideoSet, store: FrameStore) -> float:
        """Seconds of a step that embedding all videos whole, once an epoch, comes to where that is done."""
        loss = self.module.loss
        embed = WholeEmbedder(loss, videos.train, store=store, device=self.device)
        loss.see(embed(self.module.encoder))  # the frozen features too, once a run
        seconds = []
        for _ in range(5):
            started = self.clock()
            embed(self.module.encoder)
            seconds.append(self.clock() - started)
        loss.done = 1.0  # all that it adds has its full weight
        self.module.train()
        return quartiles(seconds)["median"] / max(1, len(videos.train) // self.config.data.batch_size)

    def _mark(self, name: str) -> None:
        self.marks[name] = self.clock()

    def _embedded(self, _module: nn.Module, _inputs: Any, embeddings: Tensor) -> None:
        self._mark("embedded")
        # The gradient is here once the loss's backward pass is over, and before the encoder's begins.
        embeddings.register_hook(lambda _: self._mark("derived"))

    def __call__(self) -> dict[str, float]:
        """Seconds of each part of one step."""
        started = self.clock()
        batch = next(self.batches).to(self.device)
        loaded = self.clock()
        loss, _ = self.module(batch)
        forward = self.clock()
        loss.backward()
        backward = self.clock()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.fit.clip_norm)
        assert bool(torch.isfinite(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        marks = self.marks
        return {
            "load": loaded - started,
            "augment": marks["augmented"] - loaded,
            "encoder forward": marks["embedded"] - marks["augmented"],
            # Cutting the clips into pairs is the loss's work too.
            "loss forward": forward - marks["embedded"],
            "loss backward": marks["derived"] - forward,
            "encoder backward": backward - marks["derived"],
            "optimiser": self.clock() - backward,
            "whole videos": self.whole,
        }

    def operators(self) -> dict[str, float]:
        """Seconds of each call of lacray's operators in one step."""
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            self()
        # On a GPU the kernels by their names; on a CPU the innermost calls, which are the operators' kernels.
        return {
            event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
            for event in profiler.key_averages()
            if "lacray" in event.key
        }


def decoding(config: Config, videos: VideoSet, steps: int) -> list[float]:
    """Seconds to load each of some steps' frames where none are kept."""
    data = config.data.model_copy(update={"cache_gib": 0.0})
    batches = PairLoader(videos.train, data, seed=0, store=FrameStore(data), steps_per_epoch=steps + 1).epoch(0)
    next(batches)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        next(batches)
        seconds.append(time.perf_counter() - started)
    return seconds


def check(config: Config, videos: VideoSet, device: torch.device, store: FrameStore) -> None:
    """A watched step does what an unwatched one does."""
    losses = []
    for watched in (True, False):
        step = Step(config, videos, device, store)
        if watched:
            step()
        else:
            loss, _ = step.module(next(step.batches).to(device))
            loss.backward()
            nn.utils.clip_grad_norm_(step.module.parameters(), config.fit.clip_norm)
            step.optimizer.step()
        losses.append([p.detach().clone() for p in step.module.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*losses, strict=True))


def measure(configs: dict[str, Config], device: torch.device, repetitions: int) -> dict[str, Any]:
    some = next(iter(configs.values()))
    videos = open_videos(some.data)
    store = FrameStore(some.data)
    for video in videos.train:
        store.read(video, np.arange(min(video.num_frames, some.data.num_frames)))  # decodes all of it, and keeps it
    check(some, videos, device, store)
    steps = {name: Step(config, videos, device, store) for name, config in configs.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(repetitions):
        for name, step in steps.items():
            seconds[name].append(step())
    decode = quartiles(decoding(some, videos, max(2, min(10, repetitions))))["median"]
    frames = 2 * some.data.batch_size * some.data.num_frames
    found: dict[str, Any] = {}
    for name, rows in seconds.items():
        parts = {part: quartiles([row[part] for row in rows]) for part in PARTS}
        whole = quartiles([sum(row.values()) for row in rows])
        shares = quartiles([sum(row[part] for part in LOSS_PARTS) / sum(row.values()) for row in rows])
        operators = steps[name].operators()
        found[name] = {
            "frames_per_second": frames / whole["median"],
            "seconds": whole,
            "parts": parts,
            "loss_share": shares["median"],
            "loss_share_iqr": shares["iqr"],
            "operators": sum(operators.values()),
            "operator_calls": operators,
        }
    return {"frames": frames, "decode": decode, "losses": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="LOSS|key=value", help=f"of {', '.join(LOSS_CONFIGS)} (all)")
    parser.add_argument("--space", help="a search space, whose fixed setting counts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the CPU (as many as it takes)")
    parser.add_argument("--repetitions", type=int, default=20)
    arguments = parser.parse_intermixed_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    given = parse_assignments(word for word in arguments.words if "=" in word)
    losses = [word for word in arguments.words if "=" not in word] or list(LOSS_CONFIGS)
    try:
        fixed = given
        if arguments.space:
            from lacray.study.space import find_space, load_space

            fixed = load_space(find_space(arguments.space), given).fixed
        configs = {name: build({**fixed, **NEEDED.get(name, {}), "loss.name": name}) for name in losses}
        found = measure(configs, torch.device(arguments.device), arguments.repetitions)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, own in found["losses"].items():
        told = ", ".join(f"{part} {1e3 * own['parts'][part]['median']:.1f}" for part in PARTS)
        print(
            f"{name}: {own['frames_per_second']:.0f} frames/s; ms: {told}; "
            f"the loss {own['loss_share']:.1%}{'' if own['loss_share'] <= CLAIM else ', MORE THAN CLAIMED'}, "
            f"operators {1e3 * own['operators']:.2f} ms"
        )
    print(f"decoding the frames of a step where none are kept: {1e3 * found['decode']:.1f} ms")
    on_gpu = arguments.device == "cuda"
    document = {
        "benchmark": "step",
        "space": arguments.space,
        "settings": given,
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "backend": backend_name(arguments.device),
        "claim": CLAIM,
        "holds": all(own["loss_share"] <= CLAIM for own in found["losses"].values()),
        **found,
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
