"""The training loop: one process per device, torch.distributed between them, no Ray.

`fit` is a generator: it trains, and hands out what happened after every epoch. The caller writes rows, reports, stops.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from lacray import evaluation
from lacray.config import Config, UserError, build
from lacray.data import Batch, FrameStore, PairLoader, Video, VideoSet
from lacray.data.augment import apply_to_clips
from lacray.encoder import Encoder, build_encoder, position_code
from lacray.losses import LacLoss, build_loss

CHECKPOINT_FORMAT = 1


class NonFiniteError(UserError):
    """The loss or its gradient is no longer a number; the message says where and for which videos."""


class CheckpointError(UserError):
    """A checkpoint that is no checkpoint, or one of another architecture."""


class TrainStep(nn.Module):
    """What DDP wraps: a batch in, the loss and its parts out; what the loss learns are parameters like any other."""

    def __init__(self, encoder: Encoder, loss: LacLoss) -> None:
        super().__init__()
        self.encoder, self.loss = encoder, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        clips = batch.frames.flatten(0, 1)
        if batch.augmentations:
            clips = apply_to_clips(clips, batch.augmentations)
        embeddings = self.encoder(clips, batch.lengths.flatten() if batch.is_padded else None)
        return self.loss(
            embeddings.unflatten(0, (-1, 2)), batch.steps, lengths=batch.lengths, video_lengths=batch.video_lengths
        )


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, with what was left out and why."""

    split: str
    """`validation` (selection) or `val` (report)."""
    metrics: dict[str, float]
    """`full.class_10`, ..., `cropped.progress`, ..., and `objective` where there are labels."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class EpochEnd:
    """State after an epoch."""

    epoch: int
    """Epochs done."""
    parts: dict[str, float]
    """Mean of each part of the loss over the epoch, over all workers."""
    diagnostics: dict[str, float]
    """What the loss has learned, by column name."""
    evaluations: list[Evaluation]
    """Empty for epochs that are not evaluated."""
    checkpoint: Path
    """`last.pt`, which holds this state; `best.pt` beside it holds the best so far."""
    seconds: float
    """Spent training so far, evaluation apart."""
    frames_per_second: float
    """Trained on in this epoch, over all workers."""
    peak_memory_bytes: int


def fit(
    config: Config,
    videos: VideoSet,
    directory: Path,
    *,
    device: torch.device | str = "cpu",
    resume: Path | None = None,
    store: FrameStore | None = None,
) -> Iterator[EpochEnd]:
    """Train a setting; yields after every epoch, when `last.pt` (and `best.pt`) are on disk.

    Under torch.distributed every rank runs it and gets the same events; rank 0 writes the checkpoints.

    Args:
        config: the setting.
        videos: from `open_videos`.
        directory: of `last.pt` and `best.pt`; made if it does not exist.
        device: where the encoder lives.
        resume: a checkpoint to go on from, bit for bit on a CPU; None starts anew.
        store: decoded frames to share with other runs in this process.

    Raises:
        NonFiniteError: with the step, the batch's videos and the parts of the loss; the last good checkpoint stays.
        CheckpointError: `resume` does not fit this setting.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    device = torch.device(device)
    store = store or FrameStore(config.data)
    torch.manual_seed(config.seed)
    step = TrainStep(
        build_encoder(config.encoder, config.data, num_features=videos.num_features),
        build_loss(config.loss, num_frames=config.data.num_frames),
    ).to(device)
    loader = PairLoader(
        videos.train,
        config.data,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        steps_per_epoch=config.fit.steps_per_epoch,
        accumulate=config.fit.accumulate,
        pin_memory=device.type == "cuda",
        store=store,
    )
    optimizer = _optimizer(config, step)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(config, loader.steps_per_epoch))
    # Dropout differs between ranks, initial weights do not.
    torch.manual_seed(config.seed * 1_000_003 + rank)
    first_epoch, seconds, best = 0, 0.0, -math.inf
    if resume is not None:
        state = read_checkpoint(resume)
        _restore(state, resume, step, optimizer, scheduler, rank)
        first_epoch, seconds, best = state["epoch"], state["seconds"], state["best"]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    wrapped: nn.Module = step
    if world_size > 1:
        if device.type == "cuda":
            step.encoder = nn.SyncBatchNorm.convert_sync_batchnorm(step.encoder)
        wrapped = nn.parallel.DistributedDataParallel(step)
    for epoch in range(first_epoch, config.fit.epochs):
        started = time.perf_counter()
        parts, num_frames = _train_epoch(config, wrapped, step, loader, optimizer, scheduler, device, epoch)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        done = epoch + 1
        is_last = done == config.fit.epochs
        evaluations = []
        if is_last or done % config.fit.evaluate_every == 0:
            splits = ["validation"] if videos.held else []
            # Without a validation share nothing is selected, and the val split may be looked at all along.
            if (is_last and config.evaluation.report_split) or not splits:
                splits.append("val")
            evaluations = [
                evaluate(config, step.encoder, videos, split, device=device, store=store) for split in splits
            ]
        objective = evaluations[0].metrics.get("objective", -parts["total"]) if evaluations else -math.inf
        is_best = bool(evaluations) and objective >= best
        best = max(best, objective)
        random_states = _gather(torch.get_rng_state())
        checkpoint = directory / "last.pt"
        if rank == 0:
            state = {
                "format": CHECKPOINT_FORMAT,
                "config": config.flat(),
                "num_features": videos.num_features,
                "encoder": step.encoder.state_dict(),
                "loss": step.loss.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": {"last_epoch": scheduler.last_epoch},
                "epoch": done,
                "seconds": seconds,
                "best": best,
                "random_states": random_states,
                "cuda_random_state": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            }
            directory.mkdir(parents=True, exist_ok=True)
            _save(state, checkpoint)
            if is_best:
                _save(state, directory / "best.pt")
        yield EpochEnd(
            epoch=done,
            parts=parts,
            diagnostics=step.loss.diagnostics(),
            evaluations=evaluations,
            checkpoint=checkpoint,
            seconds=seconds,
            frames_per_second=num_frames / elapsed,
            peak_memory_bytes=_peak_memory(device),
        )


