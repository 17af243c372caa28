"""Cross-video contrast: its matches and targets, when it sets in, what it refuses, and that it resumes exactly."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import features_config
from tiny import make_features
from torch import Tensor

from lacray import checkpoint, cli, fit
from lacray.config import ConfigError, CrossConfig, build
from lacray.data import DataError, open_videos
from lacray.losses import Clips, WholeVideos
from lacray.losses.cross import CrossLoss, cross_targets, made_consistent, match_probabilities
from lacray.losses.scl import SclLoss
from lacray.odds import Odds
from lacray.whole import WholeEmbedder

ODDS = Odds((-1.0, -0.2, 0.5, 1.0), (-2.0, -1.5, 0.7, 3.0))
SIZES = (23, 17, 20)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(seed: int = 0, *, features: bool = False, num: int = 3) -> WholeVideos:
    """Three videos of 23, 17 and 20 frames."""

    def codes(width: int, own: int) -> list[Tensor]:
        drawn = [torch.randn(n, width, generator=seeded(own + k), dtype=torch.float64) for k, n in enumerate(SIZES)]
        return [torch.nn.functional.normalize(one, dim=-1) for one in drawn[:num]]

    more = {"features": codes(4, seed + 50), "feature_odds": Odds((-0.5, 0.6), (-1.0, 2.0))} if features else {}
    return WholeVideos(codes(5, seed), ODDS, [1] * num, **more)


def step_of(seed: int = 0, *, videos: tuple[int, ...] = (0, 1, 2), actions: tuple[int, ...] = (0, 0, 0)) -> Clips:
    """Two views of 8 frames, some of them padding, of each video."""
    frames, num = 8, 2 * len(videos)
    lengths = torch.tensor([8, 7, 5, 8, 6, 8, 8, 8][:num])
    generator = seeded(seed)
    steps = torch.zeros(num, frames, dtype=torch.int64)
    for clip in range(num):
        size = SIZES[videos[clip // 2]]
        drawn = torch.randperm(size, generator=generator)[: lengths[clip]]
        steps[clip, : lengths[clip]] = drawn.sort().values
    return Clips(
        torch.randn(num, frames, 16, generator=generator, dtype=torch.float64),
        steps,
        lengths,
        torch.tensor([SIZES[video] for video in videos]).repeat_interleave(2),
        torch.tensor(videos).repeat_interleave(2),
        torch.tensor(actions).repeat_interleave(2),
        torch.arange(num).unflatten(0, (-1, 2)),
    )


def loss_of(*, done: float = 1.0, videos: WholeVideos | None = None, **fields) -> CrossLoss:
    torch.manual_seed(3)
    loss = CrossLoss(CrossConfig(**{"projection": 0, **fields}), embedding=16).double()
    loss.see(videos if videos is not None else whole())
    loss.done = done
    return loss


# ---------------------------------------------------------------------------------------------------------------------
# Matches and targets.


def local_alignments(rows: int, columns: int):
    """Every set of matches that rises in both sequences, not empty."""
    cells = list(itertools.product(range(rows), range(columns)))
    for count in range(1, min(rows, columns) + 1):
        for chosen in itertools.combinations(cells, count):
            if all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(chosen)):
                yield chosen


def test_local_matches_have_the_probabilities_of_all_alignments_one_by_one():
    rows, columns, gamma, opening, extending = 3, 4, 0.37, 0.9, 0.23
    table = torch.randn(1, rows, columns, generator=seeded(1), dtype=torch.float64)
    config = CrossConfig(alignment="local", gamma=gamma, gap_open=opening, gap_extend=extending)
    forth, back = match_probabilities(table, torch.tensor([[rows, columns]]), config)

    def gap(frames: int) -> float:
        return opening + extending * (frames - 1) if frames else 0.0

    expected, total = np.zeros((rows, columns)), 0.0
    for matches in local_alignments(rows, columns):
        value = sum(table[0, i, j].item() for i, j in matches)
        value -= sum(gap(b[0] - a[0] - 1) + gap(b[1] - a[1] - 1) for a, b in itertools.pairwise(matches))
        weight = math.exp(value / gamma)
        total += weight
        for match in matches:
            expected[match] += weight
    np.testing.assert_allclose(forth[0], expected / total, rtol=1e-9)
    assert torch.equal(back[0], forth[0].T)


@pytest.mark.parametrize("alignment", ["local", "end_to_end", "dtw"])
def test_matches_are_the_slopes_of_the_score_and_nothing_beyond_the_lengths(alignment):
    table = torch.randn(2, 5, 6, generator=seeded(2), dtype=torch.float64)
    lengths = torch.tensor([[5, 4], [3, 6]])
    loss = loss_of(alignment=alignment, gamma=0.45)
    forth, _ = match_probabilities(table, lengths, loss.config)
    for pair, i, j in itertools.product(range(2), range(5), range(6)):
        moved = torch.zeros_like(table)
        moved[pair, i, j] = 1e-6
        slope = (loss._score(table + moved, lengths) - loss._score(table - moved, lengths))[pair] / 2e-6
        is_real = i < lengths[pair, 0] and j < lengths[pair, 1]
        assert forth[pair, i, j].item() == pytest.approx(slope.item() if is_real else 0.0, abs=2e-8)
    assert (forth > 0.01).sum() > 6


def test_nearest_neighbours_are_a_softmax_over_the_real_frames_each_way():
    table = torch.randn(2, 5, 6, generator=seeded(2), dtype=torch.float64)
    lengths = [[5, 4], [3, 6]]
    forth, back = match_probabilities(table, torch.tensor(lengths), CrossConfig(alignment="nearest", gamma=0.6))
    for pair, (rows, columns) in enumerate(lengths):
        own = np.exp(table[pair, :rows, :columns].numpy() / 0.6)
        np.testing.assert_allclose(forth[pair, :rows, :columns], own / own.sum(1, keepdims=True), rtol=1e-12)
        np.testing.assert_allclose(back[pair, :columns, :rows], (own / own.sum(0)).T, rtol=1e-12)
        assert forth[pair].sum().item() == pytest.approx(rows)


def targets_by_hand(matched, steps_from, steps_to, sigma):
    found = np.zeros((len(steps_from), len(steps_to)))
    for i, here in enumerate(steps_from):
        for j, there in enumerate(steps_to):
            for frame in range(matched.shape[1]):
                found[i, j] += float(matched[here, frame]) * math.exp(-((frame - there) ** 2) / (2 * sigma**2))
    return found


def test_targets_are_the_double_sum():
    matched = torch.rand(9, 11, generator=seeded(0), dtype=torch.float64)
    one, other = torch.tensor([[0, 3, 4], [2, 7, 8]]), torch.tensor([[1, 2, 9, 10], [0, 4, 5, 6]])
    found = cross_targets(matched, one, other, sigma=1.7)
    assert found.shape == (2, 2, 3, 4)
    for a, b in itertools.product(range(2), range(2)):
        expected = targets_by_hand(matched, one[a].tolist(), other[b].tolist(), 1.7)
        np.testing.assert_allclose(found[a, b], expected, rtol=1e-12)


def test_targets_of_long_videos_lie_where_those_of_all_frames_would():
    # Frames 0, 3, 6, ... of the one and 0, 2, 4, ... of the other were aligned, along the straight line between them.
    found = cross_targets(
        torch.eye(8, dtype=torch.float64),
        torch.tensor([[1, 11, 22]]),
        torch.arange(16)[None],
        sigma=1.0,
        strides=(3, 2),
    )
    assert found[0, 0].argmax(1).tolist() == [0, 8, 14]


def crossed_by_hand(loss: CrossLoss, clips: Clips, videos: WholeVideos, evidence: str = "encoder") -> float:
    """L_x, clip by clip and frame by frame, from the matches that the operators give."""
    config = loss.config
    z = (clips.embeddings / clips.embeddings.norm(dim=-1, keepdim=True)).numpy()
    video, lengths, steps = (x.tolist() for x in (clips.video, clips.lengths, clips.steps))
    value = mass = 0.0
    for a, b in itertools.permutations(range(len(video)), 2):
        if video[a] == video[b] or clips.action[a] != clips.action[b]:
            continue
        first, second = sorted((a, b), key=lambda clip: video.index(video[clip]))
        table = videos.log_odds(video[first], video[second], evidence=evidence)
        forth, back = match_probabilities(table[None], torch.tensor([table.shape]), config)
        matched = (forth if first == a else back)[0]
        matched = matched / matched.sum(1, keepdim=True).clamp_min(1)
        y = targets_by_hand(matched, steps[a][: lengths[a]], steps[b][: lengths[b]], config.sigma)
        for i in range(lengths[a]):
            logits = np.array([z[a, i] @ z[b, j] / config.tau for j in range(lengths[b])])
            logs = logits - np.log(np.exp(logits).sum())
            value -= (y[i] * logs).sum()
        mass += y.sum()
    return value / mass


@pytest.mark.parametrize("alignment", ["local", "end_to_end", "dtw", "nearest"])
def test_value_is_that_of_the_frames_one_by_one(alignment):
    videos, clips = whole(features=True), step_of(actions=(4, 4, 4))
    for evidence in ("encoder", "features", "both"):
        loss = loss_of(alignment=alignment, evidence=evidence, tau=0.4, sigma=2.1, weight=0.6, videos=videos)
        total, parts = loss(clips)
        expected = crossed_by_hand(loss, clips, videos, evidence)
        assert parts["lambda_L_x"].item() == pytest.approx(0.6 * expected, rel=1e-9)
        assert total.item() == pytest.approx((parts["L_c"] + parts["lambda_L_x"]).item(), rel=1e-12)
        assert parts["lambda"].item() == pytest.approx(0.6)
    both = videos.log_odds(0, 1, evidence="both")
    apart = [videos.log_odds(0, 1, evidence=own) for own in ("encoder", "features")]
    torch.testing.assert_close(both, apart[0] + apart[1])


def test_log_odds_are_linear_between_what_was_found_and_constant_beyond():
    found = ODDS(torch.tensor([-3.0, -1.0, -0.6, 0.15, 0.5, 0.75, 1.0, 2.0], dtype=torch.float64))
    expected = np.interp([-3.0, -1.0, -0.6, 0.15, 0.5, 0.75, 1.0, 2.0], ODDS.similarities, ODDS.log_odds)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert Odds((0.3,), (0.0,))(torch.rand(2, 3)).tolist() == [[0.0] * 3] * 2


# ---------------------------------------------------------------------------------------------------------------------
# The loss.


@pytest.mark.parametrize(
    "fields",
    [{}, {"projection": 12}, {"alignment": "dtw", "order": 0.3}, {"order": 0.2, "score": 0.4, "consistency": 0.5}],
    ids=lambda fields: "-".join(map(str, fields)) or "plain",
)
def test_gradients_are_those_of_the_value(fields):
    clips = step_of()
    loss = loss_of(**fields, tau=0.5)
    direction = torch.randn(clips.embeddings.shape, generator=seeded(9), dtype=torch.float64)

    def value_at(distance: float) -> Tensor:
        return loss(replace(clips, embeddings=clips.embeddings + distance * direction))[0]

    leaf = clips.embeddings.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(replace(clips, embeddings=leaf))[0], leaf)
    slope = (value_at(1e-6) - value_at(-1e-6)) / 2e-6
    torch.testing.assert_close((grad * direction).sum(), slope.detach(), rtol=2e-6, atol=1e-8)


def test_padding_changes_nothing_bit_for_bit():
    clips = step_of()
    padding = ~clips.mask
    assert padding.any()
    results = []
    for fill in (0.0, float("nan"), 1e30):
        own = clips.embeddings.clone()
        own[padding] = fill
        moved = clips.steps.clone()
        moved[padding] = 7 if fill else 0
        own.requires_grad_()
        value, _ = loss_of(order=0.3, score=0.2)(replace(clips, embeddings=own, steps=moved))
        (grad,) = torch.autograd.grad(value, own)
        assert torch.isfinite(value)
        assert (grad[padding] == 0).all()
        assert (grad[~padding] != 0).any()
        results.append((value, grad))
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_lambda_rises_in_a_straight_line_between_the_two_shares():
    loss = loss_of(weight=0.8, ramp_start=0.2, ramp_end=0.5)
    found = []
    for done in (0.0, 0.2, 0.26, 0.35, 0.5, 0.9):
        loss.done = done
        found.append(loss.weight())
    assert found == pytest.approx([0, 0, 0.16, 0.4, 0.8, 0.8])
    assert [loss.wants_videos(until) for until in (0.1, 0.2, 0.21, 1.0)] == [False, False, True, True]
    at_once = loss_of(ramp_start=0.5, ramp_end=0.5)
    for done, expected in ((0.0, 0.0), (0.49, 0.0), (0.5, 1.0)):
        at_once.done = done
        assert at_once.weight() == expected


@pytest.mark.parametrize("fields", [{"weight": 0.0}, {"done": 0.1}], ids=["no weight", "before it rises"])
def test_without_lambda_it_is_scl_to_the_last_bit(fields):
    clips = step_of()
    own = loss_of(projection=12, **fields)
    torch.manual_seed(3)
    scl = SclLoss(build({"loss.name": "scl", "loss.projection": 12}).loss, embedding=16).double()
    assert torch.equal(own(clips)[0], scl(clips)[0])


def test_a_video_without_a_partner_of_its_action_adds_nothing():
    loss = loss_of(videos=whole())
    _, alone = loss(step_of(actions=(0, 1, 2)))
    assert alone["lambda_L_x"] == 0
    assert torch.equal(alone["total"], alone["L_c"])
    clips = step_of(actions=(0, 1, 0))
    assert loss(clips)[1]["lambda_L_x"].item() == pytest.approx(crossed_by_hand(loss, clips, whole()), rel=1e-9)
    leaf = clips.embeddings.clone().requires_grad_()
    (grad,) = torch.autograd.grad(
        loss._crossed(replace(clips, embeddings=leaf), loss._matches([(0, 2)], whole())), leaf
    )
    assert (grad[2:4] == 0).all()
    assert (grad[[0, 1, 4, 5]] != 0).any(-1).any(-1).all()


def test_so_many_pairs_of_videos_are_drawn_by_the_step_and_counted():
    loss = loss_of(partners=2, alignment="local")
    drawn = {tuple(loss._partners(step_of(seed))) for seed in range(12)}
    assert {len(pairs) for pairs in drawn} == {2}
    assert len(drawn) > 1
    assert loss._partners(step_of(4)) == loss._partners(step_of(4))
    assert loss_of(partners=3)._partners(step_of()) == [(0, 1), (0, 2), (1, 2)]
    loss(step_of())
    assert loss.diagnostics()["cross.pairs"] == 2
    assert 0 < loss.diagnostics()["cross.matched"] < 1


def test_matches_are_mixed_with_those_through_a_third_video():
    a, b, c = (torch.rand(size, generator=seeded(0), dtype=torch.float64) for size in ((3, 4), (4, 5), (3, 5)))
    every = {(0, 1): a, (1, 0): a.T, (1, 2): b, (2, 1): b.T, (0, 2): c, (2, 0): c.T}
    found = made_consistent(every, 0.25)
    torch.testing.assert_close(found[0, 2], 0.75 * c + 0.25 * a @ b)
    torch.testing.assert_close(found[1, 0], 0.75 * a.T + 0.25 * b @ c.T)
    assert torch.equal(made_consistent({(0, 1): a, (1, 0): a.T}, 0.25)[0, 1], a)


def test_order_is_rewarded_where_two_videos_share_it():
    codes = torch.linalg.qr(torch.randn(16, 16, generator=seeded(1), dtype=torch.float64))[0][:8]
    clips = step_of(videos=(0, 1), actions=(0, 0))
    alike = replace(clips, embeddings=codes.expand(4, -1, -1), lengths=torch.full((4,), 8))
    backwards = replace(alike, embeddings=torch.stack([codes, codes, codes.flip(0), codes.flip(0)]))
    loss = loss_of(order=1.0, score=1.0, videos=whole(num=2))
    forth, back = loss(alike)[1], loss(backwards)[1]
    assert forth["lambda_L_o"] < 1e-3
    assert back["lambda_L_o"] > 5
    assert forth["lambda_L_s"] < back["lambda_L_s"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"loss.ramp_start": 0.6}, "ramp_start must be <= ramp_end, got 0.6 and 0.5"),
        ({"data.pairing": "videos"}, "data.pairing: must be views with loss.name=cross, got videos"),
        ({"data.batch_size": 1}, "data.batch_size: must be >= 2 with loss.name=cross"),
        ({"loss.evidence": "features"}, "loss.evidence: must be encoder or both with data.input=videos, got features"),
    ],
)
def test_what_could_only_be_scl_or_nothing_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        build({"loss.name": "cross", **fields})


# ---------------------------------------------------------------------------------------------------------------------
# Training.


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    return make_features(tmp_path_factory.mktemp("cross") / "features")


def cross_config(root: Path, **fields):
    own = {"loss__name": "cross", "loss__ramp_start": 0.3, "loss__ramp_end": 0.6, "data__batch_size": 4, **fields}
    base = {key: value for key, value in features_config(root).flat().items() if not key.startswith("loss.")}
    return build({**base, **{key.replace("__", "."): value for key, value in own.items()}})


def test_videos_are_embedded_whole_as_they_are_evaluated_and_nothing_is_drawn(features):
    config = cross_config(features, encoder__dropout=0.3)
    videos = open_videos(config.data)
    torch.manual_seed(0)
    encoder = fit.build_encoder(config.encoder, config.data, num_features=videos.num_features).train()
    store = fit.FrameStore(config.data)
    embed = WholeEmbedder(fit.build_loss(config), videos.train, store=store, device=torch.device("cpu"))
    before = torch.get_rng_state()
    seen = embed(encoder)
    assert torch.equal(torch.get_rng_state(), before)
    assert seen.strides == [2] * len(videos.train)
    for video, own, frozen in zip(videos.train, seen.embeddings, seen.features, strict=True):
        frames = np.load(video.path).astype(np.float32)[::2]
        with torch.no_grad():
            whole = encoder(torch.from_numpy(frames)[None])[0].numpy()
        np.testing.assert_allclose(own, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)
        centred = (frames - frames.mean(0)) / np.sqrt(frames.var(0) + 1e-5)
        np.testing.assert_allclose(frozen, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-5)
    # Features that tell phases apart: frames at random are worth less than nothing, the likest ones more.
    table = seen.log_odds(0, 1, evidence="features")
    assert table.mean() < 0 < table.max()
    assert embed(encoder).features is seen.features
    torch.nn.init.constant_(encoder.project.bias, torch.nan)
    with pytest.raises(DataError, match="its embeddings must be finite"):
        embed(encoder)


def test_resumed_in_the_middle_of_its_rise_it_ends_with_the_same_bits(features, tmp_path):
    config = cross_config(features, encoder__dropout=0.2, fit__steps_per_epoch=2)
    through = [copy.deepcopy(event) for event in fit.fit(config, open_videos(config.data))]
    for event in itertools.islice(fit.fit(config, open_videos(config.data)), 2):
        checkpoint.save(event.state, tmp_path / "half.pt")
    half = checkpoint.read_checkpoint(tmp_path / "half.pt")
    after = list(fit.fit(config, open_videos(config.data), state=half))
    assert [event.parts["lambda"] for event in through] == pytest.approx([0, 1 / 8, 5 / 6, 1])
    for one, other in zip(through[2:], after, strict=True):
        assert one.parts == other.parts
        assert one.diagnostics == other.diagnostics
    for name, value in through[-1].state["encoder"].items():
        assert torch.equal(value, after[-1].state["encoder"][name]), name
    assert through[-1].parts["lambda_L_x"] > 0
    assert 1 <= through[-1].diagnostics["cross.pairs"] <= 6


def test_until_lambda_rises_it_trains_as_scl_to_the_last_bit(features):
    config = cross_config(features, loss__ramp_start=0.5, loss__ramp_end=0.5)
    scl = build({**{k: v for k, v in config.flat().items() if not k.startswith("loss.")}, "loss.name": "scl"})
    # One run after the other: they draw from one generator.
    found = [
        [copy.deepcopy(event.state["encoder"]) for event in fit.fit(own, open_videos(own.data))]
        for own in (config, scl)
    ]
    same = [all(torch.equal(one[name], other[name]) for name in one) for one, other in zip(*found, strict=True)]
    assert same == [True, True, False, False]


def test_an_action_with_one_video_is_told_once_and_one_a_video_is_refused(tmp_path, monkeypatch):
    root = make_features(tmp_path / "some", num_train=5, num_val=2)
    table = (root / "splits.csv").read_text().splitlines()
    actions = ["kick", *["jump"] * 4, "jump", "jump"]
    (root / "splits.csv").write_text(
        "\n".join(["video,split,action", *(f"{row},{own}" for row, own in zip(table[1:], actions, strict=True))]) + "\n"
    )
    said: list[str] = []
    monkeypatch.setattr(cli, "warn", said.append)
    config = cross_config(root, data__validation_share=0, fit__epochs=1)
    cli.prepare_videos(config, for_study=False)
    (told,) = [line for line in said if "no other of their action" in line]
    assert told.startswith("1 of 5 training videos have no other of their action (videos/clip00")
    videos = open_videos(config.data)
    lonely = replace(videos, training=videos.training[:2])
    with pytest.raises(ConfigError, match=r"loss.name: cross compares two .* got 2 of 2 actions"):
        next(fit.fit(config, lonely))


def test_of_several_actions_every_step_compares_videos(features):
    config = cross_config(features, data__batch_size=2, loss__ramp_start=0, loss__ramp_end=0, fit__epochs=1)
    videos = open_videos(config.data)
    mixed = [replace(video, action="abc"[n // 2]) for n, video in enumerate(videos.training[:6])]
    (event,) = fit.fit(config, replace(videos, training=mixed, held=frozenset(), val=[]))
    assert event.diagnostics["cross.pairs"] == 1


def test_positions_begin_anywhere_in_training_and_at_0_after_it(features):
    config = cross_config(features, data__position_shift=20.0)
    videos = open_videos(config.data)
    batch, again = (next(fit.PairLoader(videos.train, config.data, seed=1).epoch(0)) for _ in range(2))
    plain = next(fit.PairLoader(videos.train, cross_config(features).data, seed=1).epoch(0))
    assert plain.position_shifts is None
    assert torch.equal(batch.steps, plain.steps)
    assert torch.equal(batch.position_shifts, again.position_shifts)
    assert ((batch.position_shifts > 0) & (batch.position_shifts < 20)).all()
    assert len(batch.position_shifts.unique()) == len(batch.lengths)
    torch.manual_seed(0)
    encoder = fit.build_encoder(config.encoder, config.data, num_features=videos.num_features).eval()
    frames = batch.frames.float()
    at_zero, moved = (
        encoder(frames, batch.lengths, batch.places, shifts=shifts) for shifts in (None, batch.position_shifts)
    )
    assert torch.equal(at_zero, encoder(frames, batch.lengths, batch.places, shifts=torch.zeros(len(batch.lengths))))
    assert (at_zero - moved).abs().max() > 1e-3
