"""The training loop: one process per device, torch.distributed between them; no Ray, no files.

`fit` is a generator: it trains, and hands out what happened after every epoch. The caller saves, writes rows, stops.
"""

from __future__ import annotations

import contextlib
import math
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lacray import checkpoint, distributed
from lacray.batch_norm import share_batch_norms
from lacray.config import Config, ConfigError, LacConfig, UserError
from lacray.data import Batch, FrameStore, PairLoader, VideoSet
from lacray.data.augment import apply_to_clips
from lacray.data.videoset import without_partner
from lacray.embedding import Evaluation, Progress, evaluate
from lacray.encoder import Encoder, build_encoder
from lacray.losses import Clips, Loss, build_loss
from lacray.whole import WholeEmbedder


class NonFiniteError(UserError):
    """The loss or its gradient is no longer a number; the message says where and for which videos."""


class TrainStep(nn.Module):
    """What DDP wraps: a batch in, the loss and its parts out; what the loss learns are parameters like any other."""

    def __init__(self, encoder: Encoder, loss: Loss) -> None:
        super().__init__()
        self.encoder, self.loss = encoder, loss

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        frames = batch.frames
        if batch.augmentations:
            frames = apply_to_clips(frames, batch.counts, batch.augmentations)
        clips = Clips(
            embeddings=self.encoder(
                frames, batch.lengths if batch.is_padded else None, batch.places, shifts=batch.position_shifts
            ),
            steps=batch.steps,
            lengths=batch.lengths,
            video_lengths=batch.video_lengths,
            video=batch.video,
            action=batch.action,
            pairs=batch.pairs,
        )
        return self.loss(_joined(clips) if self.loss.couples_pairs else clips)


def _joined(clips: Clips) -> Clips:
    """The clips of all ranks as one batch: each computes the loss of all, DDP's mean makes one gradient of theirs."""
    own = replace(clips, pairs=clips.pairs + distributed.rank() * len(clips.lengths))
    return Clips(**{field.name: distributed.join(getattr(own, field.name)) for field in fields(own)})


@dataclass(frozen=True)
class EpochEnd:
    """What happened in an epoch; every rank gets it, with its own seconds and memory."""

    epoch: int
    """Epochs done."""
    parts: dict[str, float]
    """Mean of each part of the loss over the epoch, over all workers."""
    diagnostics: dict[str, float]
    """What the loss has learned, by column name."""
    evaluations: list[Evaluation]
    """Empty for epochs that are not evaluated."""
    state: dict[str, Any] | None
    """At rank 0 what `checkpoint.save` writes, None on the others. It refers to the weights that the next epoch trains:
    save it before you ask for that epoch."""
    seconds: float
    """Spent training so far, evaluation apart."""
    frames_per_second: float
    """Trained on in this epoch, over all workers."""
    peak_memory_bytes: int


def check_batch(config: Config, workers: int) -> None:
    """Refuse a step that cannot be shared out evenly.

    Raises:
        ConfigError: `data.batch_size` is no multiple of workers x `fit.accumulate`, or the loss cannot be cut.
    """
    parts = workers * config.fit.accumulate
    if config.data.batch_size % parts:
        nearest = -(-config.data.batch_size // parts) * parts
        raise ConfigError(
            f"data.batch_size: must be a multiple of workers x fit.accumulate = {workers} x {config.fit.accumulate}, "
            f"got {config.data.batch_size}; {nearest} is the next one, or take fewer workers"
        )
    if config.fit.accumulate > 1 and build_loss(config).couples_pairs:
        raise ConfigError(
            f"fit.accumulate: must be 1 with loss.name={config.loss.name}, in which all pairs of a step meet, got "
            f"{config.fit.accumulate}; take more workers, or a smaller data.batch_size"
        )


def check_partners(config: Config, videos: VideoSet) -> None:
    """Refuse a loss that compares videos where no two show one action.

    Raises:
        ConfigError: `loss.name` and what there is.
    """
    if config.loss.compares_videos and len(without_partner(videos.train)) == len(videos.train):
        raise ConfigError(
            f"loss.name: {config.loss.name} compares two training videos of one action, got {len(videos.train)} of "
            f"{len({video.action for video in videos.train})} actions in {videos.root}; add videos, or use "
            "loss.name=scl"
        )


def fit(
    config: Config,
    videos: VideoSet,
    *,
    device: torch.device | str = "cpu",
    state: dict[str, Any] | None = None,
    store: FrameStore | None = None,
    progress: Progress | None = None,
) -> Iterator[EpochEnd]:
    """Train a setting; yields after every epoch.

    Under torch.distributed every rank runs it: together they take the same steps, on the same pairs, as one would.

    Args:
        config: the setting.
        videos: from `open_videos`.
        device: where the encoder lives.
        state: from `checkpoint.read_checkpoint`, on every rank, to go on from: bit for bit on a CPU and on as many
            ranks as before. None starts anew.
        store: decoded frames to share with other runs in this process.
        progress: of this rank's evaluations, as `embedding.evaluate` calls it.

    Raises:
        ConfigError: as `check_batch` and `check_partners`.
        CheckpointError: `state` does not fit this setting.
        NonFiniteError: with the step, the batch's videos and the parts of the loss.
        DataError: a video that can no longer be read.
        All of them on every rank, at the same step.
    """
    check_batch(config, distributed.world_size())
    check_partners(config, videos)
    device = torch.device(device)
    store = store or FrameStore(config.data)
    torch.manual_seed(config.seed)
    step = TrainStep(
        build_encoder(config.encoder, config.data, num_features=videos.num_features),
        build_loss(config),
    ).to(device)
    loader = _loader(config, videos, store, device)
    optimizer = _optimizer(config, step)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(config, loader.steps_per_epoch))
    # Dropout differs between ranks, initial weights do not.
    torch.manual_seed(config.seed * 1_000_003 + distributed.rank())
    first_epoch, seconds = 0, 0.0
    if state is not None:
        checkpoint.restore(state, step.encoder, step.loss, optimizer, scheduler, device=device)
        first_epoch, seconds = state["epoch"], state["seconds"]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    embed_whole = WholeEmbedder(step.loss, videos.train, store=store, device=device)
    wrapped: nn.Module = step
    if distributed.world_size() > 1:
        share_batch_norms(step, device)
        wrapped = nn.parallel.DistributedDataParallel(step)
    for epoch in range(first_epoch, config.fit.epochs):
        started = time.perf_counter()
        if step.loss.wants_videos((epoch + 1) / config.fit.epochs):
            # With the weights that the epoch begins with: a resumed run finds the same, and need not keep them.
            step.loss.see(embed_whole(step.encoder))
        parts, num_frames = _train_epoch(config, wrapped, step, loader, optimizer, scheduler, device, epoch)
        elapsed = time.perf_counter() - started
        seconds += elapsed
        evaluations = [
            evaluate(config, step.encoder, videos, split, device=device, store=store, progress=progress)
            for split in _evaluated_splits(config, videos, epochs_done=epoch + 1)
        ]
        yield EpochEnd(
            epoch=epoch + 1,
            parts=parts,
            diagnostics=step.loss.diagnostics(),
            evaluations=evaluations,
            state=checkpoint.capture(
                config,
                step.encoder,
                step.loss,
                optimizer,
                scheduler,
                num_features=videos.num_features,
                epoch=epoch + 1,
                seconds=seconds,
                device=device,
            ),
            seconds=seconds,
            frames_per_second=num_frames / elapsed,
            peak_memory_bytes=_peak_memory(device),
        )