def _train_epoch(
    config: Config,
    wrapped: nn.Module,
    step: TrainStep,
    loader: PairLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    device: torch.device,
    epoch: int,
) -> tuple[dict[str, float], int]:
    """One epoch -> the mean parts of the loss, and the frames trained on, over all workers."""
    wrapped.train()
    accumulate = config.fit.accumulate
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.fit.precision == "bf16")
    sums: dict[str, Tensor] = {}
    num_frames = 0
    optimizer.zero_grad(set_to_none=True)
    told: list[tuple[dict[str, Tensor], list[str]]] = []
    for number, loaded in enumerate(loader.epoch(epoch)):
        batch = loaded.to(device)
        is_step = (number + 1) % accumulate == 0
        # Gradients of accumulated batches cross the network once.
        is_ddp = isinstance(wrapped, nn.parallel.DistributedDataParallel)
        quiet = wrapped.no_sync() if is_ddp and not is_step else contextlib.nullcontext()  # type: ignore[operator]
        with quiet:
            with autocast:
                loss, parts = wrapped(batch)
            (loss / accumulate).backward()
        told = [*(told if number % accumulate else []), (parts, batch.names)]
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part.clone()
        num_frames += int(loaded.lengths.sum())
        if not is_step:
            continue
        encoder_norm = nn.utils.clip_grad_norm_(step.encoder.parameters(), config.fit.clip_norm)
        loss_norm = nn.utils.get_total_norm([p.grad for p in step.loss.parameters() if p.grad is not None])
        # All ranks see the same summed gradient, so all of them stop here, at the same step.
        if not bool(torch.isfinite(encoder_norm) & torch.isfinite(loss_norm.to(device))):
            position = epoch * loader.steps_per_epoch + number // accumulate
            raise _non_finite(config, position, told)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    keys = sorted(sums)
    means = torch.stack([sums[key].double() for key in keys]) / loader.batches_per_epoch
    total = torch.tensor(num_frames, dtype=torch.float64, device=device)
    if dist.is_initialized():
        dist.all_reduce(means)
        dist.all_reduce(total)
        means = means / dist.get_world_size()
    return dict(zip(keys, means.tolist(), strict=True)), int(total.item())


