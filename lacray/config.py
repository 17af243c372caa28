"""Every knob of lacray, typed, with its range: dotted keys in, dotted keys out.

A setting has one name everywhere: `loss.gamma` in a search space, on the command line, in a Parquet column, in a table.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from lacray.text import printable

Scalar = bool | int | float | str | None


class UserError(Exception):
    """Something that the user can mend: entry points print its lines and exit with code 2, without a traceback."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        # One line each, whatever names of files are in it.
        self.problems = [printable(line) for line in ([problems] if isinstance(problems, str) else problems)]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        # Its lines stay lines in another process.
        return type(self), (self.problems,)


class ConfigError(UserError, ValueError):
    """All problems of a configuration at once, a line each: key, rule, value, origin."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
# torch's generators hold 64 bits, and each rank's seed is a multiple of the run's.
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class DataConfig(Section):
    """Videos on disk -> batches of two clips."""

    root: str = Field("simpouring", min_length=1)
    """`simpouring` (bundled, rendered on first use) or a directory in any layout of docs/data.md."""
    lead_in: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """SimPouring alone: each video begins with irrelevant frames, up to this share of it, and ends with the action;
    null: as it is bundled, with short lead-ins and lead-outs."""
    input: Literal["videos", "features"] = "videos"
    """`features`: `features/NAME.npy` (frames, channels) of a frozen backbone in place of video files."""
    action: Annotated[str, Field(min_length=1)] | None = None
    """Of a data set with several actions, the one to train and to evaluate on; null: on all of them together, each
    evaluated by itself."""
    tier: Annotated[str, Field(min_length=1)] | None = None
    """Of label files of ELAN and BORIS with several tiers, subjects or categories, the one that is read; null: there
    must be one."""
    num_frames: int = Field(32, ge=2)
    """T, frames of a clip; a shorter video is padded and masked."""
    size: int = Field(64, ge=16)
    """Height and width of a frame in pixels, after resizing."""
    num_contexts: Count = 1
    """Frames that are seen for one embedding: the frame itself and its predecessors."""
    context_stride: Count = 1
    """Frames between two context frames."""
    batch_size: Count = 4
    """Pairs of clips of an optimiser step, over all workers and `fit.accumulate`."""
    pairing: Literal["views", "videos"] = "views"
    """Two crops of one video, or of two different videos of one action."""
    sampling: Literal["time_augment", "uniform", "offset_uniform", "segment_uniform"] = "time_augment"
    """Random frames of a block (CARL, LAC); one from each of T equal parts; random frames of the whole video (TCC); one
    from each of T segments, the last ones of which may start over (LAV)."""
    position_shift: NonNegative = 0.0
    """In training each clip's positions begin anywhere between 0 and this, in units of `encoder.positions`, so that the
    place in a clip tells less; 0: at 0."""
    sampling_region: float = Field(3.0, ge=1)
    """A clip's block is at most this many times its number of frames; CARL and LAC: 1.5."""
    consistent_offset: Share = 1.0
    """The second view's block starts at most this share of the first block away from it; CARL and LAC: 0.2, where the
    place in the clip alone nearly aligns the views and is learned first."""
    random_offset: int = Field(1, ge=0)
    """offset_uniform: frames at a video's start that are never drawn; TCC and LAV: 1, CARL: 0."""
    positive_window: int = Field(0, ge=0)
    """A clip is T / 2 anchors, each followed by a positive at most this many frames before it: for loss.name=tcn with
    n-pairs; TCC and CARL: 5. 0: clips as they are sampled, for everything else."""
    augment: bool = True
    """Spatial and colour augmentation, one draw per clip (videos only)."""
    validation_share: float = Field(0.2, ge=0, lt=1)
    """Share of the TRAINING videos that a study selects on, of the labelled ones where some are, two at least; 0
    trains on all of them."""
    max_unreadable: Share = 0.1
    """The run stops when more than this share of the videos cannot be read, and names them all in any case."""
    num_loaders: int = Field(0, ge=0)
    """Loader processes per worker; 0 loads in the training process."""
    cache_gib: NonNegative = 1.0
    """Decoded frames kept in memory per process; videos beyond it are decoded anew, only the frames needed."""

    @property
    def num_seen(self) -> int:
        """K, frames that the encoder sees for one embedding: features have seen theirs."""
        return self.num_contexts if self.input == "videos" else 1

    @property
    def reach(self) -> int:
        """Frames from the first that is seen for one embedding to its own."""
        return (self.num_seen - 1) * self.context_stride

    @model_validator(mode="after")
    def _lead_in_is_rendered(self) -> DataConfig:
        if self.lead_in is not None and self.root != "simpouring":
            raise ValueError(
                f"lead_in must be null with other data than simpouring, got lead_in {self.lead_in:g} and root "
                f"{self.root!r}; leave lead_in out"
            )
        return self

    @model_validator(mode="after")
    def _anchors_have_positives(self) -> DataConfig:
        if self.positive_window and self.num_frames % 2:
            raise ValueError(f"num_frames must be even with positive_window > 0, got {self.num_frames}")
        return self


