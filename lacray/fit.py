"""The training loop: one process per device, torch.distributed between them, no Ray, no files.

`fit` is a generator: it trains, and hands out what happened after every epoch. The caller writes, reports, stops.
"""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lacray import checkpoint, distributed
from lacray.config import Config, UserError
from lacray.data import Batch, FrameStore, PairLoader, VideoSet
from lacray.data.augment import apply_to_clips
from lacray.embedding import Evaluation, evaluate
from lacray.encoder import Encoder, build_encoder, shared_batch_norms
from lacray.losses import LacLoss, build_loss


class NonFiniteError(UserError):
    """The loss or its gradient is no longer a number; the message says where and for which videos."""


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
class EpochEnd:
    """State after an epoch, the same on every rank but for `state`."""

    epoch: int
    """Epochs done."""
    parts: dict[str, float]
    """Mean of each part of the loss over the epoch, over all workers."""
    diagnostics: dict[str, float]
    """What the loss has learned, by column name."""
    evaluations: list[Evaluation]
    """Empty for epochs that are not evaluated."""
    state: dict[str, Any] | None
    """The checkpoint, at rank 0; it refers to what is trained on, so write it before you ask for the next epoch."""
    seconds: float
    """Spent training so far, evaluation apart."""
    frames_per_second: float
    """Trained on in this epoch, over all workers."""
    peak_memory_bytes: int


def check_batch(config: Config, workers: int) -> None:
    """That a step's pairs can be split over the workers.

    Raises:
        UserError: they cannot.
    """
    size, parts = config.data.batch_size, workers * config.fit.accumulate
    if size % parts:
        of = f"workers ({workers})" + (f" times fit.accumulate ({config.fit.accumulate})" if config.fit.accumulate > 1 else "")
        near = sorted({max(parts, size // parts * parts), (size // parts + 1) * parts})
        raise UserError(
            f"data.batch_size: the pairs of a step must be a multiple of {of}, got {size}; make it "
            f"{' or '.join(map(str, near))}, or change the number of workers"
        )


def fit(
    config: Config,
    videos: VideoSet,
    *,
    device: torch.device | str = "cpu",
    state: dict[str, Any] | None = None,
    store: FrameStore | None = None,
) -> Iterator[EpochEnd]:
    """Train a setting; yields after every epoch.

    Under torch.distributed every rank runs it: they take the steps that one would take alone.

    Args:
        config: the setting.
        videos: from `open_videos`.
        device: where the encoder lives.
        state: of `read_checkpoint`, to go on from, bit for bit on a CPU; None starts anew.
        store: decoded frames to share with other runs in this process.

    Raises:
        NonFiniteError: with the step, the batch's videos and the parts of the loss.
        CheckpointError: `state` does not fit this setting.
        UserError: the batch cannot be split over the ranks, or a video cannot be read; on every rank.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    check_batch(config, world_size)
    device = torch.device(device)
    store = store or FrameStore(config.data)
    torch.manual_seed(config.seed)
    step = TrainStep(
        build_encoder(config.encoder, config.data, num_features=videos.num_features),
        build_loss(config.loss, num_frames=config.data.num_frames),
    ).to(device)
    if world_size > 1:
        step.encoder = shared_batch_norms(step.encoder, device)
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
    first_epoch, seconds = 0, 0.0
    if state is not None:
        checkpoint.load(state, step.encoder, step.loss, optimizer)
        scheduler.last_epoch = state["scheduler"]["last_epoch"]
        _set_random_states(state, rank, device)
        first_epoch, seconds = state["epoch"], state["seconds"]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    wrapped: nn.Module = nn.parallel.DistributedDataParallel(step) if world_size > 1 else step
    for epoch in range(first_epoch, config.fit.epochs):
        started = time.perf_counter()
        parts, num_frames = _train_epoch(config, wrapped, step, loader, optimizer, scheduler, device, epoch)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        done = epoch + 1
        evaluations = [
            evaluate(config, step.encoder, videos, split, device=device, store=store)
            for split in _splits(config, videos, done)
        ]
        random_states = distributed.gather(torch.get_rng_state())
        cuda_states = distributed.gather(torch.cuda.get_rng_state(device) if device.type == "cuda" else None)
        yield EpochEnd(
            epoch=done,
            parts=parts,
            diagnostics=step.loss.diagnostics(),
            evaluations=evaluations,
            state={
                "format": checkpoint.FORMAT,
                "config": config.flat(),
                "num_features": videos.num_features,
                "encoder": step.encoder.state_dict(),
                "loss": step.loss.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": {"last_epoch": scheduler.last_epoch},
                "epoch": done,
                "seconds": seconds,
                "world_size": world_size,
                "random_states": random_states,
                "cuda_random_states": cuda_states,
            }
            if rank == 0
            else None,
            seconds=seconds,
            frames_per_second=num_frames / elapsed,
            peak_memory_bytes=_peak_memory(device),
        )


def _splits(config: Config, videos: VideoSet, epoch: int) -> list[str]:
    """The splits that an epoch is evaluated on."""
    is_last = epoch == config.fit.epochs
    if not is_last and epoch % config.fit.evaluate_every:
        return []
    splits = ["validation"] if videos.held else []
    # Without a validation share nothing is selected, and the val split may be looked at all along.
    if (is_last and config.evaluation.report_split) or not splits:
        splits.append("val")
    return splits


def _set_random_states(state: dict[str, Any], rank: int, device: torch.device) -> None:
    """Each rank's own generators; a rank that was not there before keeps its seed's."""
    if rank >= len(state["random_states"]):
        return
    torch.set_rng_state(state["random_states"][rank])
    on_device = state["cuda_random_states"][rank]
    if on_device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(on_device, device)


def _next_batch(batches: Iterator[Batch]) -> Batch:
    """The next batch.

    Raises:
        UserError: on every rank, whichever could not read a video.
    """
    error: UserError | None = None
    try:
        batch = next(batches)
    except UserError as found:
        error = found
    distributed.agree(error)
    return batch


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
    batches = loader.epoch(epoch)
    for number in range(loader.batches_per_epoch):
        loaded = _next_batch(batches)
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
    if distributed.world_size() > 1:
        dist.all_reduce(means)
        dist.all_reduce(total)
        means = means / distributed.world_size()
    return dict(zip(keys, means.tolist(), strict=True)), int(total.item())


def _non_finite(config: Config, position: int, batches: list[tuple[dict[str, Tensor], list[str]]]) -> NonFiniteError:
    own = [({name: round(part.item(), 6) for name, part in parts.items()}, names) for parts, names in batches]
    told = [batch for batches in distributed.all_gather(own) for batch in batches]
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


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