def _non_finite(config: Config, position: int, batches: list[tuple[dict[str, Tensor], list[str]]]) -> NonFiniteError:
    own = [({name: round(part.item(), 6) for name, part in parts.items()}, names) for parts, names in batches]
    told = [batch for batches in _gather(own) for batch in batches]
    guilty = [(values, videos) for values, videos in told if not all(map(math.isfinite, values.values()))]
    where = "loss" if guilty else "gradient"
    values, videos = (guilty or told)[0]
    return NonFiniteError(
        f"step {position}: the {where} must be finite, got {values} on {', '.join(sorted(set(videos)))}; "
        f"lower fit.learning_rate ({config.fit.learning_rate:g}), or raise loss.gamma or loss.similarity_eps"
    )


def _optimizer(config: Config, step: TrainStep) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.fit.optimizer]
    groups: list[dict[str, Any]] = [{"params": [p for p in step.encoder.parameters() if p.requires_grad]}]
    groups += step.loss.parameter_groups()
    return kind(groups, lr=config.fit.learning_rate, weight_decay=config.fit.weight_decay)


def _schedule(config: Config, steps_per_epoch: int) -> Any:
    """Optimiser step -> factor on every learning rate: linear warm-up, then cosine to 0 or constant."""
    warmup = config.fit.warmup_epochs * steps_per_epoch
    total = config.fit.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.fit.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, total - warmup)))

    return factor


