"""Frames -> embeddings: a picture backbone, then a transformer over time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lacray.batch_norm import is_frozen
from lacray.config import ConfigError, DataConfig, EncoderConfig
from lacray.trunk import freeze, map_side, torchvision_trunk

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
POSITIONS_RANGE = 31.0
"""`positions: rescaled` stretches every clip over 0..31, the release's training length."""
EVALUATION_FRAMES = 64
"""Frames that go through the backbone at once outside training."""
ATTENTION_CELLS = 1 << 27
"""Query-key cells of one attention call at most outside training, over clips and heads: 512 MiB in float32."""
SMALL_STAGES = ((32, 7, 4), (64, 3, 1), (128, 3, 2), (128, 3, 1))
"""Width, kernel and stride of the small network's convolutions."""


class Backbone(nn.Module, ABC):
    """What is seen of each frame by itself, and the code of what is seen for one embedding: a frame with its contexts.

    A frame that several embeddings want is looked at once.
    """

    @abstractmethod
    def maps(self, frames: Tensor) -> Tensor:
        """Frames (N, ...) -> what is seen of each, (N, ...)."""

    @abstractmethod
    def codes(self, maps: Tensor) -> Tensor:
        """What is seen of frames and their contexts, (R, K, ...), the frame itself last -> (R, hidden)."""