def _loader(config: Config, videos: VideoSet, store: FrameStore, device: torch.device) -> PairLoader:
    """This rank's."""
    return PairLoader(
        videos.train,
        config.data,
        seed=config.seed,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        steps_per_epoch=config.fit.steps_per_epoch,
        accumulate=config.fit.accumulate,
        in_couples=config.loss.compares_videos,
        pin_memory=device.type == "cuda",
        store=store,
    )


def _evaluated_splits(config: Config, videos: VideoSet, *, epochs_done: int) -> list[str]:
    is_last = epochs_done == config.fit.epochs
    if not is_last and epochs_done % config.fit.evaluate_every:
        return []
    if not videos.held:
        # Nothing is selected, and the val split may be looked at all along.
        return ["val"]
    return ["validation", "val"] if is_last and config.evaluation.report_split else ["validation"]


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
    first_step, num_steps = epoch * loader.steps_per_epoch, config.fit.epochs * loader.steps_per_epoch
    told: list[tuple[dict[str, Tensor], list[str]]] = []
    optimizer.zero_grad(set_to_none=True)
    for number, loaded in enumerate(_in_step(loader.epoch(epoch))):
        batch = loaded.to(device)
        is_step = (number + 1) % accumulate == 0
        step.loss.done = (first_step + number // accumulate) / num_steps
        with _gradients_stay_here(wrapped) if not is_step else contextlib.nullcontext():
            with autocast:
                loss, parts = wrapped(batch)
            (loss / accumulate).backward()
        told = [*(told if number % accumulate else []), (parts, batch.names)]
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part.clone()
        num_frames += int(loaded.lengths.sum())
        if not is_step:
            continue
        norm = nn.utils.clip_grad_norm_(step.parameters(), config.fit.clip_norm)
        # All ranks see the same summed gradient, so all of them stop here, at the same step.
        if not bool(torch.isfinite(norm)):
            raise _non_finite(config, first_step + number // accumulate, told)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    means = {name: total.item() / loader.batches_per_epoch for name, total in sums.items()}
    shares = distributed.all_gather((means, num_frames))
    parts_of_all = {name: sum(own[name] for own, _ in shares) / len(shares) for name in sorted(means)}
    return parts_of_all, sum(count for _, count in shares)


def _in_step(batches: Iterator[Batch]) -> Iterator[Batch]:
    """A rank's batches, each when all ranks have theirs: one that cannot be read ends all of them, before any waits."""
    while (batch := distributed.from_each(lambda: next(batches, None))) is not None:
        yield batch


def _gradients_stay_here(wrapped: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Gradients of accumulated batches cross the network once, with the last of them."""
    is_ddp = isinstance(wrapped, nn.parallel.DistributedDataParallel)
    return wrapped.no_sync() if is_ddp else contextlib.nullcontext()  # type: ignore[operator]


def _non_finite(config: Config, position: int, batches: list[tuple[dict[str, Tensor], list[str]]]) -> NonFiniteError:
    own = [({name: round(part.item(), 6) for name, part in parts.items()}, names) for parts, names in batches]
    told = [batch for batches in distributed.all_gather(own) for batch in batches]
    guilty = [(values, videos) for values, videos in told if not all(map(math.isfinite, values.values()))]
    where = "loss" if guilty else "gradient"
    values, videos = (guilty or told)[0]
    smoother = ", or raise loss.gamma or loss.similarity_eps" if isinstance(config.loss, LacConfig) else ""
    return NonFiniteError(
        f"step {position}: the {where} must be finite, got {values} on {', '.join(sorted(set(videos)))}; "
        f"lower fit.learning_rate ({config.fit.learning_rate:g}){smoother}"
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