@torch.no_grad()
def evaluate(
    config: Config,
    encoder: Encoder | None,
    videos: VideoSet,
    split: str,
    *,
    device: torch.device | str = "cpu",
    store: FrameStore | None = None,
) -> Evaluation:
    """Every metric of a split under both protocols; videos are shared out over the ranks.

    Args:
        encoder: None scores the control "positions only": the sine-cosine code of each frame's place in its video.
        split: `validation` learns from `videos.train`, `val` from the whole train split.

    Returns:
        The same on every rank.
    """
    device = torch.device(device)
    store = store or FrameStore(config.data)
    learned_from, scored = (videos.train, videos.validation) if split == "validation" else (videos.training, videos.val)
    everything = learned_from + scored
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = [_embed(config, encoder, video, device, store) for video in everything[rank::world_size]]
    shared = _gather(mine)
    embedded = [shared[number % world_size][number // world_size] for number in range(len(everything))]

    metrics: dict[str, float] = {}
    notes: list[str] = []
    if rank == 0:
        for number, protocol in enumerate(("full", "cropped")):
            sequences = [pair[number] for pair in embedded]
            # Small matrices: BLAS threads gain nothing, and beyond the free cores they spin against each other.
            with threadpool_limits(1):
                found = evaluation.evaluate(
                    sequences[: len(learned_from)],
                    sequences[len(learned_from) :],
                    stride=config.evaluation.stride,
                    phases=videos.phases,
                    notes=notes,
                )
            metrics |= {f"{protocol}.{name}": value for name, value in found.items()}
            if protocol == "cropped" and all(name in found for name in evaluation.OBJECTIVE_METRICS):
                metrics["objective"] = evaluation.objective(found)
    if world_size > 1:
        box: list[Any] = [metrics, notes]
        dist.broadcast_object_list(box, src=0)
        metrics, notes = box
    return Evaluation(split, metrics, list(dict.fromkeys(notes)))


def _embed(
    config: Config, encoder: Encoder | None, video: Video, device: torch.device, store: FrameStore
) -> tuple[evaluation.Sequence, evaluation.Sequence]:
    """A video's sequence under each protocol: whole, and cut to its window BEFORE it is embedded."""
    start, stop = evaluation.crop_window(video.labels, video.num_frames, config.evaluation.crop_seed, video.name)
    windows = [np.arange(video.num_frames), np.arange(start, stop)]
    if encoder is None:
        empty = torch.zeros(())
        mode = config.encoder.positions if config.encoder.positions != "none" else "absolute"
        codes = [position_code(len(steps), config.encoder.hidden, mode, None, empty)[0] for steps in windows]
    else:
        encoder.eval()
        hidden = encoder.per_frame(_frames(video, windows[0], device, store))
        crop_hidden = hidden[:, start:stop]
        if config.data.num_contexts > 1 and config.data.input == "videos":
            # The cut video has no frames before its first one to be its context.
            cut = torch.from_numpy(store.read(video, windows[1], first=start)).to(device)[None]
            crop_hidden = encoder.per_frame(cut)
        codes = [encoder.over_time(h)[0].float().cpu() for h in (hidden, crop_hidden)]
    whole, cropped = (
        evaluation.Sequence.from_video(
            video.name,
            code.numpy(),
            steps,
            num_frames=video.num_frames,
            labels=video.labels,
            progress=video.progress,
        )
        for code, steps in zip(codes, windows, strict=True)
    )
    return whole, cropped


def _frames(video: Video, steps: np.ndarray, device: torch.device, store: FrameStore) -> Tensor:
    return torch.from_numpy(store.read(video, steps)).to(device)[None]


def control(
    config: Config,
    videos: VideoSet,
    name: str,
    split: str,
    *,
    device: torch.device | str = "cpu",
    store: FrameStore | None = None,
) -> Evaluation:
    """A control of every table: `untrained` (the encoder as initialised) or `positions` (the code of places alone)."""
    encoder = None
    if name == "untrained":
        torch.manual_seed(config.seed)
        encoder = build_encoder(config.encoder, config.data, num_features=videos.num_features).to(device)
    return evaluate(config, encoder, videos, split, device=device, store=store)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of `fit`, with weights_only: a file from a stranger cannot run code.

    Raises:
        CheckpointError: it does not exist, or is no checkpoint of lacray.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint: {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"checkpoint: {path} is no checkpoint of lacray ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"checkpoint: {path} must have format {CHECKPOINT_FORMAT}, got {found!r}")
    return state


def load_encoder(path: Path | str) -> tuple[Encoder, Config]:
    """The trained encoder of a checkpoint, in eval mode, and its setting.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    state = read_checkpoint(Path(path))
    config = build(state["config"])
    # The checkpoint brings all weights: nothing is fetched.
    bare = config.encoder.model_copy(update={"weights": "none"})
    encoder = build_encoder(bare, config.data, num_features=state["num_features"])
    encoder.load_state_dict(state["encoder"])
    return encoder.eval(), config


def _restore(
    state: dict[str, Any],
    path: Path,
    step: TrainStep,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    rank: int,
) -> None:
    try:
        step.encoder.load_state_dict(state["encoder"])
        step.loss.load_state_dict(state["loss"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as error:
        had = {key: value for key, value in state["config"].items() if key.startswith(("encoder.", "loss.gap"))}
        raise CheckpointError(
            f"checkpoint: {path} is of another architecture than this setting ({str(error).splitlines()[0].strip()}); "
            f"it was trained with {had}"
        ) from error
    scheduler.last_epoch = state["scheduler"]["last_epoch"]
    if rank < len(state["random_states"]):
        torch.set_rng_state(state["random_states"][rank])
    if state["cuda_random_state"] is not None and torch.cuda.is_available() and rank == 0:
        torch.cuda.set_rng_state(state["cuda_random_state"])


def _save(state: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _gather(value: Any) -> list[Any]:
    """Every rank's value, in order of rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
