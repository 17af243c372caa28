"""Frames -> embeddings: shapes, positions, what depends on what, freezing, weights."""

from __future__ import annotations

import math
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from paths import shared
from torch import nn

from lacray.config import ConfigError, DataConfig, EncoderConfig
from lacray.encoder import Encoder, build_encoder, centred_over_time, position_code, sine_cosine
from lacray.trunk import torchvision_trunk

SMALL = {"hidden": 32, "heads": 2, "feedforward": 32, "layers": 1, "embedding": 24, "weights": "none"}
RESNET = {**SMALL, "name": "resnet18"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These networks are too small to share out, and threads beyond the free cores spin against each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder_of(num_features: int | None = None, *, size: int = 32, num_contexts: int = 1, **fields) -> Encoder:
    torch.manual_seed(0)
    data = DataConfig(size=size, num_contexts=num_contexts)
    return build_encoder(EncoderConfig(**{**SMALL, **fields}), data, num_features=num_features)


def features_of(clips: int = 3, frames: int = 7, channels: int = 10) -> torch.Tensor:
    return torch.randn(clips, frames, channels, generator=torch.Generator().manual_seed(1))


def pictures_of(clips: int, frames: int, size: int) -> torch.Tensor:
    shape = (clips, frames, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def with_contexts(clips: int, frames: int, contexts: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, 3, H, W), no two alike, and places (S, T, K): each is seen once, as itself or as a context."""
    shape = (clips * frames * contexts, 3, size, size)
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pictures, torch.arange(len(pictures)).view(clips, frames, contexts)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes and architecture.


@pytest.mark.parametrize(
    ("fields", "size", "contexts"),
    [
        ({}, 32, 1),
        ({}, 48, 3),
        ({"pre_norm": True, "layers": 0, "positions": "none", "center": False}, 32, 1),
        (RESNET, 80, 2),
        ({**SMALL, "name": "mobilenet_v3_small"}, 80, 1),
    ],
    ids=str,
)
def test_clips_of_frames_become_an_embedding_for_each_frame(fields, size, contexts):
    encoder = encoder_of(size=size, num_contexts=contexts, **fields)
    pictures, places = with_contexts(2, 3, contexts, size)
    embeddings = encoder(pictures, places=places)
    assert embeddings.shape == (2, 3, 24)
    assert embeddings.dtype == torch.float32
    embeddings.square().sum().backward()
    trained = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert trained == [], "parameters that nothing trains"


def test_features_become_an_embedding_for_each_frame():
    encoder = encoder_of(10)
    assert encoder(features_of()).shape == (3, 7, 24)
    half = encoder.eval()(features_of().half())
    torch.testing.assert_close(half, encoder(features_of().half().float()))


def test_bytes_and_fractions_of_one_picture_are_embedded_alike():
    encoder = encoder_of().eval()
    frames = pictures_of(2, 4, 32)
    torch.testing.assert_close(encoder(frames), encoder(frames.float() / 255))


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_every_context_frame_is_seen(name):
    size = 32 if name == "small" else 80
    encoder = encoder_of(name=name, size=size, num_contexts=3, positions="none").eval()
    frames, places = with_contexts(1, 5, 3, size)
    whole = encoder.per_frame(frames, places)
    for context in range(3):
        changed = frames.clone()
        changed[places[0, 2, context]] = 255 - changed[places[0, 2, context]]
        moved = (encoder.per_frame(changed, places) - whole).abs().amax(dim=(0, 2))
        assert moved[2] > 1e-4
        assert moved[[0, 1, 3, 4]].max() < 1e-5


@pytest.mark.parametrize("name", ["small", "resnet18"])
@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_a_frame_that_several_steps_see_is_looked_at_once_and_seen_by_each(name, contexts, training):
    size = 32 if name == "small" else 80
    encoder = encoder_of(name=name, size=size, num_contexts=contexts, positions="none", dropout=0).double()
    encoder.train(training)
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # their statistics would count a frame as often as it is there
    frames, _ = with_contexts(1, 5, 1, size)
    # The second clip is shorter, and a frame may be there twice in a clip.
    places = torch.tensor([[[0, 1], [1, 2], [0, 2]], [[3, 4], [4, 4], [-1, -1]]])[..., -contexts:]
    lengths = torch.tensor([3, 2])
    looked: list[int] = []
    first = encoder.backbone.convolutions if name == "small" else encoder.backbone.trunk
    first.register_forward_hook(lambda _, inputs, output: looked.append(len(output)))
    shared = encoder(frames, lengths, places)
    assert looked == [5]
    real = places >= 0
    copies = frames[places[real]]
    apart = torch.full_like(places, -1).masked_scatter(real, torch.arange(len(copies)))
    alone = encoder(copies, lengths, apart)
    is_real = torch.arange(3) < lengths[:, None]
    torch.testing.assert_close(shared[is_real], alone[is_real], rtol=1e-9, atol=1e-11)
    direction = torch.randn(shared[is_real].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = [p for p in encoder.parameters() if p.requires_grad]
    for one, other in zip(
        *(torch.autograd.grad((e[is_real] * direction).sum(), parameters) for e in (shared, alone)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_resnet50_at_224_px_is_the_papers_cut_and_its_head_gives_10_x_10_x_512():
    torch.manual_seed(0)
    config = EncoderConfig(name="resnet50", weights="none", hidden=256, heads=8, feedforward=1024)
    encoder = build_encoder(config, DataConfig(size=224)).eval()
    seen: dict[str, tuple[int, ...]] = {}
    backbone = encoder.backbone
    backbone.trunk.register_forward_hook(lambda module, inputs, output: seen.update(trunk=tuple(output.shape)))
    backbone.convolutions.register_forward_hook(lambda module, inputs, output: seen.update(head=tuple(output.shape)))
    with torch.no_grad():
        assert encoder(pictures_of(1, 1, 224)).shape == (1, 1, 128)
    assert seen == {"trunk": (1, 1024, 14, 14), "head": (1, 512, 1, 10, 10)}
    # Conv4c: of layer3's six blocks the first three.
    trunk = {name.split(".", 1)[1] for name, _ in backbone.trunk[-1].named_parameters()}
    assert {name.split(".")[0] for name, _ in backbone.trunk[-1].named_parameters()} == {"0", "1", "2"}
    assert "conv3.weight" in trunk
    assert len(encoder.transformer.layers) == 2
    assert encoder.transformer.layers[0].self_attn.num_heads == 8


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 256), ("mobilenet_v3_small", 48), ("efficientnet_b0", 112)],
)
def test_backbone_is_cut_at_its_last_map_of_stride_16(name, channels):
    trunk, told = torchvision_trunk(EncoderConfig(name=name, weights="none"))
    with torch.no_grad():
        maps = trunk.eval()(torch.zeros(1, 3, 96, 96))
    assert maps.shape == (1, told, 6, 6)
    assert told == channels


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "resnet51"}, r"encoder.name: must be `small` or a torchvision model, got 'resnet51'; near: .*resnet"),
        (
            {"name": "shufflenet_v2_x0_5"},
            "encoder.name: shufflenet_v2_x0_5 has no sequence of feature maps to cut; use a resnet",
        ),
        ({"name": "swin_t"}, r"encoder.name: its stages must give maps \(batch, channels, height, width\)"),
        (
            {"name": "resnet18"},
            "data.size: must give resnet18 maps of 5 x 5 at least .* got 64 and 4 x 4; 80 is enough",
        ),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else None,
)
def test_backbone_that_cannot_serve_is_refused_with_the_remedy(fields, said):
    with pytest.raises(ConfigError, match=said):
        encoder_of(size=64, **fields)


# ---------------------------------------------------------------------------------------------------------------------
# Positions.


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("frames", [16, 32, 64])
def test_positions_are_those_of_the_release(frames, dtype, tolerance):
    golden = np.load(shared("golden/posenc/posenc.npz"))
    like = torch.zeros((), dtype=dtype)
    for mode, kind in (("absolute", "plain"), ("rescaled", "train32")):
        code = position_code(frames, 256, mode, None, like)
        assert code.dtype == dtype
        # The positions themselves are float32 in either type: 31 / (T - 1) rounds at 1e-7.
        np.testing.assert_allclose(code[0].double().numpy(), golden[f"pe_S{frames}_{kind}"], atol=max(tolerance, 5e-6))
    places = torch.linspace(0, 31, frames, dtype=dtype)
    np.testing.assert_allclose(sine_cosine(places, 256), golden[f"pe_S{frames}_train32"], atol=tolerance)


def test_rescaled_positions_stretch_over_the_real_frames_of_each_clip():
    lengths = torch.tensor([9, 4, 1])
    codes = position_code(9, 16, "rescaled", lengths, torch.zeros(()))
    for number, length in enumerate(lengths.tolist()):
        for frame in range(length):
            place = 31 * frame / max(1, length - 1)
            angles = [place / 10000 ** (c / 16) for c in range(16)]
            told = [math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)]
            np.testing.assert_allclose(codes[number, frame], told, atol=2e-5)


@pytest.mark.parametrize("positions", ["absolute", "rescaled", "none"])
def test_order_of_the_frames_counts_unless_there_are_no_positions(positions):
    encoder = encoder_of(10, positions=positions).eval()
    features = features_of()
    backwards = encoder(features.flip(1)).flip(1)
    differs = (backwards - encoder(features)).abs().max() > 1e-3
    assert differs == (positions != "none")


# ---------------------------------------------------------------------------------------------------------------------
# What depends on what.


@pytest.mark.parametrize("kind", ["features", "small"])
@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("grad", [False, True])  # torch takes another path through a transformer without gradients
def test_a_frame_is_seen_by_its_own_clip_and_by_no_other(kind, with_lengths, grad):
    encoder = (encoder_of(10) if kind == "features" else encoder_of()).eval()
    clips = features_of() if kind == "features" else pictures_of(3, 7, 32)
    lengths = torch.tensor([7, 6, 5]) if with_lengths else None
    changed = clips.clone()
    changed[1, 4] = 255 - changed[1, 4] if kind == "small" else -3 * changed[1, 4]
    with torch.set_grad_enabled(grad):
        moved = (encoder(changed, lengths) - encoder(clips, lengths)).abs().amax(dim=-1)
    assert moved[[0, 2]].max() < 1e-5, "attends over the batch"
    assert moved[1, :5].min() > 1e-4, "does not attend over time"


@pytest.mark.parametrize("fields", [{}, {"pre_norm": True}, {"center": False}, {"positions": "absolute"}], ids=str)
@pytest.mark.parametrize("garbage", [0.0, 1e4, math.nan])
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_no_embedding_and_no_gradient(fields, garbage, training):
    lengths = torch.tensor([7, 4, 2])
    features = features_of()
    real = torch.arange(7) < lengths[:, None]
    results = []
    for fill in (5.0, garbage):
        encoder = encoder_of(10, dropout=0, **fields).train(training)
        clips = torch.where(real[..., None], features, fill).requires_grad_()
        embeddings = encoder(clips, lengths)
        (embeddings[real] * torch.linspace(-1, 1, 24)).sum().backward()
        results.append([embeddings[real], clips.grad[real], *(p.grad for p in encoder.parameters())])
        assert not clips.grad[~real].any()
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"positions": "absolute", "pre_norm": True}], ids=str)
def test_padded_clip_is_embedded_as_it_is_alone(fields):
    encoder = encoder_of(10, **fields).eval()
    features, lengths = features_of(), torch.tensor([7, 4, 1])
    together = encoder(features, lengths)
    for number, length in enumerate(lengths.tolist()):
        alone = encoder(features[number : number + 1, :length])
        torch.testing.assert_close(together[number : number + 1, :length], alone, rtol=1e-4, atol=1e-5)


def test_batch_statistics_do_not_see_the_padding():
    lengths = torch.tensor([5, 2])
    frames = pictures_of(2, 5, 32)
    states = []
    for fill in (0, 255):
        encoder = encoder_of()
        clips = frames.clone()
        clips[1, 2:] = fill
        encoder(clips, lengths)
        states.append(encoder.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_evaluating_a_long_video_in_pieces_changes_nothing():
    encoder = encoder_of().eval()
    frames = pictures_of(1, 150, 32)[0]
    with torch.no_grad():
        whole = encoder.per_frame(frames, torch.arange(150).view(1, 150, 1))
        for frame in (0, 63, 64, 149):
            alone = encoder.per_frame(frames[frame : frame + 1], torch.zeros(1, 1, 1, dtype=torch.int64))
            torch.testing.assert_close(whole[:, frame], alone[:, 0])


@pytest.mark.parametrize("with_lengths", [False, True])
def test_centring_takes_mean_and_deviation_of_each_channel_over_the_real_frames(with_lengths):
    hidden = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    counts = [6, 4, 1] if with_lengths else [6, 6, 6]
    if with_lengths:
        hidden[1, 4:], hidden[2, 1:] = math.nan, 1e9
    out = centred_over_time(hidden, torch.tensor(counts) if with_lengths else None).numpy()
    for clip, count in enumerate(counts):
        real = hidden[clip, :count].numpy()
        expected = (real - real.mean(axis=0)) / np.sqrt(real.var(axis=0) + 1e-5)
        np.testing.assert_allclose(out[clip, :count], expected, atol=1e-12)
        assert not out[clip, count:].any()


def test_what_all_frames_share_is_gone_after_centring_and_not_without_it():
    features = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(3))
    for center in (True, False):
        encoder = encoder_of(10, center=center).eval()
        moved = (encoder.over_time(features + 5) - encoder.over_time(features)).abs().max()
        assert (moved > 1e-2) != center


# ---------------------------------------------------------------------------------------------------------------------
# Freezing and weights.


def test_norms_alone_are_trained_with_their_statistics_where_a_setting_says_so():
    encoder = encoder_of(size=80, train_backbone="norms", **{**RESNET, "dropout": 0}).train()
    trunk = encoder.backbone.trunk
    norms = {name for name, module in trunk.named_modules() if isinstance(module, nn.BatchNorm2d)}
    trained = {name.rpartition(".")[0] for name, p in trunk.named_parameters() if p.requires_grad}
    assert trained == norms
    before = trunk[1].running_mean.clone()
    encoder(pictures_of(1, 2, 80)).square().sum().backward()
    assert not torch.equal(before, trunk[1].running_mean)
    assert all((p.grad is not None) == p.requires_grad for p in trunk.parameters())


@pytest.mark.parametrize(("what", "frozen"), [("none", ("0", "1", "4", "5", "6")), ("last", ("0", "1", "4", "5"))])
def test_frozen_stages_keep_their_weights_and_their_batch_statistics(what, frozen):
    encoder = encoder_of(size=80, train_backbone=what, **{**RESNET, "dropout": 0}).train()
    trunk = encoder.backbone.trunk
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    encoder(pictures_of(1, 2, 80)).square().sum().backward()
    with torch.no_grad():
        for p in encoder.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad.sign()
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, before[name]) == (name.split(".")[0] in frozen), name
    assert all(p.grad is not None for p in encoder.backbone.head.parameters())


def test_training_mode_set_anew_leaves_frozen_statistics_frozen():
    encoder = encoder_of(size=80, train_backbone="none", **RESNET)
    encoder.eval().train()
    assert not any(module.training for module in encoder.backbone.trunk.modules() if isinstance(module, nn.BatchNorm2d))
    assert all(module.training for module in encoder.backbone.convolutions if isinstance(module, nn.BatchNorm3d))


def weights_file(path: Path, name: str = "resnet18", **fields) -> Path:
    torch.manual_seed(7)
    torch.save(torchvision.models.get_model(name, weights=None, **fields).state_dict(), path)
    return path


@pytest.mark.parametrize("form", ["bare", "inside", "without classifier", "other classes"])
def test_weights_come_from_a_local_file(tmp_path, form):
    path = weights_file(tmp_path / "w.pt", **({"num_classes": 5} if form == "other classes" else {}))
    state = torch.load(path)
    if form == "inside":
        torch.save({"state_dict": state, "epoch": 3}, path)
    if form == "without classifier":
        torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, path)
    trunk, _ = torchvision_trunk(EncoderConfig(**{**RESNET, "weights": str(path)}))
    assert torch.equal(trunk[0].weight, state["conv1.weight"])
    assert torch.equal(trunk[6][1].conv2.weight, state["layer3.1.conv2.weight"])


def wrong_file(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("weights")
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "pickled module":
        torch.save(nn.Linear(2, 2), path)
    elif kind == "other shapes":
        state = torch.load(weights_file(path))
        torch.save({**state, "layer1.0.conv1.weight": torch.zeros(8, 64, 3, 3)}, path)
    elif kind == "other keys":
        weights_file(path, "mobilenet_v3_small")
    elif kind == "deeper":
        weights_file(path, "resnet34")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("absent", "encoder.weights: must be `default`, `none` or a file, got"),
        ("text", "is no state dict that loads with weights_only"),
        ("pickled module", "is no state dict that loads with weights_only"),
        ("tensor", "must hold a state dict of tensors, got Tensor"),
        ("other shapes", r"does not fit resnet18: .* 1 of another .* first layer1\.0\.conv1\.weight; give the file of"),
        ("other keys", "does not fit resnet18: .* give the file of this network, or another encoder.name"),
        ("deeper", "does not fit resnet18: 0 of its .* are missing, 0 of another shape and .* foreign to it"),
    ],
)
def test_file_that_holds_no_fitting_weights_is_refused_in_one_line(tmp_path, kind, said):
    wrong_file(tmp_path / "w.pt", kind)
    with pytest.raises(ConfigError, match=said) as caught:
        torchvision_trunk(EncoderConfig(name="resnet18", weights=str(tmp_path / "w.pt")))
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_fetched_are_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # urlopen would keep these proxies for every later test.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match=r"could not be fetched .* give a local file, or encoder\.weights=none"):
        torchvision_trunk(EncoderConfig(name="resnet18", weights="default"))
