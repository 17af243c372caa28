"""`python -m lacray.features`: frozen features of every frame, as an oracle computes them from the decoded pictures."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from commands import ended_in_process
from datasets import lav, opened, pattern, penn, tcc, write_video
from safetensors.torch import save_file

from lacray import backbone as backbones
from lacray import extraction, features
from lacray.backbone import FeatureNet
from lacray.data.listing import Entry, Sidecars
from lacray.data.sources import source_of
from lacray.data.video import decode
from lacray.results import differences

NET, CHANNELS, SIZE = "mobilenet_v3_small", 1024, 64


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file as torchvision's, of a network that has learned nothing, without its classifier's last layer."""
    torch.manual_seed(3)
    model = torchvision.models.get_model(NET, weights=None)
    path = tmp_path_factory.mktemp("weights") / f"{NET}-0123abcd.pth"
    torch.save({key: value for key, value in model.state_dict().items() if not key.startswith("classifier.3")}, path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    for number, name in enumerate(("videos/a.mp4", "videos/day 1/b.mp4", "videos/day 1/b.mov")):
        write_video(tmp_path / "set" / name, pattern(7 + number, size=32, seed=number))
    return tmp_path / "set"


@pytest.fixture
def run(capfd):
    return functools.partial(ended_in_process, capfd, features.main)


def expected(path: Path, weights: Path) -> np.ndarray:
    """By torchvision's own model, whose last layer is seen from outside."""
    model = torchvision.models.get_model(NET, weights=None)
    model.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    model.eval()
    seen: list[torch.Tensor] = []
    model.classifier[3].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    pictures = torch.from_numpy(decode(str(path), np.arange(len(np.load(_array(path)))), size=SIZE)).float() / 255
    with torch.no_grad():
        for picture in torchvision.transforms.functional.normalize(
            pictures, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        ):
            model(picture[None])
    return torch.cat(seen).numpy()


def _array(video: Path) -> Path:
    root = next(parent for parent in video.parents if parent.name == "videos").parent
    below = video.relative_to(root / "videos")
    whole = root / "features" / below.parent / f"{below.name}.npy"
    return whole if whole.exists() else (root / "features" / below).with_suffix(".npy")


def test_every_frame_has_the_features_of_the_network_and_training_reads_them(run, root, weights):
    code, said, errors = run(root, "--backbone", weights, "--size", SIZE, "--batch", 4, "--precision", "float32")
    assert (code, errors) == (0, [])
    assert "features: 3 videos written" in said
    assert f"python -m lacray.train data.root={root} data.input=features" in said
    for name in ("videos/a.mp4", "videos/day 1/b.mp4", "videos/day 1/b.mov"):
        array = np.load(_array(root / name))
        assert array.dtype == np.float16
        np.testing.assert_allclose(array, expected(root / name, weights), rtol=2e-3, atol=2e-3)
    videos = opened(root, input="features", validation_share=0)
    assert videos.num_features == CHANNELS
    assert {v.name: v.num_frames for v in videos.training + videos.val} == {
        "videos/a.mp4": 7,
        "videos/day 1/b.mp4": 8,
        "videos/day 1/b.mov": 9,
    }
    for video in videos.training + videos.val:
        assert Path(video.path) == _array(root / video.name)


def test_the_record_says_what_made_them(run, root, weights):
    run(root, "--backbone", NET, "--weights", weights, "--size", SIZE, "--precision", "float32")
    record = json.loads((root / "features" / "backbone.json").read_text())
    assert record["backbone"] == NET
    assert record["weights_from"] == weights.name
    assert (record["size"], record["channels"], record["dtype"]) == (SIZE, CHANNELS, "float16")
    assert record["lacray"]
    first = record["weights_sha256"]
    state = torch.load(weights, weights_only=True)
    state["features.0.0.weight"][0, 0, 0, 0] += 1e-6
    other = weights.with_name("other.pth")
    torch.save(state, other)
    assert backbones.load(NET, weights=str(other), size=SIZE).weights != first
    assert backbones.load(str(weights), size=SIZE).weights == first


def test_it_goes_on_where_it_stood_and_makes_anew_what_is_not_its_videos(run, root, weights):
    command = (root, "--backbone", weights, "--size", SIZE, "--precision", "float32")
    run(*command)
    array = _array(root / "videos" / "a.mp4")
    before = array.read_bytes()
    for damaged in ("absent", "cut", "of another"):
        kept = _array(root / "videos" / "day 1" / "b.mp4").stat()
        if damaged == "absent":
            array.unlink()
        elif damaged == "cut":
            array.write_bytes(before[:-100])
        else:
            # Another video takes its name, one that is older than the features.
            write_video(root / "videos" / "a.mp4", pattern(7, size=32, seed=9))
            os.utime(root / "videos" / "a.mp4", (1, 1))
        code, said, _ = run(*command)
        assert code == 0
        assert "features: 1 videos written" in said
        assert "2 there before" in said
        assert (array.read_bytes() == before) == (damaged != "of another")
        assert _array(root / "videos" / "day 1" / "b.mp4").stat().st_mtime_ns == kept.st_mtime_ns
    np.testing.assert_allclose(np.load(array), expected(root / "videos" / "a.mp4", weights), rtol=2e-3, atol=2e-3)
    assert "features: 0 videos written, 3 there before" in run(*command)[1]


def test_a_training_and_a_model_know_the_backbone_of_their_features(run, root, weights, tmp_path):
    run(root, "--backbone", weights, "--size", SIZE, "--precision", "float32")
    began = opened(root, input="features", validation_share=0)
    assert began.made_by is not None
    assert NET in began.made_by
    record = root / "features" / "backbone.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"weights_sha256": "0123456789abcdef"}))
    now = opened(root, input="features", validation_share=0)
    (line,) = differences(began.fingerprint(), now.fingerprint())
    assert line.startswith("features: was ")
    assert "weights 0123456789ab" in line
    # Numbers of another precision are of the same network.
    record.write_text(json.dumps(json.loads(record.read_text()) | {"precision": "bfloat16", "dtype": "float32"}))
    assert opened(root, input="features", validation_share=0).fingerprint() == now.fingerprint()


def test_two_kinds_are_never_mixed_in_a_folder(run, root, weights, tmp_path):
    command = (root, "--backbone", weights, "--precision", "float32")
    run(*command, "--size", SIZE)
    code, _, errors = run(*command, "--size", SIZE + 32)
    assert code == 2
    assert (
        f"features: must hold features of one kind, got size {SIZE} there, {SIZE + 32} now; give another --out"
        in errors[0]
    )
    # What is not given is as it was.
    assert run(root, "--backbone", weights, "--size", SIZE)[0] == 0
    assert run(*command, "--size", SIZE + 32, "--out", tmp_path / "other")[0] == 0
    (root / "features" / "backbone.json").unlink()
    code, _, errors = run(*command, "--size", SIZE)
    assert code == 2
    assert "holds features of which nothing says what made them" in errors[0]


def test_an_interruption_leaves_no_half_file(root, weights):
    net = backbones.load(str(weights), size=SIZE)
    entries = [Entry("videos/a.mp4", root / "videos" / "a.mp4", "train")]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction.extract(entries, net, root / "features", precision="float32", batch=2, progress=stop)
    assert [path.name for path in (root / "features").iterdir()] == ["backbone.json"]


def test_a_video_that_cannot_be_read_is_named_and_the_others_are_written(run, root, weights):
    (root / "videos" / "bad.mp4").write_text("no video")
    code, said, _ = run(root, "--backbone", weights, "--size", SIZE)
    assert code == 0
    assert "left out, videos/bad.mp4: is no video" in said
    assert "features: 3 videos written" in said


def test_features_that_half_precision_cannot_hold_are_refused(root, weights):
    state = torch.load(weights, weights_only=True)
    state["classifier.0.bias"] = torch.full_like(state["classifier.0.bias"], 1e6)
    large = weights.with_name("large.pth")
    torch.save(state, large)
    net = backbones.load(NET, weights=str(large), size=SIZE)
    entries = [Entry("videos/a.mp4", root / "videos" / "a.mp4", "train")]
    with pytest.raises(features.UserError, match=r"must be finite, got numbers up to 1e\+06; give --dtype float32"):
        extraction.extract(entries, net, root / "features", precision="float32")
    assert list((root / "features").glob("*.npy")) == []


def test_bfloat16_gives_nearly_the_same(root, weights):
    net = backbones.load(str(weights), size=SIZE)
    pictures = torch.from_numpy(decode(str(root / "videos" / "a.mp4"), np.arange(7), size=SIZE))
    exact, rounded = (
        backbones.FeatureNet(net, precision=precision)(pictures) for precision in (torch.float32, torch.bfloat16)
    )
    assert not torch.equal(exact, rounded)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.999


LARGE = ("vit_b_32", "vgg11", "densenet121", "convnext_tiny", "swin_t", "efficientnet_b0")


@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_any_classifier_of_torchvision_loses_its_last_layer(name, tmp_path):
    model = torchvision.models.get_model(name, weights=None)
    path = tmp_path / f"{name}-00000000.pth"
    torch.save(model.state_dict(), path)
    size = 224 if name.startswith("vit") else 64
    net = backbones.load(str(path), size=size)
    frame = torch.rand(2, 3, size, size)
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(last(net.module(frame)), model.eval()(frame))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--backbone", "resnet5O"),
            "must be a torchvision model, timm:NAME or a file of weights, got 'resnet5O'; near: resnet50",
        ),
        (("--backbone", "squeezenet1_0", "--weights", "{w}"), "squeezenet1_0 has no last linear layer to be left out"),
        (("--backbone", "resnet18", "--weights", "{w}"), "does not fit resnet18: "),
        (("--backbone", "resnet18", "--weights", "{t}/resnet34.pth"), "0 of another shape and 96 foreign to it"),
        (("--backbone", "resnet18", "--weights", "{t}/none.pth"), "--weights: must be `default` or a file"),
        (("--backbone", "{t}/text.pth"), "text.pth must begin with the name of its torchvision model"),
        (("--backbone", "resnet18", "--weights", "{t}/text.pth"), "is no state dict that loads with weights_only"),
        (("--backbone", "{w}", "--weights", "{w}"), "is a file of weights; leave one of the two out"),
        (
            ("--backbone", "{w}", "--device", "gpu"),
            "--device: must be one that computes here, as cpu or cuda, got 'gpu'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_remedy(run, root, weights, tmp_path, arguments, said):
    (tmp_path / "text.pth").write_text("hello")
    if any("resnet34" in word for word in arguments):  # which has all that a resnet18 has
        torch.save(torchvision.models.get_model("resnet34", weights=None).state_dict(), tmp_path / "resnet34.pth")
    code, _, errors = run(root, *(word.format(w=weights, t=tmp_path) for word in arguments))
    assert code == 2
    assert said in errors[0]
    assert not (root / "features").exists()


def test_features_are_found_where_one_videos_name_is_the_beginning_of_anothers(tmp_path):
    names = ["videos/a.mov", "videos/a.mov.mp4", "videos/B.mp4", "videos/b.avi", "videos/b.mp4.mkv", "videos/c.mp4"]
    paths = extraction.feature_paths(names, tmp_path / "features")
    assert len({str(path).casefold() for path in paths.values()}) == len(names)
    assert paths["videos/c.mp4"] == tmp_path / "features" / "c.npy"
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
        path.touch()
    sidecars = Sidecars(tmp_path, "features")
    assert {name: sidecars.of(name) for name in names} == paths


def test_features_are_written_where_they_are_read(tmp_path):
    names, out = ["videos/a.mp4", "videos/a.mov"], tmp_path / "features"
    out.mkdir()
    for path in extraction.feature_paths(names, out).values():
        path.touch()
    # The other one is taken away: what is there by the whole name goes on to be what is read.
    (path,) = extraction.feature_paths(names[:1], out).values()
    path.touch()
    assert Sidecars(tmp_path, "features").of(names[0]) == path


@pytest.mark.slow
def test_a_size_that_the_network_does_not_take_is_told(run, root, tmp_path):
    path = tmp_path / "vit_b_32-0.pth"
    torch.save(torchvision.models.get_model("vit_b_32", weights=None).state_dict(), path)
    code, _, errors = run(root, "--backbone", path, "--size", 65)
    assert code == 2
    assert "--size: vit_b_32 takes no frames of 65" in errors[0]


def test_weights_that_cannot_be_fetched_are_told_with_their_address(run, root, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    for module in (torchvision.models._api, torchvision.models.resnet):
        if hasattr(module, "load_state_dict_from_url"):
            monkeypatch.setattr(module, "load_state_dict_from_url", refuse)
    code, _, errors = run(root, "--backbone", "resnet18")
    assert code == 2
    assert "torchvision's weights of resnet18 could not be fetched (no route to host); fetch https://" in errors[0]
    assert "--backbone resnet18 --weights FILE" in errors[0]


def logits(model: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.get_classifier()(features)


# MobileNetV3 has a layer between its pooled features and the classifier, so that the two differ in width.
@pytest.mark.parametrize(("name", "size"), [("resnet10t", 64), ("mobilenetv3_small_050", 64), ("test_vit", 160)])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_timm_by_name_gives_what_goes_into_its_classifier(run, root, name, size, suffix):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    path = root.parent / f"model.{suffix}"
    (torch.save if suffix == "pth" else save_file)(model.state_dict(), path)
    options = ("--backbone", f"timm:{name}", "--weights", path, "--size", size, "--precision", "float32")
    code, said, errors = run(root, *options, "--dtype", "float32")
    assert (code, errors) == (0, [])
    assert "features: 3 videos written" in said
    wanted = timm.data.resolve_model_data_config(model)
    pictures = torch.from_numpy(decode(str(root / "videos" / "a.mp4"), np.arange(7), size=size)).float() / 255
    frames = torchvision.transforms.functional.normalize(pictures, wanted["mean"], wanted["std"])
    with torch.no_grad():
        truth = model(frames)
    stored = torch.from_numpy(np.load(root / "features" / "a.npy"))
    torch.testing.assert_close(logits(model, stored), truth, rtol=1e-3, atol=1e-4)
    record = json.loads((root / "features" / "backbone.json").read_text())
    assert (record["backbone"], record["channels"]) == (f"timm:{name}", stored.shape[1])
    assert "features: 0 videos written" in run(root, *options)[1]


def test_timm_is_asked_for_where_it_is_not_installed(run, root, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, errors = run(root, "--backbone", "timm:resnet10t")
    assert code == 2
    assert "needs timm, which is not installed: pip install 'lacray[timm]'" in errors[0]


def test_weights_of_timm_that_cannot_be_fetched_are_told_with_their_address(run, root, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    code, _, errors = run(root, "--backbone", "timm:resnet10t")
    assert code == 2
    assert "timm's weights of resnet10t could not be fetched" in errors[0]
    assert "fetch https://huggingface.co/timm/resnet10t.c3_in1k (model.safetensors) on a machine" in errors[0]
    assert "--backbone timm:resnet10t --weights FILE" in errors[0]


def test_a_model_that_timm_has_not_is_told_with_those_near_it(run, root):
    code, _, errors = run(root, "--backbone", "timm:resnet10x")
    assert code == 2
    assert "timm has no model 'resnet10x'; near: resnet10t" in errors[0]


@pytest.mark.parametrize("make", [penn, tcc, lav])
def test_pictures_and_records_have_features_too_and_have_them_once(run, tmp_path, weights, make):
    names = ("0001.v2", "0002") if make is lav else ("0001", "0002")
    videos = [(name, "squat", "train", labels) for name, labels in zip(names, ([0, 1, 1] * 2, [0, 1] * 2), strict=True)]
    videos.append(("0003", "squat", "val", [0] * 5))
    root = make(tmp_path / "x", videos)
    arguments = (root, "--backbone", weights, "--size", SIZE, "--precision", "float32", "--dtype", "float32")
    code, said, errors = run(*arguments)
    assert (code, errors) == (0, [])
    assert "features: 3 videos written" in said
    found = opened(root, input="features", validation_share=0)
    own = {video.name: video for video in found.training + found.val}
    seen = opened(root, validation_share=0)
    assert {name: video.num_frames for name, video in own.items()} == {
        video.name: video.num_frames for video in seen.training + seen.val
    }
    assert len({video.path for video in own.values()}) == len(own)
    assert all(video.is_labelled for video in own.values())
    net = FeatureNet(backbones.load(str(weights), size=SIZE), precision=torch.float32).eval()
    assert "features: 0 videos written" in run(*arguments)[1]
    for video in seen.training + seen.val:
        frames = torch.from_numpy(source_of(video.path).read(np.arange(video.num_frames), size=SIZE))
        with torch.no_grad():
            np.testing.assert_allclose(np.load(own[video.name].path), net(frames).numpy(), rtol=1e-4, atol=1e-5)
