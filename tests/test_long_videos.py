"""Videos of any length: the same numbers as all at once, in memory that goes with the length alone."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak_bytes
from settings import features_config
from tiny import make_features
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lacray import encoder as encoder_module
from lacray import evaluation
from lacray.config import DataConfig, EncoderConfig, build
from lacray.data import DataError, FrameStore, Video, loader, open_videos
from lacray.embedding import embed_file, evaluate, frame_codes
from lacray.encoder import Encoder, build_encoder
from lacray.evaluation import Sequence, classification, cropping, neighbours

FRAMES = 150
SMALL = {"hidden": 32, "heads": 4, "feedforward": 32, "embedding": 16}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder_of(num_features: int | None = 10, *, num_contexts: int = 1, **fields) -> Encoder:
    torch.manual_seed(0)
    data = DataConfig(size=32, num_contexts=num_contexts)
    return build_encoder(EncoderConfig(**{**SMALL, **fields}), data, num_features=num_features)


# ---------------------------------------------------------------------------------------------------------------------
# Attention over time.


@pytest.mark.parametrize("cells", [1, 4 * 3 * 40 * 7, 1 << 27], ids=["a query at a time", "seven", "all"])
@pytest.mark.parametrize("lengths", [None, [40, 23, 1]], ids=["whole", "padded"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_attention_by_parts_is_torchs_own_layer(monkeypatch, cells, lengths, pre_norm):
    monkeypatch.setattr(encoder_module, "ATTENTION_CELLS", cells)
    ours = encoder_of(pre_norm=pre_norm).double().eval().transformer
    layer = nn.TransformerEncoderLayer(32, 4, 32, batch_first=True, norm_first=pre_norm)
    torchs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    torchs.load_state_dict(ours.state_dict())
    hidden = torch.randn(3, 40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    padding = None if lengths is None else torch.arange(40) >= torch.tensor(lengths)[:, None]
    real = torch.ones(3, 40, dtype=torch.bool) if padding is None else ~padding
    with torch.no_grad():
        found, expected = (m(hidden, src_key_padding_mask=padding)[real] for m in (ours, torchs))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("lengths", [None, [1.0, 0.8]], ids=["whole", "padded"])
def test_memory_of_embedding_goes_with_the_length_and_not_with_its_square(grad, lengths):
    encoder = encoder_of().eval()

    def peak(num_frames: int) -> int:
        clips = torch.randn(2, num_frames, 10)
        counts = None if lengths is None else torch.tensor([int(share * num_frames) for share in lengths])
        with torch.set_grad_enabled(grad):
            return peak_bytes(lambda: encoder(clips, counts))

    # 16 bytes x T^2 for each clip would be 128 MB at 2000 frames, and four times that of 1000.
    assert peak(2000) < 2.3 * peak(1000)


def test_memory_of_embedding_is_bounded_where_torch_has_but_its_plainest_kernel(monkeypatch):
    encoder = encoder_of().eval()
    features = torch.randn(1, 2000, 10)
    with torch.no_grad(), sdpa_kernel([SDPBackend.MATH]):
        whole = peak_bytes(lambda: encoder(features))
        monkeypatch.setattr(encoder_module, "ATTENTION_CELLS", 1 << 18)
        by_parts = peak_bytes(lambda: encoder(features))
    assert whole > 4 * 4 * 2000**2
    assert by_parts < whole / 10


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """150 frames of 16 x 16, each of them another."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("long") / "v.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=30, options={"qscale": "1"})
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for picture in rng.integers(0, 256, (FRAMES, 16, 16, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return str(file)


class Watched(FrameStore):
    """A store that keeps book of what it decodes."""

    def __init__(self, **fields) -> None:
        super().__init__(DataConfig(size=16, **fields))
        self.decoded: list[int] = []

    def _read(self, video, frames):
        self.decoded.append(len(frames))
        return super()._read(video, frames)


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 20 pictures, handed out 10 at a time."""
    monkeypatch.setattr(loader, "STREAMED_FRAMES", 10)
    monkeypatch.setattr(loader, "PIECE_BYTES", 25 * 3 * 16 * 16)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0], ids=["decoded", "kept"])
@pytest.mark.parametrize(("first", "stop"), [(0, FRAMES), (13, 147)])
def test_a_streamed_video_is_the_whole_one_frame_by_frame(small_pieces, path, cache_gib, first, stop):
    store = Watched(cache_gib=cache_gib)
    video = store.video(path)
    whole = Watched(cache_gib=0).read(video, np.arange(first, stop))
    pieces = list(store.stream(video, first, stop))
    assert max(len(piece) for piece in pieces) == 10
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    # Never more than a piece of the video's pictures at once, and none of them twice.
    assert max(store.decoded) <= 20
    assert sum(store.decoded) == stop - first
    assert bool(store._kept) == (cache_gib > 0 and (first, stop) == (0, FRAMES))


@pytest.mark.parametrize(("first", "stop"), [(0, FRAMES), (13, 147)])
@pytest.mark.parametrize(("contexts", "stride"), [(1, 1), (3, 4), (2, 90), (4, 10)])
def test_each_frame_of_a_video_is_looked_at_once_whatever_its_contexts(
    small_pieces, path, first, stop, contexts, stride
):
    config = build({"data.size": 16, "data.num_contexts": contexts, "data.context_stride": stride})
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data).eval()
    looked: list[int] = []
    encoder.backbone.convolutions.register_forward_hook(lambda _, inputs, output: looked.append(len(output)))
    store = FrameStore(config.data)
    video = store.video(path)
    with torch.no_grad():
        found = frame_codes(encoder, store, video, first, stop, torch.device("cpu"))
        assert looked == [10] * ((stop - first) // 10) + [(stop - first) % 10] * bool((stop - first) % 10)
        # Every frame with its contexts, each of them read and looked at by itself.
        pictures = torch.from_numpy(store.read(video, np.arange(first, stop)))
        table = [[max(0, step - back * stride) for back in reversed(range(contexts))] for step in range(stop - first)]
        expected = encoder.backbone.merge(encoder.maps(pictures[torch.tensor(table).flatten()]).view(stop - first, -1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_clip_of_a_long_video_decodes_its_own_frames_alone_until_all_are_wanted(monkeypatch, path):
    monkeypatch.setattr(loader, "WHOLE_VIDEO", 4)
    store = Watched()
    video, clip = store.video(path), np.array([3, 50, 51, 140])
    read = store.read(video, clip)
    assert store.decoded == [4]
    list(store.stream(video, 0, FRAMES))
    np.testing.assert_array_equal(store.read(video, clip), read)
    assert store.decoded == [4, FRAMES]
    short = Watched()
    short.read(video, np.arange(40))
    assert short.decoded == [FRAMES]


def test_a_full_cache_keeps_what_it_has_and_decodes_no_whole_video_for_a_clip(path):
    store = Watched(cache_gib=1.5 * FRAMES * 3 * 16 * 16 / 2**30)
    first, second = (Video(name, name, FRAMES, "train") for name in (path, f"{Path(path).parent}/./v.mp4"))
    clip = np.arange(40)
    for video in (first, second, first, second):
        store.read(video, clip)
    assert store.decoded == [FRAMES, 40, 40]


def test_a_file_that_is_no_video_is_named(tmp_path):
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"x\.mp4: "):
        FrameStore(DataConfig()).video(str(tmp_path / "x.mp4"))


@pytest.mark.parametrize("contexts", [1, 3])
def test_a_file_is_embedded_as_all_its_frames_at_once_are_and_says_how_far_it_is(small_pieces, path, contexts):
    config = build({"data.size": 16, "data.num_contexts": contexts, "encoder.hidden": 32, "encoder.embedding": 16})
    torch.manual_seed(0)
    encoder = build_encoder(config.encoder, config.data)
    store = FrameStore(config.data)
    with torch.no_grad():
        places = torch.stack([torch.arange(FRAMES) - back for back in reversed(range(contexts))], dim=1).clamp_min(0)
        frames = torch.from_numpy(store.read(store.video(path), np.arange(FRAMES)))
        whole = encoder.eval()(frames, places=places[None])[0]
    told: list[tuple[int, int]] = []
    found = embed_file(config, encoder.train(), path, progress=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    assert told == [(done, FRAMES) for done in range(10, FRAMES + 1, 10)]


def test_an_evaluation_says_how_far_it_is(tmp_path):
    config = features_config(make_features(tmp_path / "data"))
    videos = open_videos(config.data)
    encoder = build_encoder(config.encoder, config.data, num_features=12)
    told: list[tuple[int, int]] = []
    evaluate(config, encoder, videos, "validation", progress=lambda *frames: told.append(frames))
    total = sum(video.num_frames for video in videos.train + videos.validation)
    assert told[-1] == (total, total)
    assert told == sorted(told)


# ---------------------------------------------------------------------------------------------------------------------
# Metrics.


def wandering(num_videos: int, frames: int, *, size: int = 3, seed: int = 0) -> list[Sequence]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(num_videos):
        labels = np.sort(rng.integers(0, 4, frames))
        embeddings = np.eye(4, size)[labels] + rng.normal(size=(frames, size)).round(1)
        made.append(Sequence(f"v{number}", embeddings, labels, np.linspace(0, 4, frames, endpoint=False)))
    return made


def test_metrics_do_not_hang_on_how_many_distances_are_held_at_once(monkeypatch):
    train, val = wandering(3, 60), wandering(4, 70, seed=1)
    whole = evaluation.evaluate(train, val, stride=2)
    for cells in (1, 1000):
        monkeypatch.setattr(neighbours, "DISTANCE_CELLS", cells)
        assert evaluation.evaluate(train, val, stride=2) == whole


def test_metrics_hold_no_table_of_frames_by_frames(monkeypatch):
    monkeypatch.setattr(neighbours, "DISTANCE_CELLS", 1 << 17)
    monkeypatch.setattr(neighbours, "SIGN_TABLE_BYTES", 1 << 19)
    val = wandering(2, 4000, size=2)
    tracemalloc.start()
    for metric in (evaluation.pairwise_taus, lambda v, stride: evaluation.average_precision(v, [5, 15], stride=stride)):
        metric(val, 1)
    evaluation.alignment_error(val)
    evaluation.event_error(val)
    evaluation.crop(val, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The table alone is 128 MB.
    assert peak < 24e6


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=12, max_size=12), min_size=1, max_size=5),
    st.integers(1, 12),
)
@settings(deadline=None, max_examples=80)
def test_nearest_are_the_first_of_a_stable_sort_whatever_the_ties(rows, k):
    found = neighbours._nearest(np.array(rows, dtype=np.float64), k)
    expected = [sorted(range(12), key=lambda column: (row[column], column))[:k] for row in rows]
    np.testing.assert_array_equal(found, expected)


@given(st.lists(st.integers(-1, 2), min_size=2, max_size=25), st.data())
@settings(deadline=None, max_examples=150)
def test_windows_that_may_be_drawn_are_all_that_hold_two_phases(labels, data):
    length = data.draw(st.integers(1, len(labels)))
    starts = range(len(labels) - length + 1)
    expected = [s for s in starts if len(set(labels[s : s + length]) - {-1}) > 1]
    assert cropping._starts_with_two_phases(np.array(labels), len(labels), length).tolist() == expected


def test_an_svm_learns_from_so_many_frames_at_most_and_the_row_says_so(monkeypatch):
    train, val = wandering(4, 50), wandering(2, 40, seed=1)
    notes: list[str] = []
    evaluation.evaluate(train, val, stride=2, notes=notes)
    assert notes == []
    monkeypatch.setattr(classification, "SVM_FRAMES", 80)
    metrics = evaluation.evaluate(train, val, stride=2, notes=notes).metrics
    # 0.1 and 0.5 of four videos are one and two.
    assert notes == [
        "class_50: the SVM learned from one in 2 of 100 frames (80 at most)",
        "class_100: the SVM learned from one in 3 of 200 frames (80 at most)",
    ]
    thinned = np.arange(200) % 3 == 0
    thin = [
        Sequence(v.name, v.embeddings[keep], v.labels[keep])
        for v, keep in zip(train, np.split(thinned, 4), strict=True)
    ]
    assert metrics["class_100"] == evaluation.phase_classification(thin, val, 1.0)
    assert metrics["class_100_logistic"] == evaluation.phase_classification(train, val, 1.0, "logistic")