class EncoderConfig(Section):
    """Frames -> embeddings."""

    name: str = Field("small", min_length=1)
    """`small`, or a torchvision backbone by name (`resnet50` is the paper's, cut after layer3[2])."""
    weights: str = Field("default", min_length=1)
    """Of the backbone: `default` (torchvision's), `none`, or a local file. `small` has none to load."""
    train_backbone: Literal["all", "last", "norms", "none"] = "all"
    """What of the backbone is trained: everything, its last stage, its norms (TCC, GTA), or nothing."""
    center: bool = True
    """Each channel of the frames' codes centred and scaled over the clip before the transformer; the paper does not."""
    hidden: Count = 128
    """Width of the temporal transformer; the paper's is 256, with 8 heads and feedforward 1024."""
    layers: int = Field(2, ge=0)
    heads: Count = 4
    feedforward: Count = 256
    dropout: float = Field(0.1, ge=0, lt=1)
    embedding: Count = 128
    """E, size of an embedding."""
    positions: Literal["absolute", "rescaled", "none"] = "rescaled"
    """Sine-cosine positions: 0, 1, 2, ...; 0..31 stretched over the clip; or none."""
    pre_norm: bool = False
    """LayerNorm before attention (CARL) rather than after it (LAC)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden must be a multiple of heads, got hidden {self.hidden} and heads {self.heads}")
        return self


LAC_PRESETS: dict[str, dict[str, Scalar]] = {
    # The equations as printed. tau is not given; .1 is SCL's, whose loss Eq. 7 is.
    "paper": {
        "gamma": 0.8,
        "tau": 0.1,
        "alpha": 0.01,
        "beta": 1.0,
        "gap": "position",
        "gap_transform": "raw",
        "gap_learning_rate": 0.1,
        "similarity": "inverse",
        "similarity_eps": 1e-3,
        "symmetric": False,
    },
    # The released training signal; its plain bugs (V1, V3) are not reproduced.
    "released": {
        "gamma": 0.8,
        "tau": 0.8,
        "match_tau": 1.0,
        "match_gradient": False,
        "gap": "position",
        "gap_transform": "raw",
        "gap_learning_rate": 0.1,
        "similarity": "inverse_squared",
        "similarity_eps": 1e-6,
        "combine": "matmul",
        "contrastive_norm": "cells",
        "contrastive_divergence": "kl",
        "contrastive_eps": 1e-6,
        "symmetric": False,
        "normalize": False,
    },
    "lacray": {},
}


class LossSection(Section):
    """What every loss's section has, beside its `name`."""

    @property
    def reads_positives(self) -> bool:
        """Whether it takes the clips of `data.positive_window`, and no others."""
        return False

    @property
    def compares_videos(self) -> bool:
        """Whether it takes two views of each video, and compares the videos of a step with each other."""
        return False

    @property
    def unread(self) -> dict[str, str]:
        """Settings that it does not read as the others stand, and with which of them it would."""
        return {}

    @model_validator(mode="after")
    def _what_is_given_is_read(self) -> Self:
        by_remedy: dict[str, list[str]] = {}
        for name, remedy in self.unread.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                by_remedy.setdefault(remedy, []).append(name)
        wrong = [
            f"{' and '.join(names)} must be left out, got {' and '.join(str(getattr(self, name)) for name in names)}: "
            f"read only with {remedy}"
            for remedy, names in by_remedy.items()
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class LacConfig(LossSection):
    """The LAC objective, L_c + alpha (L_l + beta (L_sw12 + L_sw21)); V: where the release departs from the paper."""

    name: Literal["lac"] = "lac"
    preset: Literal["paper", "released", "lacray"] = "lacray"
    """Where the fields below take their defaults from; a field that is given wins."""
    gamma: Positive = 0.8
    """Smoothing of the alignment's max, in units of similarity."""
    tau: Positive = 0.1
    """Temperature of L_c's softmax over frames (V11: the release uses gamma)."""
    alpha: NonNegative = 0.01
    beta: NonNegative = 1.0
    """Weights of Eq. 8 (V13)."""
    local: bool = True
    """Whether L_l is a part; off: alpha beta (L_sw12 + L_sw21) alone is added to L_c."""
    sigma: Positive = math.sqrt(10.0)
    """Width of the Gaussian targets, in frames."""
    time_scale: Literal["frames", "relative"] = "relative"
    """Targets compare frame indices as they are, or scaled by the ratio of the two videos' lengths."""
    score_sign: Literal[1, -1] = 1
    """Sign of L_sw in the minimised loss (V7): +1 as published, -1 rewards alignment."""
    similarity: Literal["inverse_squared", "inverse", "negative_squared", "cosine", "rbf"] = "inverse_squared"
    """V6: 1/(d^2 + eps), 1/(d + eps), -d^2, cosine, exp(-d^2/2)."""
    similarity_eps: NonNegative = 0.1
    normalize: bool = True
    """L2-normalised embeddings (V12)."""
    alignment: Literal["local", "end_to_end", "dtw"] = "local"
    """Smith-Waterman, as published; Needleman-Wunsch, where frames left over at a clip's ends cost a gap; or soft-DTW,
    from both first frames to both last ones, where a frame is matched again and again in place of a gap."""
    gap: Literal["fixed", "scalar", "position"] = "scalar"
    """Gap penalties (V4): constants, one learned pair, or one pair per cell of the clip's T x T table."""
    gap_open: float = 1.0
    gap_extend: float = 1.0
    """Initial penalties, in units of similarity."""
    gap_transform: Literal["softplus", "raw"] = "softplus"
    """softplus keeps learned penalties positive."""
    gap_learning_rate: NonNegative = 0.01
    match_gradient: bool = True
    """L_l trains the encoder through the match table D (V2)."""
    match_tau: Positive | None = None
    """Temperature of the softmax over D (V9); null: tau."""
    combine: Literal["product", "matmul", "cycle"] = "product"
    """V8: D~12 * D~21^T, D~12 @ D~21^T, or D~12 @ D~21 (from video 1 to 2 and back)."""
    contrastive_norm: Literal["frames", "cells"] = "frames"
    """L_c divided by T or by T^2 (V10)."""
    contrastive_divergence: Literal["cross_entropy", "kl"] = "cross_entropy"
    """kl subtracts the targets' entropy: another value, the same gradient."""
    contrastive_eps: NonNegative = 0.0
    """Added to L_c's probabilities before the logarithm."""
    symmetric: bool = True
    """L_c and L_l over the frames of both videos (V10)."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("preset", "lacray") in LAC_PRESETS:
            return {**LAC_PRESETS[values.get("preset", "lacray")], **values}
        return values

    @model_validator(mode="after")
    def _penalties_fit_their_transform(self) -> LacConfig:
        if self.gap != "fixed" and self.gap_transform == "softplus" and min(self.gap_open, self.gap_extend) <= 0:
            raise ValueError(
                "gap_open and gap_extend must be > 0 with gap_transform softplus, got "
                f"{self.gap_open} and {self.gap_extend}; use gap_transform: raw for others"
            )
        return self

    @model_validator(mode="after")
    def _warping_has_no_gaps(self) -> LacConfig:
        if self.alignment == "dtw" and self.gap != "fixed":
            raise ValueError(f"gap must be fixed with alignment dtw, which has no gaps, got {self.gap}")
        return self

    @property
    def unread(self) -> dict[str, str]:
        if self.alignment != "dtw":
            return {}
        return dict.fromkeys(("gap_open", "gap_extend"), "alignment local or end_to_end, which have gaps")


class TcnConfig(LossSection):
    """Time-contrastive networks, one video at a time, as TCC and CARL train them."""

    name: Literal["tcn"] = "tcn"
    objective: Literal["npairs", "triplet"] = "npairs"
    """n-pairs over anchors and positives that the data interleave (`data.positive_window`), or triplets of a clip's
    frames, as the LAC release has it."""
    query: Literal["anchor", "positive"] = "anchor"
    """n-pairs: whose partner is to be found among the clip's others. CARL: each anchor's; TCC and LAV, which put the
    positive first: each positive's."""
    regularization: NonNegative = 0.002
    """n-pairs: weight of the embeddings' squared norms."""
    margin: Positive = 0.2
    """Triplet: by how much a negative has to be further away than a positive."""
    positive_window: Count = 10
    """Triplet: a positive is at most so many frames away."""
    negative_window: Count = 30
    """Triplet: a negative is more than so many frames away."""
    normalize: bool = False
    """L2-normalised embeddings."""

    @property
    def reads_positives(self) -> bool:
        return self.objective == "npairs"

    @property
    def unread(self) -> dict[str, str]:
        if self.objective == "npairs":
            return dict.fromkeys(("margin", "positive_window", "negative_window"), "objective triplet")
        return dict.fromkeys(("query", "regularization"), "objective npairs")


class TccConfig(LossSection):
    """Temporal cycle-consistency: a frame's soft nearest neighbour in another clip leads back to it."""

    name: Literal["tcc"] = "tcc"
    objective: Literal["regression_mse_var", "regression_mse", "regression_huber", "classification"] = (
        "regression_mse_var"
    )
    similarity: Literal["l2", "cosine"] = "l2"
    """-d^2 or the inner product, over E and tau."""
    port: Literal["original", "carl"] = "original"
    """TCC's release, or CARL's port of it: smoothed labels in the regressions too, a Huber delta of 1, and in
    classification the KL divergence of the labels from the logits as they are."""
    tau: Positive = 0.1
    variance_lambda: NonNegative = 0.001
    huber_delta: Positive = 0.1
    """Of the original; the port has 1."""
    label_smoothing: Share = 0.1
    normalize_indices: bool = True
    """Frame indices over the video's length."""
    stochastic: bool = False
    """Random cycles from single frames, in place of every frame of every ordered pair of clips."""
    cycle_length: int = Field(2, ge=2)
    num_cycles: Count = 20
    normalize: bool = False
    """L2-normalised embeddings."""

    @property
    def unread(self) -> dict[str, str]:
        found = {}
        if self.objective != "regression_mse_var":
            found["variance_lambda"] = "objective regression_mse_var"
        if self.objective != "regression_huber":
            found["huber_delta"] = "objective regression_huber"
        elif self.port == "carl":
            found["huber_delta"] = "port original"
        if self.objective != "classification" and self.port == "original":
            found["label_smoothing"] = "objective classification"
        return found | ({} if self.stochastic else dict.fromkeys(("cycle_length", "num_cycles"), "stochastic true"))


class LavConfig(LossSection):
    """LAV: soft-DTW between two videos, and C-IDM within each, which keeps the embeddings from collapsing."""

    name: Literal["lav"] = "lav"
    gamma: Positive = 0.1
    """Smoothing of soft-DTW's minimum, in units of squared distance."""
    alpha: NonNegative = 0.5
    """Weight of both C-IDM terms."""
    margin: Positive = 2.0
    """C-IDM: squared distance that temporally distant frames are pushed to."""
    sigma: Positive = 10.0
    """C-IDM: frames; closer ones are pulled together."""
    idm: Literal["release", "paper"] = "release"
    """C-IDM's weights. release: what is pushed apart counts 1 + ((i - j) / length)^2 times; paper: 1 + (i - j)^2 times,
    and what is pulled together is divided by that."""
    debiased: bool = False
    """Soft-DTW's divergence in place of its value."""
    normalize: bool = True
    """L2-normalised embeddings."""


class GtaConfig(LossSection):
    """GTA: smooth DTW on softmax costs, and the consistency of the way there and back."""

    name: Literal["gta"] = "gta"
    gamma: Positive = 0.1
    """Smoothing of DTW's minimum, in units of cost."""
    tau: Positive = 0.1
    """Temperature of the costs' softmax."""
    minimum: Literal["smooth", "soft"] = "smooth"
    """The minimum weighted by its softmax, or the log-sum-exp of soft-DTW."""
    consistency: bool = True
    """Off: the DTW cost of one direction alone."""
    dtw_weight: NonNegative = 0.1
    label_smoothing: Share = 0.1
    normalize: bool = True
    """L2-normalised embeddings."""

    @property
    def unread(self) -> dict[str, str]:
        return {} if self.consistency else dict.fromkeys(("dtw_weight", "label_smoothing"), "consistency true")


class SclConfig(LossSection):
    """SCL, the sequence contrastive loss of CARL: L_c of LAC, behind a projection head."""

    name: Literal["scl"] = "scl"
    tau: Positive = 0.1
    sigma: Positive = math.sqrt(10.0)
    """Width of the Gaussian targets, in frames."""
    time_scale: Literal["frames", "relative"] = "relative"
    """Targets compare frame indices as they are, or scaled by the ratio of the two videos' lengths."""
    negatives: Literal["single_noself", "single", "noself"] = "single_noself"
    """Frames in the softmax: of the pair's other clip; of both its clips; of all clips but one's own."""
    projection: int = Field(128, ge=0)
    """Width of the head that training puts behind the encoder, and of its hidden layer; 0: none."""
    projection_hidden: Count | None = None
    """Width of the head's hidden layer, where it is another; CARL's and LAC's releases: 512. null: `projection`."""
    learning_rate: Positive | None = None
    """Of the head; null: the encoder's."""
    normalize: bool = True
    """L2-normalised behind the head."""

    @property
    def unread(self) -> dict[str, str]:
        return {} if self.projection else dict.fromkeys(("projection_hidden", "learning_rate"), "a projection > 0")


class LrpropConfig(LossSection):
    """LRProp, which has no public code: position labels propagated along the DTW path between two videos of one action,
    and C-IDM-regularised soft-DTW. Reconstructed from its paper, with CARL's settings."""

    name: Literal["lrprop"] = "lrprop"
    tau: Positive = 0.1
    sigma: Positive = math.sqrt(10.0)
    """Width of the Gaussian labels, in frames."""
    alpha: NonNegative = 1.0
    """Weight of the alignment term, soft-DTW and C-IDM as in LAV."""
    gamma: Positive = 0.1
    idm_weight: NonNegative = 0.5
    margin: Positive = 2.0
    idm_sigma: Positive = 10.0
    normalize: bool = True
    """L2-normalised embeddings."""


class CrossConfig(LossSection):
    """SCL between two views of one video, and the same between two videos of one action, whose targets are the matches
    of an alignment of the whole videos: L_c + lambda(t) L_x."""

    name: Literal["cross"] = "cross"
    alignment: Literal["local", "end_to_end", "dtw", "nearest"] = "dtw"
    """What finds the matches of two whole videos: `soft_sw`, `soft_nw`, `soft_dtw`; or no alignment, each frame's soft
    nearest neighbours."""
    evidence: Literal["both", "encoder", "features"] = "both"
    """What says that two frames match: the encoder as it is, the frozen features of `data.input: features`, or both;
    with `data.input: videos` both is the encoder alone."""
    gamma: Positive = 0.3
    """Smoothing of the alignment's max, or of the nearest neighbour, in nats."""
    gap_open: NonNegative = 1.0
    gap_extend: NonNegative = 0.2
    """Penalties of `local` and `end_to_end`, in nats; the others have no gaps."""
    weight: NonNegative = 1.0
    """lambda, once it has risen; 0: SCL."""
    ramp_start: Share = 0.2
    ramp_end: Share = 0.5
    """Shares of the training between which lambda rises from 0, in a straight line."""
    stride: Count = 2
    """Of a whole video every so many-th frame is embedded and aligned: frames that are closer than sigma say the same,
    and cost more."""
    partners: Count = 6
    """Pairs of different videos a step, drawn from those of one action in it; all of them where there are fewer."""
    tau: Positive = 0.1
    sigma: Positive = math.sqrt(10.0)
    """Width of the Gaussian targets, in frames, of L_c and L_x."""
    time_scale: Literal["frames", "relative"] = "relative"
    """L_c's targets compare frame indices as they are, or scaled by the ratio of the two videos' lengths."""
    projection: int = Field(128, ge=0)
    """Width of the head that training puts behind the encoder for L_c and L_x, and of its hidden layer; 0: none."""
    learning_rate: Positive | None = None
    """Of the head; null: the encoder's."""
    normalize: bool = True
    """L2-normalised behind the head."""
    consistency: Share = 0.0
    """How much of the matches of two videos is replaced by those that lead through the other videos of the step."""
    order: NonNegative = 0.0
    """Weight, beside L_x, of the contrast of order: a clip's alignment score against that of its reversal."""
    score: NonNegative = 0.0
    """Weight, beside L_x, of minus the alignment score of two clips, over the frames of the shorter one."""

    @property
    def compares_videos(self) -> bool:
        return self.weight > 0

    @model_validator(mode="after")
    def _lambda_rises(self) -> CrossConfig:
        if self.ramp_start > self.ramp_end:
            raise ValueError(f"ramp_start must be <= ramp_end, got {self.ramp_start:g} and {self.ramp_end:g}")
        return self

    @property
    def unread(self) -> dict[str, str]:
        found = {} if self.projection else {"learning_rate": "a projection > 0"}
        if self.alignment in ("dtw", "nearest"):
            found |= dict.fromkeys(("gap_open", "gap_extend"), "alignment local or end_to_end, which have gaps")
        if self.alignment == "nearest":
            found |= dict.fromkeys(("order", "score"), "an alignment, which has a score")
        return found


class FitConfig(Section):
    """The training loop."""

    epochs: Count = 20
    full_epochs: Count | None = None
    """Epochs of `train --best`, where a study's trials are shorter than a full training; null: as many as they."""
    steps_per_epoch: int = Field(0, ge=0)
    """Optimiser steps of an epoch; 0: one pass over the training videos."""
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 1e-5
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: NonNegative = 1.0
    clip_norm: Positive = 10.0
    """Largest norm of the gradient, the loss's own parameters with the encoder's."""
    accumulate: Count = 1
    """Into how many batches, one after the other, a worker cuts its share of a step, to save memory; batch norms see
    one of them at a time. 1 alone where the videos of a step are compared (`cross`, `scl`, `tcc`)."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast where the device has it."""
    evaluate_every: Count = 5
    """Epochs between two evaluations; the last epoch is always evaluated."""


class EvaluationConfig(Section):
    """Frozen embeddings -> metrics."""

    stride: Count = 5
    """Frames between two strided frames in AP@K and Kendall's tau; all else is of every frame."""
    report_split: bool = False
    """At the last epoch, evaluate the val split too. Selection never sees it."""
    crop_seed: Seed = 0
    """Seed of the windows of the `cropped` protocol."""
    label_draws: int = Field(0, ge=0)
    """Beside the published label fractions (the first videos of the list): their mean and deviation over so many random
    draws of the labelled videos; 0: not computed."""


LossConfig = Annotated[
    LacConfig | TcnConfig | TccConfig | LavConfig | GtaConfig | SclConfig | CrossConfig | LrpropConfig,
    Field(discriminator="name"),
]
LOSS_CONFIGS: dict[str, type[LossSection]] = {
    kind.model_fields["name"].default: kind for kind in get_args(get_args(LossConfig)[0])
}
"""loss.name -> its section."""
DEFAULT_LOSS = "cross"
SECTIONS_ALONE = {"sections": "alone"}
"""Context of a validation in which sections need not fit each other."""


class Config(Section):
    """One run: data, encoder, loss, training loop, evaluation."""

    seed: Seed = 0
    data: DataConfig = DataConfig()
    encoder: EncoderConfig = EncoderConfig()
    loss: LossConfig = CrossConfig()
    fit: FitConfig = FitConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _loss_reads_these_clips(self, info: ValidationInfo) -> Config:
        if info.context == SECTIONS_ALONE:
            return self
        window = self.data.positive_window
        if self.loss.reads_positives and not window:
            raise ValueError(
                f"data.positive_window: must be > 0 with loss.name={self.loss.name} and this objective, which reads "
                f"anchors with their positives, got {window}; 5 is the published one"
            )
        if window and not self.loss.reads_positives:
            raise ValueError(
                f"data.positive_window: must be 0 with loss.name={self.loss.name} and this objective, which reads "
                f"clips in the order of time, got {window}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _videos_can_be_compared(self, info: ValidationInfo) -> Config:
        if info.context == SECTIONS_ALONE or not self.loss.compares_videos:
            return self
        whose = f"with loss.name={self.loss.name}"
        wrong = []
        if self.data.pairing != "views":
            wrong.append(
                f"data.pairing: must be views {whose}, got {self.data.pairing}; partners are found in the step"
            )
        if self.data.batch_size < 2:
            wrong.append(f"data.batch_size: must be >= 2 {whose}, which finds partners in a step, got 1")
        if isinstance(self.loss, CrossConfig) and self.loss.evidence == "features" and self.data.input != "features":
            wrong.append(f"loss.evidence: must be encoder or both with data.input={self.data.input}, got features")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def flat(self) -> dict[str, Scalar]:
        """Every field by its dotted key."""
        return flatten(self.model_dump())


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"gamma": 1}} -> {"loss.gamma": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def known_keys(loss: str = DEFAULT_LOSS) -> list[str]:
    """Every dotted key of a setting with this loss, in order."""
    return list(Config().model_copy(update={"loss": LOSS_CONFIGS[loss]()}).flat())


def parse_assignments(arguments: Iterable[str]) -> dict[str, Any]:
    """`loss.gamma=0.5` arguments -> {"loss.gamma": 0.5}; values are read as `read_setting` does.

    Raises:
        ConfigError: an argument without `=`, or one key twice.
    """
    given: dict[str, str] = {}
    problems: list[str] = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            problems.append(f"{argument}: must be key=value, for example loss.gamma=0.5")
        elif key in given:
            problems.append(f"{key}: given twice, as {given[key]!r} and {text!r}; give it once")
        else:
            given[key] = text
    if problems:
        raise ConfigError(problems)
    return {key: read_setting(key, text) for key, text in given.items()}


TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NOTHING = ("", "~", "null", "none")


def read_setting(key: str, value: Any) -> Any:
    """What is written for a setting, on the command line or in YAML, as the setting's own type has it.

    Text stays text, whatever it looks like (`2024`, `no`, `1_0`, `null`); numbers are decimal (`010` is 10, `1e-3` is
    0.001). What cannot be read stays text, for `build` to refuse by its words. Values that are no text stay.
    """
    if not isinstance(value, str):
        return value
    kinds = kinds_of(key)
    word = value.strip().lower()
    if bool in kinds and word in TRUTH:
        return TRUTH[word]
    if NoneType in kinds and word in NOTHING:
        return None
    if int in kinds or float in kinds:
        for number in (int, float):
            try:
                return number(word.replace(".inf", "inf").replace(".nan", "nan"))  # YAML's words
            except ValueError:
                continue
    return value


@lru_cache(maxsize=1024)
def kinds_of(key: str) -> frozenset[type]:
    """The plain types that a setting may have; none for a key that is no setting."""
    annotations: list[Any] = [Config]
    for part in key.split("."):
        sections = [kind for annotation in annotations for kind in _members(annotation)]
        fields = [kind.model_fields.get(part) for kind in sections if issubclass(kind, BaseModel)]
        annotations = [field.annotation for field in fields if field is not None]
    return frozenset(kind for annotation in annotations for kind in _members(annotation))


def _members(annotation: Any) -> Iterator[type]:
    """The plain types that an annotation is made of."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from (type(value) for value in get_args(annotation))
    elif origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif isinstance(annotation, type):
        yield annotation


def build(
    values: Mapping[str, Any], origins: Mapping[str, str] | None = None, *, sections_alone: bool = False
) -> Config:
    """Dotted keys -> a checked Config; everything not given keeps its default.

    Args:
        values: by dotted key.
        origins: where each key was written ("search_spaces/lac.yaml:7"), for the messages.
        sections_alone: leave out the rules between sections, of a setting that is looked at and not run.

    Raises:
        ConfigError: every unknown key and every value out of range, together.
    """
    origins = origins or {}
    loss = values.get("loss.name", DEFAULT_LOSS)
    if not is_loss(loss):
        rule = f"loss.name: must be one of {', '.join(sorted(LOSS_CONFIGS))}, got {loss!r}"
        raise ConfigError(_with_origin(rule, origins.get("loss.name")))
    known = known_keys(loss)
    problems: list[str] = []
    nested: dict[str, Any] = {"loss": {"name": loss}}
    for key, value in values.items():
        if key not in known:
            problems.append(_with_origin(unknown_key(key, known, loss), origins.get(key)))
            continue
        *path, leaf = key.split(".")
        section = nested
        for part in path:
            section = section.setdefault(part, {})
        section[leaf] = value
    try:
        config = Config.model_validate(nested, context=SECTIONS_ALONE if sections_alone else None)
    except ValidationError as error:
        for item in error.errors():
            # The union's member is a part of the place.
            place = [part for position, part in enumerate(item["loc"]) if not (position == 1 and part in LOSS_CONFIGS)]
            key = ".".join(map(str, place))
            said = _sentence(item)
            if item["type"] == "literal_error" and (owners := _losses_with(key, item["input"])):
                said += f"; that is one of loss.name={' or '.join(owners)}"
            # A rule between several settings is their section's: it lies where those that it names were written.
            if key:
                named = [name for name in values if name.startswith(f"{key}.") and name.split(".")[-1] in said]
            else:  # between sections, and names them in full
                named = [name for name in values if name in said]
            origin = origins.get(key) or ", ".join(origins[name] for name in named if name in origins)
            problems.append(_with_origin(f"{key}: {said}" if key else said, origin))
    if problems:
        raise ConfigError(problems)
    return config


def _losses_with(key: str, value: Any) -> list[str]:
    """The losses that have the setting, one of whose choices is the value."""
    section, _, leaf = key.partition(".")
    if section != "loss":
        return []
    fields = {name: config.model_fields.get(leaf) for name, config in LOSS_CONFIGS.items()}
    return [name for name, field in fields.items() if field is not None and value in get_args(field.annotation)]


def is_loss(name: Any) -> bool:
    """Whether a value, of whatever kind, names a loss."""
    return isinstance(name, str) and name in LOSS_CONFIGS


def takes_integers_alone(key: str) -> bool:
    """Whether a setting's numbers are integers."""
    kinds = kinds_of(key)
    return int in kinds and float not in kinds


def unknown_key(key: str, known: Iterable[str], loss: str = DEFAULT_LOSS) -> str:
    """The message for a key that does not exist, with the nearest that do, or whose it is."""
    known = list(known)
    owners = [name for name in LOSS_CONFIGS if key in known_keys(name)]
    if owners:
        whose = f"is a setting of loss.name={' or '.join(owners)}, and this one is {loss}"
        return f"{key}: {whose}; set loss.name, or leave it out"
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    leaf = key.rsplit(".", 1)[-1]
    near += [name for name in known if name.rsplit(".", 1)[-1] == leaf and name not in near]
    hint = f"did you mean {' or '.join(near)}?" if near else "known keys: python -m lacray.train --keys"
    return f"{key}: is no setting; {hint}"


def _sentence(item: Mapping[str, Any]) -> str:
    message = str(item["msg"])
    if item["type"] == "value_error":
        return message.removeprefix("Value error, ")
    message = message.replace("Input should be", "must be").replace("greater than or equal to", ">=")
    message = message.replace("less than or equal to", "<=").replace("greater than", ">").replace("less than", "<")
    return f"{message}, got {item['input']!r}"


def _with_origin(message: str, origin: str | None) -> str:
    return f"{message} ({origin})" if origin else message


def column_value(value: Any) -> Scalar:
    """A setting as a Parquet cell: lists and mappings become JSON."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