class Encoder(nn.Module):
    """Clips -> embeddings (S, T, E), attending over time.

    A frame is one of
        a picture (3, H, W) uint8, or float in 0..1;
        features (C,) float, of a frozen backbone (`data.input: features`).
    """

    def __init__(self, backbone: Backbone, config: EncoderConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.hidden = config.hidden
        self.position_mode = config.positions
        self.center = config.center
        self.dropout = nn.Dropout(config.dropout)
        layer = TimeLayer(
            config.hidden,
            config.heads,
            dim_feedforward=config.feedforward,
            dropout=config.dropout,
            batch_first=True,
            norm_first=config.pre_norm,
        )
        self.transformer = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)
        self.final_norm = nn.LayerNorm(config.hidden) if config.pre_norm else nn.Identity()
        self.project = nn.Linear(config.hidden, config.embedding)

    def forward(
        self,
        frames: Tensor,
        lengths: Tensor | None = None,
        places: Tensor | None = None,
        *,
        shifts: Tensor | None = None,
    ) -> Tensor:
        """Embed clips.

        Args:
            frames: (S, T, ...), the frames of each clip, seen without contexts; with `places`, (N, ...), every frame
                that any of the clips needs.
            lengths: (S,) int64, real frames of each clip; None: all T. The embeddings of frames beyond are
                meaningless, and no other depends on them.
            places: (S, T, K) int64, which of `frames` are seen for each embedding, its own last; -1 in the padding.
            shifts: (S,) where each clip's positions begin; None: at 0.

        Returns:
            (S, T, E).
        """
        if places is None:
            frames, places = _seen_alone(frames, lengths)
        return self.over_time(self.per_frame(frames, places), lengths, shifts)

    def per_frame(self, frames: Tensor, places: Tensor) -> Tensor:
        """The backbone's code of each step, (S, T, hidden), of frames (N, ...); zeros in the padding.

        The padding is no frame: no batch statistic sees it.
        """
        is_real = places[..., -1] >= 0
        if places.shape[-1] == 1:
            pieces = [self.codes(self.maps(piece)) for piece in self._pieces(frames)]
            codes, which = torch.cat(pieces), places[..., 0]
        else:
            codes = self.codes(self.maps(frames), places[is_real])
            which = is_real.flatten().cumsum(0).view_as(is_real) - 1
        return codes[which.clamp_min(0)].masked_fill(~is_real[..., None], 0)

    def maps(self, frames: Tensor) -> Tensor:
        """What the backbone sees of each frame by itself, (N, ...) -> (N, ...)."""
        pieces = [self.backbone.maps(piece) for piece in self._pieces(frames)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def codes(self, maps: Tensor, places: Tensor | None = None) -> Tensor:
        """The backbone's codes (R, hidden) of the maps (N, ...) at `places` (R, K); None: of each by itself."""
        if places is None:
            pieces = [self.backbone.codes(piece[:, None]) for piece in self._pieces(maps)]
        else:
            pieces = [self.backbone.codes(maps[piece]) for piece in self._pieces(places)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _pieces(self, rows: Tensor) -> tuple[Tensor, ...]:
        # In one piece for training; a whole video at evaluation would hold every layer's maps of every frame.
        return (rows,) if self.training else rows.split(EVALUATION_FRAMES)

    def over_time(self, hidden: Tensor, lengths: Tensor | None = None, shifts: Tensor | None = None) -> Tensor:
        """Codes of frames (S, T, hidden) -> embeddings (S, T, E)."""
        num_frames = hidden.shape[1]
        if self.center:
            hidden = centred_over_time(hidden, lengths)
        if self.position_mode != "none":
            hidden = hidden + position_code(num_frames, hidden.shape[-1], self.position_mode, lengths, hidden, shifts)
        hidden = self.dropout(hidden)
        padding = None
        if lengths is not None:
            padding = torch.arange(num_frames, device=hidden.device) >= lengths[:, None]
        # torch's TransformerEncoder does not take 0 layers.
        if self.transformer.num_layers > 0:
            hidden = self.transformer(hidden, src_key_padding_mask=padding)
        return self.project(self.final_norm(hidden))


class TimeLayer(nn.TransformerEncoderLayer):
    """torch's encoder layer, but outside training no table of all frames by all frames is ever held.

    torch's own fast path holds it for all heads: 16 bytes x T^2 for four of them, 5 GB for ten minutes of video.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Frames (S, T, hidden) -> (S, T, hidden); `src_key_padding_mask` (S, T) is -inf at padding, else 0."""
        assert src_mask is None
        assert not is_causal
        if self.training:
            return super().forward(src, src_key_padding_mask=src_key_padding_mask)
        if self.norm_first:
            src = src + self._attended(self.norm1(src), src_key_padding_mask)
            return src + self._fed_forward(self.norm2(src))
        src = self.norm1(src + self._attended(src, src_key_padding_mask))
        return self.norm2(src + self._fed_forward(src))

    def _attended(self, hidden: Tensor, padding: Tensor | None) -> Tensor:
        attention = self.self_attn
        projected = F.linear(hidden, attention.in_proj_weight, attention.in_proj_bias)
        # Three of (S, heads, T, channels of a head).
        queries, keys, values = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
        )
        mask = None if padding is None else padding[:, None, None, :].to(queries.dtype)
        num_clips, num_heads, num_frames, _ = queries.shape
        # Most of torch's kernels hold a few queries' rows at a time; the one that always works holds all of a call.
        step = max(1, ATTENTION_CELLS // (num_clips * num_heads * num_frames))
        seen = [F.scaled_dot_product_attention(part, keys, values, mask) for part in queries.split(step, dim=2)]
        return attention.out_proj(torch.cat(seen, dim=2).transpose(1, 2).flatten(2))

    def _fed_forward(self, hidden: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(hidden)))


def sine_cosine(positions: Tensor, channels: int) -> Tensor:
    """Sine-cosine code of positions (...,) -> (..., channels).

    Channel c holds sin (c even) or cos (c odd) of position / 10000^(c / channels): as CARL and LAC compute it, the
    cosine does not share its sine's exponent.
    """
    channel = torch.arange(channels, device=positions.device, dtype=positions.dtype)
    angle = positions[..., None] * torch.exp(channel * (-math.log(10000.0) / channels))
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def position_code(
    num_frames: int,
    channels: int,
    mode: str,
    lengths: Tensor | None,
    like: Tensor,
    shifts: Tensor | None = None,
) -> Tensor:
    """Codes of a clip's positions, from 0 or from `shifts` on, (1 or S, T, channels), in the type of `like`."""
    positions = torch.arange(num_frames, device=like.device, dtype=torch.float32)[None]
    if mode == "rescaled":
        last = (lengths[:, None] if lengths is not None else torch.tensor([[num_frames]], device=like.device)) - 1
        positions = positions * (POSITIONS_RANGE / last.clamp_min(1))
    if shifts is not None:
        positions = positions + shifts[:, None].to(positions.dtype)
    return sine_cosine(positions, channels).to(like.dtype)


def centred_over_time(hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Each channel (S, T, channels) less its mean over the clip's real frames, over its standard deviation there.

    What all frames of a video share (its objects, colours, background) is not what tells its moments apart.
    """
    if lengths is None:
        deviation = hidden - hidden.mean(dim=1, keepdim=True)
        return deviation * torch.rsqrt(deviation.square().mean(dim=1, keepdim=True) + 1e-5)
    is_real = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None])[..., None]
    count = lengths[:, None, None].to(hidden.dtype)
    deviation = (hidden - hidden.masked_fill(~is_real, 0).sum(dim=1, keepdim=True) / count).masked_fill(~is_real, 0)
    return deviation * torch.rsqrt(deviation.square().sum(dim=1, keepdim=True) / count + 1e-5)


def _seen_alone(clips: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Clips (S, T, ...) whose frames are seen without contexts -> their real frames (N, ...), places (S, T, 1)."""
    num_clips, num_frames = clips.shape[:2]
    if lengths is None:
        places = torch.arange(num_clips * num_frames, device=clips.device).view(num_clips, num_frames, 1)
        return clips.flatten(0, 1), places
    is_real = torch.arange(num_frames, device=clips.device) < lengths[:, None]
    places = is_real.flatten().cumsum(0).view_as(is_real) - 1
    return clips[is_real], places.masked_fill(~is_real, -1)[..., None]


class FeatureInput(Backbone):
    """Features (N, C) of a frozen backbone -> (N, hidden); they have seen what they have seen: K is 1."""

    def __init__(self, channels: int, config: EncoderConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Dropout(config.dropout),
            nn.Linear(channels, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
        )

    def maps(self, frames: Tensor) -> Tensor:
        return frames

    def codes(self, maps: Tensor) -> Tensor:
        return self.net(maps.squeeze(1).to(next(self.net.parameters()).dtype))


class Pictures(nn.Module):
    """uint8 or 0..1 frames (N, 3, H, W) -> normalised, channels last for the convolutions."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        if frames.dtype == torch.uint8:
            frames = frames.to(self.mean.dtype) / 255
        return ((frames - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class SmallBackbone(Backbone):
    """A compact network for CPUs: pictures (N, 3, H, W) -> what is where, (N, 640); K of them -> (R, hidden)."""

    def __init__(self, config: EncoderConfig, *, num_contexts: int) -> None:
        super().__init__()
        channels = 3
        stages: list[nn.Module] = []
        for width, kernel, stride in SMALL_STAGES:
            stages += [nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)]
            # Batch statistics, not a frame's own: what is the same in all frames must stay comparable between videos.
            stages += [nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.pictures = Pictures()
        self.convolutions = nn.Sequential(*stages).to(memory_format=torch.channels_last)
        # A coarse grid beside the maximum keeps where things are: hands and levels move, colours do not.
        self.reduce = nn.Conv2d(channels, 32, 1)
        self.merge = nn.Linear(num_contexts * (channels + 32 * 16), config.hidden)

    def maps(self, frames: Tensor) -> Tensor:
        hidden = self.convolutions(self.pictures(frames))
        grid = F.adaptive_avg_pool2d(self.reduce(hidden), 4).flatten(1)
        return torch.cat([hidden.amax(dim=(2, 3)), grid], dim=1)

    def codes(self, maps: Tensor) -> Tensor:
        return self.merge(maps.flatten(1))


class PaperBackbone(Backbone):
    """The paper's picture encoder around a torchvision backbone: pictures (N, 3, H, W); K of them -> (R, hidden).

    Backbone to its last map of stride 16 (ResNet-50: layer3[2]), of each picture; 2 x [Conv3d 3x3x3 without spatial
    padding, 512, batch norm, ReLU]; adaptive max pooling; 2 x [dropout, FC 512, ReLU]; FC to the transformer's width.
    """

    def __init__(self, config: EncoderConfig, *, size: int) -> None:
        super().__init__()
        self.pictures = Pictures()
        self.trunk, channels = torchvision_trunk(config)
        side = map_side(self.trunk, size)
        if side < 5:
            raise ConfigError(
                f"data.size: must give {config.name} maps of 5 x 5 at least for the two convolutions after it, got "
                f"{size} and {side} x {side}; 80 is enough for maps of stride 16, or use encoder.name=small"
            )
        freeze(self.trunk, config.train_backbone)
        self.trunk.to(memory_format=torch.channels_last)
        convolutions: list[nn.Module] = []
        for width_in in (channels, 512):
            convolutions += [nn.Conv3d(width_in, 512, 3, padding=(1, 0, 0)), nn.BatchNorm3d(512), nn.ReLU()]
        self.convolutions = nn.Sequential(*convolutions)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, config.hidden),
        )

    def train(self, mode: bool = True) -> PaperBackbone:
        super().train(mode)
        # Frozen batch norm keeps its statistics too.
        for module in self.trunk.modules():
            if is_frozen(module):
                module.eval()
        return self

    def maps(self, frames: Tensor) -> Tensor:
        return self.trunk(self.pictures(frames))

    def codes(self, maps: Tensor) -> Tensor:
        return self.head(F.adaptive_max_pool3d(self.convolutions(maps.transpose(1, 2)), 1).flatten(1))


def build_encoder(config: EncoderConfig, data: DataConfig, *, num_features: int | None = None) -> Encoder:
    """The encoder of a setting.

    Args:
        num_features: C of `data.input: features`; the encoder then starts after its backbone.

    Raises:
        ConfigError: names the setting that cannot be met.
    """
    if num_features is not None:
        return Encoder(FeatureInput(num_features, config), config)
    if config.name == "small":
        return Encoder(SmallBackbone(config, num_contexts=data.num_contexts), config)
    return Encoder(PaperBackbone(config, size=data.size), config)
