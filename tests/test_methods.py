"""The losses that LAC is compared with: the releases' numbers, and what must hold of all of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import paired
from paths import ROOT, shared
from torch import Tensor

from lacray.config import LOSS_CONFIGS, GtaConfig, LavConfig, LrpropConfig, SclConfig, TccConfig, TcnConfig, build
from lacray.losses import Clips, build_loss
from lacray.losses.gta import GtaLoss
from lacray.losses.lav import LavLoss
from lacray.losses.lrprop import LrpropLoss, propagated_steps
from lacray.losses.scl import SclLoss
from lacray.losses.tcc import TccLoss, _all_cycles, _random_cycles, follow_cycles
from lacray.losses.tcn import TcnLoss


def golden(method: str, case: int) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(shared(f"golden/loss_{method}/case{case}.npz")) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays["meta"]))


def clips_of(embeddings: Tensor, *, steps=None, video_lengths=None, lengths=None, pairs=None) -> Clips:
    num, frames, _ = embeddings.shape
    order = torch.arange(num)
    return Clips(
        embeddings,
        torch.arange(frames).expand(num, -1) if steps is None else torch.as_tensor(steps),
        torch.full((num,), frames) if lengths is None else torch.as_tensor(lengths),
        torch.full((num,), frames) if video_lengths is None else torch.as_tensor(video_lengths).long(),
        order,
        torch.zeros_like(order),
        order.unflatten(0, (-1, 2)) if pairs is None else torch.as_tensor(pairs),
    )


def read_by(config, settings):
    """The config with those of the settings that it reads."""
    return config.model_copy(update={name: value for name, value in settings.items() if name not in config.unread})


def check(loss, clips: Clips, leaf: Tensor, value: np.ndarray, grad: np.ndarray, tolerance: float = 1e-12) -> None:
    found, _ = loss(clips)
    np.testing.assert_allclose(found.item(), value, rtol=tolerance)
    (slope,) = torch.autograd.grad(found, leaf)
    np.testing.assert_allclose(slope.numpy().reshape(grad.shape), grad, rtol=0, atol=tolerance * np.abs(grad).max())


@pytest.mark.parametrize("case", range(3))
def test_npairs_are_the_releases(case: int) -> None:
    z, meta = golden("tcn", case)
    embeddings = torch.tensor(z["embs"], requires_grad=True)
    loss = TcnLoss(TcnConfig(regularization=meta["reg_lambda"]))
    check(loss, clips_of(embeddings), embeddings, z["carl_npairs_value"], z["carl_npairs_grad"])
    for number, clip in enumerate(torch.tensor(z["embs"])):
        own = clip[None].requires_grad_()
        value, grad = z["tf_npairs_per_seq_f64"][number], z["tf_npairs_grad_per_seq_f64"][number]
        check(loss, clips_of(own, pairs=[[0, 0]]), own, value, grad)
        for source in ("carl", "lav"):
            np.testing.assert_allclose(value, z[f"{source}_npairs_per_seq"][number], rtol=1e-12)


@pytest.mark.parametrize("case", range(3))
def test_n_pairs_whose_query_is_the_positive_are_those_of_positives_put_first(case: int) -> None:
    z, meta = golden("tcn", case)
    # TCC gives its loss, whose numbers these are, the positive of each pair first.
    order = np.arange(z["embs"].shape[1]).reshape(-1, 2)[:, ::-1].reshape(-1)
    embeddings = torch.tensor(z["embs"][:, order].copy(), requires_grad=True)
    loss = TcnLoss(TcnConfig(regularization=meta["reg_lambda"], query="positive"))
    check(loss, clips_of(embeddings), embeddings, z["carl_npairs_value"], z["carl_npairs_grad"][:, order])


@pytest.mark.parametrize("margin", [0.2, 0.5])
@pytest.mark.parametrize("case", range(3))
def test_triplets_are_the_lac_releases(case: int, margin: float) -> None:
    z, _ = golden("tcn", case)
    triplets = torch.tensor(z["triplets"])
    # torch's distance is |a - b + 1e-6|: what moves both others by as much makes it the one here.
    moved = (triplets - torch.tensor([0.0, 1e-6, 1e-6], dtype=torch.float64)[:, None]).requires_grad_()
    # One anchor a clip, with one positive and one negative: 10 frames are near, 25 neither, 35 far.
    clips = clips_of(moved, steps=torch.tensor([0, 10, 35]).expand(len(moved), 3), pairs=[[0, 0]])
    value, _ = TcnLoss(TcnConfig(objective="triplet", margin=margin))(clips)
    (slope,) = torch.autograd.grad(value, moved)
    key = f"lac_triplet_m{margin}_p2_mean"
    # Of two equal frames the one distance is 1e-6 in every direction, the other 1e-6 in all: no slope to compare.
    apart = ((triplets[:, 1:] - triplets[:, :1]).square().sum(-1) > 0).all(1)
    np.testing.assert_allclose(value.item(), z[f"{key}_value"], rtol=1e-10 if apart.all() else 1e-7)
    grad = z[f"{key}_grad"]
    np.testing.assert_allclose(slope[apart].numpy(), grad[apart.numpy()], rtol=0, atol=1e-10 * np.abs(grad).max())
    if f"lac_triplet_m{margin}_p2_sum_value" in z:
        np.testing.assert_allclose(len(moved) * value.item(), z[f"lac_triplet_m{margin}_p2_sum_value"], rtol=1e-7)


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
@pytest.mark.parametrize("objective", ["regression_mse_var", "regression_mse", "regression_huber", "classification"])
@pytest.mark.parametrize("case", range(3))
def test_cycles_are_the_originals(case: int, objective: str, similarity: str) -> None:
    z, meta = golden("tcc", case)
    hyper = dict(meta["hyper"])
    hyper["tau"] = hyper.pop("temperature")
    config = read_by(TccConfig(objective=objective, similarity=similarity), hyper)
    # tf-keras rounds Huber's delta to float32, LAC's port does not.
    ported = TccLoss(config)
    config = config.model_copy(update={"huber_delta": float(np.float32(config.huber_delta))})
    name = f"{objective}_{similarity}"
    embeddings = torch.tensor(z["embs"], requires_grad=True)
    clips = clips_of(embeddings, steps=z["steps"], video_lengths=z["seq_lens"])
    check(TccLoss(config), clips, embeddings, z[f"{name}__tf64_value"], z[f"{name}__tf64_grad"])
    check(ported, clips, embeddings, z[f"{name}__lac_value"], z[f"{name}__lac_grad"])
    if f"{name}_rawidx__tf64_value" in z:
        raw = config.model_copy(update={"normalize_indices": False})
        check(TccLoss(raw), clips, embeddings, z[f"{name}_rawidx__tf64_value"], z[f"{name}_rawidx__tf64_grad"])
    if name == "regression_mse_var_l2":
        # LAV's copy, of one pair.
        first = clips_of(embeddings[:2], steps=z["steps"][:2], video_lengths=z["seq_lens"][:2])
        check(TccLoss(config), first, embeddings, z["lav_pair01_value"], z["lav_pair01_grad"])
    for length, key in ((2, "stoch_cycles"), (3, "stoch_cycles3")):
        drawn = f"stoch{length}_{name}__tf64"
        if f"{drawn}_value" not in z:
            continue
        # The release names the first clip once more at the end.
        cycles, target = torch.tensor(z[key])[:, :-1].long(), torch.tensor(z["stoch_n_idx"]).long()
        loss = TccLoss(config)
        logits, target, start, weight = follow_cycles(embeddings, clips, config, cycles, target)
        steps = clips.steps / clips.video_lengths[:, None].double()
        value = (loss._value(logits, target, steps[start], clips.mask[start]) * weight).sum()
        np.testing.assert_allclose(value.item(), z[f"{drawn}_value"], rtol=1e-12)
        (slope,) = torch.autograd.grad(value, embeddings)
        grad = z[f"{drawn}_grad"]
        np.testing.assert_allclose(slope.numpy(), grad, rtol=0, atol=1e-12 * np.abs(grad).max())


@pytest.mark.parametrize("objective", ["regression_mse_var", "regression_mse", "regression_huber"])
def test_a_clip_of_one_frame_is_where_carls_port_expects_it(objective: str) -> None:
    embeddings = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    clips = clips_of(embeddings, steps=[[2], [3]], video_lengths=[9, 9])
    config = read_by(TccConfig(port="carl", objective=objective), {"variance_lambda": 0.0})
    value, _ = TccLoss(config)(clips)
    (slope,) = torch.autograd.grad(value, embeddings)
    assert value == 0
    assert not slope.any()


@pytest.mark.parametrize("similarity", ["l2", "cosine"])
@pytest.mark.parametrize("objective", ["regression_mse_var", "regression_mse", "regression_huber", "classification"])
@pytest.mark.parametrize("case", range(3))
def test_carls_port_of_the_cycles_is_carls(case: int, objective: str, similarity: str) -> None:
    z, meta = golden("tcc", case)
    hyper = dict(meta["hyper"])
    hyper["tau"] = hyper.pop("temperature")
    config = read_by(TccConfig(port="carl", objective=objective, similarity=similarity), hyper)
    name = f"{objective}_{similarity}__carl"
    embeddings = torch.tensor(z["embs"], requires_grad=True)
    clips = clips_of(embeddings, steps=z["steps"], video_lengths=z["seq_lens"])
    check(TccLoss(config), clips, embeddings, z[f"{name}_value"], z[f"{name}_grad"])
    # Two clips that stand alone, and the same with padding behind them: the labels are shared by real frames only.
    alone = clips_of(embeddings[:2], steps=z["steps"][:2], video_lengths=z["seq_lens"][:2])
    padded = clips_of(
        torch.cat([embeddings[:2], embeddings[2:4]], dim=1),
        steps=np.concatenate([z["steps"][:2], z["steps"][2:4]], axis=1),
        video_lengths=z["seq_lens"][:2],
        lengths=alone.lengths,
    )
    torch.testing.assert_close(TccLoss(config)(padded)[0], TccLoss(config)(alone)[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("setting", range(3))
@pytest.mark.parametrize("case", range(3))
def test_lav_is_the_release(case: int, setting: int) -> None:
    z, meta = golden("lav", case)
    given = meta["settings"][setting]
    config = LavConfig(
        gamma=given["dtw_gamma"],
        alpha=given["alpha"],
        margin=given["margin"],
        sigma=given["sigma"],
        debiased=given["dtw_normalize"],
        normalize=False,
    )
    a, b = (torch.tensor(z[f"{side}_emb"], requires_grad=True) for side in "ab")
    stacked = torch.stack([a, b], dim=1)
    steps = torch.stack([torch.tensor(z["a_steps"]), torch.tensor(z["b_steps"])], dim=1)
    lengths = torch.stack([torch.tensor(z["a_len"]), torch.tensor(z["b_len"])], dim=1).long()
    found, parts = LavLoss(config)(paired(stacked, steps, video_lengths=lengths))
    slopes = torch.autograd.grad(found, [a, b])
    for source in ("lav", "lac"):
        np.testing.assert_allclose(found.item(), z[f"p{setting}_{source}_value"], rtol=1e-12)
        for slope, side in zip(slopes, "ab", strict=True):
            grad = z[f"p{setting}_{source}_grad_{side}"]
            np.testing.assert_allclose(slope.numpy(), grad, rtol=0, atol=1e-12 * np.abs(grad).max())
    np.testing.assert_allclose(found.item(), z[f"p{setting}_lav_per_pair"].mean(), rtol=1e-12)
    frames = a.shape[1]
    np.testing.assert_allclose(parts["dtw"].item(), z[f"p{setting}_dtw"].mean() / frames, rtol=1e-12)
    moments = z[f"p{setting}_idm_a"] + z[f"p{setting}_idm_b"]
    np.testing.assert_allclose(parts["idm"].item(), moments.mean() / frames, rtol=1e-12)


def moments_of(clip: np.ndarray, steps: np.ndarray, length: int, *, margin: float, sigma: float, weights: str) -> float:
    """C-IDM of one clip, frame by frame; LAV, Eq. 7."""
    total = 0.0
    for one, i in zip(clip, steps, strict=True):
        for other, j in zip(clip, steps, strict=True):
            distance = ((one - other) ** 2).sum()
            weight = 1 + (i - j) ** 2 if weights == "paper" else 1 + ((i - j) / length) ** 2
            if abs(i - j) > sigma:
                total += weight * max(0.0, margin - distance)
            else:
                total += distance / weight if weights == "paper" else distance
    return total


@pytest.mark.parametrize("weights", ["release", "paper"])
def test_moments_have_the_weights_of_the_release_or_of_the_paper(weights: str) -> None:
    embeddings, steps, lengths, video_lengths = batch()
    # The release divides both sides: frames exactly sigma apart are near or far as the quotients round.
    sigma = 6.0 if weights == "paper" else 6.5
    config = LavConfig(idm=weights, alpha=0.3, margin=2.1, sigma=sigma)
    value, parts = LavLoss(config)(paired(embeddings, steps, lengths=lengths, video_lengths=video_lengths))
    expected = []
    for pair in range(2):
        sizes = lengths[pair].tolist()
        units = [F.normalize(embeddings[pair, side, :size], dim=-1).numpy() for side, size in enumerate(sizes)]
        times = [steps[pair, side, :size].numpy() for side, size in enumerate(sizes)]
        sums = [
            moments_of(unit, time, length, margin=2.1, sigma=sigma, weights=weights)
            for unit, time, length in zip(units, times, video_lengths[pair].tolist(), strict=True)
        ]
        expected.append(sum(sums) / np.mean(sizes))
    np.testing.assert_allclose(parts["idm"].item(), np.mean(expected), rtol=1e-12)
    np.testing.assert_allclose(value.item(), parts["dtw"].item() + 0.3 * np.mean(expected), rtol=1e-12)


@pytest.mark.parametrize("minimum", ["smooth", "soft"])
@pytest.mark.parametrize("consistency", [True, False])
@pytest.mark.parametrize("case", range(3))
def test_gta_is_the_original(case: int, consistency: bool, minimum: str) -> None:
    z, meta = golden("gta", case)
    hyper = {"gamma": meta["gamma_s"], "tau": meta["gamma_f"], "label_smoothing": meta["label_smoothing"]}
    config = read_by(GtaConfig(consistency=consistency, minimum=minimum, normalize=False), hyper)
    key = f"D2TW{'_consistency' * consistency}_dtw_{'prob' if minimum == 'smooth' else 'minGamma'}__tf_f64"
    embeddings = torch.tensor(z["embs"], requires_grad=True)
    pairs = [[0, other] for other in range(1, len(embeddings))]
    clips = clips_of(embeddings, pairs=pairs)
    check(GtaLoss(config), clips, embeddings, z[f"{key}_value"], z[f"{key}_grad"])
    # In float32, the original, and LAC's port where its missing transpose does not matter.
    for source in ["tf"] if consistency else ["tf", "lac"]:
        single = key.replace("tf_f64", f"{source}_f32")
        check(GtaLoss(config), clips, embeddings, z[f"{single}_value"], z[f"{single}_grad"], 2e-4)


@pytest.mark.parametrize("setting", range(4))
@pytest.mark.parametrize("case", range(3))
def test_scl_is_the_release(case: int, setting: int) -> None:
    z, meta = golden("scl", case)
    given = meta["settings"][setting]
    config = SclConfig(tau=given["t"], sigma=given["var"] ** 0.5, negatives=given["neg"], projection=0, normalize=False)
    embeddings = torch.tensor(z["embs"], requires_grad=True)
    lengths = torch.tensor(z["masks"]).sum(-1).long()
    clips = paired(
        embeddings, torch.tensor(z["steps"]), lengths=lengths, video_lengths=torch.tensor(z["seq_lens"]).long()
    )
    # The release gives frames of the padding a weight of 1e-6 in its softmax; here they have none.
    tolerance = 1e-12 if (lengths == embeddings.shape[2]).all() else 1e-5
    loss = SclLoss(config, embedding=embeddings.shape[-1])
    for source in ("carl", "lac"):
        name = f"p{setting}_{source}"
        check(loss, clips, embeddings, z[f"{name}_value"], z[f"{name}_grad"], tolerance)
    single = replace(clips, embeddings=clips.embeddings.detach().float().requires_grad_())
    # Where all targets of a row underflow the release drops the row, in float32 alone; here none does.
    if np.isclose(z[f"p{setting}_carl_value_float32"], z[f"p{setting}_carl_value"], rtol=1e-4):
        name = f"p{setting}_carl"
        value, grad = z[f"{name}_value_float32"], z[f"{name}_grad_float32"]
        check(loss, single, single.embeddings, value, grad, 1e-5)


@pytest.mark.parametrize(("fields", "widths"), [({}, (128, 128)), ({"projection_hidden": 512}, (512, 128))])
def test_the_head_of_scl_has_the_widths_of_its_settings(fields: dict, widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    loss = SclLoss(SclConfig(normalize=False, **fields), embedding=16).double()
    first, _, second = loss.projection
    assert (first.weight.shape, second.weight.shape) == ((widths[0], 16), (widths[1], widths[0]))
    frames = torch.randn(3, 5, 16, dtype=torch.float64)
    hidden = np.maximum(frames.numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    expected = hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()
    np.testing.assert_allclose(loss.projected(frames).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_triplets_are_drawn_from_what_is_near_and_what_is_far(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(1, 2, 6, 8, generator=generator, dtype=torch.float64)
    # Of the first clip five frames are real; the second has nothing that is far.
    steps = torch.tensor([[[0, 2, 5, 8, 12 + seed, 3], [0, 1, 2, 3, 4, 5]]])
    config = TcnConfig(objective="triplet", margin=1.7, positive_window=3, negative_window=6)
    found, _ = TcnLoss(config)(paired(embeddings, steps, lengths=torch.tensor([[5, 6]])))
    frames, times = embeddings[0, 0, :5].numpy(), steps[0, 0, :5].numpy()
    choices = []
    for anchor, time in zip(frames, times, strict=True):
        distances, apart = np.linalg.norm(frames - anchor, axis=1), np.abs(times - time)
        near, far = distances[(apart > 0) & (apart <= 3)], distances[apart > 6]
        terms = [max(0.0, positive - negative + 1.7) for positive in near for negative in far]
        if terms:
            choices.append(terms)
    possible = [np.mean(terms) for terms in itertools.product(*choices)]
    assert len(possible) > 1
    assert np.isclose(possible, found.item(), rtol=1e-10, atol=0).sum() == 1


VARIANTS = [
    {"loss.name": "tcn", "data.positive_window": 5},
    {"loss.name": "tcn", "data.positive_window": 5, "loss.query": "positive"},
    {"loss.name": "tcn", "loss.objective": "triplet", "loss.positive_window": 3, "loss.negative_window": 5},
    {"loss.name": "tcc"},
    {"loss.name": "tcc", "loss.objective": "classification", "loss.similarity": "cosine"},
    {"loss.name": "tcc", "loss.port": "carl"},
    {"loss.name": "tcc", "loss.port": "carl", "loss.objective": "classification"},
    {"loss.name": "tcc", "loss.stochastic": True, "loss.cycle_length": 3},
    {"loss.name": "lav"},
    {"loss.name": "lav", "loss.debiased": True},
    {"loss.name": "lav", "loss.idm": "paper"},
    {"loss.name": "gta"},
    {"loss.name": "gta", "loss.minimum": "soft", "loss.consistency": False},
    {"loss.name": "scl"},
    {"loss.name": "scl", "loss.negatives": "single", "loss.projection_hidden": 512},
    {"loss.name": "scl", "loss.negatives": "noself", "loss.projection": 0},
    {"loss.name": "lrprop"},
    {"loss.name": "lac"},
]


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 2, 12, 128, generator=generator, dtype=dtype)
    steps = torch.stack([torch.randperm(30, generator=generator)[:12].sort().values for _ in range(4)]).unflatten(
        0, (2, 2)
    )
    return embeddings, steps, torch.tensor([[12, 9], [7, 10]]), torch.tensor([[40, 35], [35, 38]])


@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: "-".join(map(str, values.values())))
def test_padding_changes_nothing_bit_for_bit(values: dict) -> None:
    torch.manual_seed(0)
    loss = build_loss(build({**values, "data.num_frames": 12})).double()
    embeddings, steps, lengths, video_lengths = batch()
    results = []
    for fill in (0.0, float("nan"), 1e30):
        own = embeddings.clone()
        padding = torch.arange(12) >= lengths[..., None]
        own[padding] = fill
        own.requires_grad_()
        moved = steps.clone()
        moved[padding] = 7 if fill else 0
        value, parts = loss(paired(own, moved, lengths=lengths, video_lengths=video_lengths))
        assert torch.isfinite(value)
        (grad,) = torch.autograd.grad(value, own)
        assert torch.isfinite(grad).all()
        assert (grad[padding] == 0).all()
        assert (grad[~padding] != 0).any()
        assert parts["total"] == value
        results.append((value, grad))
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("values", VARIANTS, ids=lambda values: "-".join(map(str, values.values())))
def test_gradients_are_those_of_the_value(values: dict) -> None:
    torch.manual_seed(0)
    loss = build_loss(build({**values, "data.num_frames": 12, "encoder.embedding": 128})).double()
    embeddings, steps, lengths, video_lengths = batch()
    embeddings = embeddings * 0.3
    direction = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value_at(distance: float) -> Tensor:
        return loss(paired(embeddings + distance * direction, steps, lengths=lengths, video_lengths=video_lengths))[0]

    leaf = embeddings.clone().requires_grad_()
    value, _ = loss(paired(leaf, steps, lengths=lengths, video_lengths=video_lengths))
    (grad,) = torch.autograd.grad(value, leaf)
    slope = (value_at(1e-6) - value_at(-1e-6)) / 2e-6
    torch.testing.assert_close((grad * direction).sum(), slope.detach(), rtol=2e-6, atol=1e-8)


def test_every_method_has_a_config_and_a_loss_of_its_name() -> None:
    for name in LOSS_CONFIGS:
        window = {"data.positive_window": 5} if name == "tcn" else {}
        assert build_loss(build({"loss.name": name, **window})).config.name == name


def test_labels_are_carried_along_the_path() -> None:
    # (0,0) (1,0) (1,1) (2,2): row 1 lies between columns 0 and 1.
    path = torch.tensor([[[0, 0], [1, 0], [1, 1], [2, 2], [-1, -1]]])
    rows, columns = propagated_steps(path, torch.tensor([[10, 20, 30]]), torch.tensor([[1, 2, 3]]))
    assert rows.tolist() == [[10, 15, 30]]
    assert columns.tolist() == [[1.5, 2, 3]]


def log_sum_of_paths(cost: np.ndarray, gamma: float) -> tuple[float, list[tuple[int, int]]]:
    """-gamma log sum exp(-cost / gamma) over all warping paths, and the best of them, by going through each."""
    paths: list[list[tuple[int, int]]] = [[(0, 0)]]
    ended = []
    while paths:
        path = paths.pop()
        i, j = path[-1]
        steps = [(i + 1, j), (i, j + 1), (i + 1, j + 1)]
        further = [cell for cell in steps if cell[0] < cost.shape[0] and cell[1] < cost.shape[1]]
        paths += [[*path, cell] for cell in further]
        if not further:
            ended.append((sum(cost[cell] for cell in path), path))
    sums = np.array([total for total, _ in ended])
    return sums.min() - gamma * np.log(np.exp(-(sums - sums.min()) / gamma).sum()), min(ended)[1]


def test_lrprop_is_what_its_page_says() -> None:
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(2, 2, 6, 8, generator=generator, dtype=torch.float64)
    steps = torch.tensor([[[0, 4, 5, 9, 16, 30], [2, 3, 11, 12, 20, 0]], [[1, 6, 8, 20, 0, 0], [0, 5, 13, 14, 17, 22]]])
    lengths, video_lengths = torch.tensor([[6, 5], [4, 6]]), torch.tensor([[33, 21], [25, 40]])
    fields = {"tau": 0.2, "sigma": 2.5, "alpha": 0.6, "gamma": 0.3, "idm_weight": 0.4, "margin": 2.2, "idm_sigma": 6.5}
    config = LrpropConfig(**fields)
    value, parts = LrpropLoss(config)(paired(embeddings, steps, lengths=lengths, video_lengths=video_lengths))
    labels, alignments = [], []
    for pair in range(2):
        sizes = lengths[pair].tolist()
        clips = [F.normalize(embeddings[pair, side, :size], dim=-1).numpy() for side, size in enumerate(sizes)]
        times = [steps[pair, side, :size].numpy() for side, size in enumerate(sizes)]
        cost = ((clips[0][:, None] - clips[1][None]) ** 2).sum(-1)
        warping, path = log_sum_of_paths(cost, 0.3)
        divergences = []
        for here, there in ((0, 1), (1, 0)):
            rows = []
            for number, frame in enumerate(clips[here]):
                matched = [times[there][cell[there]] for cell in path if cell[here] == number]
                target = np.exp(-((np.mean(matched) - times[there]) ** 2) / (2 * 2.5**2))
                target /= target.sum()
                found = np.exp(clips[there] @ frame / 0.2)
                found /= found.sum()
                rows.append((target * np.log(target / found)).sum())
            divergences.append(np.mean(rows))
        labels.append(np.mean(divergences))
        moments = [
            moments_of(clip, time, length, margin=2.2, sigma=6.5, weights="release")
            for clip, time, length in zip(clips, times, video_lengths[pair].tolist(), strict=True)
        ]
        alignments.append((warping + 0.4 * sum(moments)) / np.mean(sizes))
    np.testing.assert_allclose(parts["labels"].item(), np.mean(labels), rtol=1e-12)
    np.testing.assert_allclose(parts["alignment"].item(), np.mean(alignments), rtol=1e-12)
    np.testing.assert_allclose(value.item(), np.mean(labels) + 0.6 * np.mean(alignments), rtol=1e-12)


def test_lrprop_of_equal_clips_has_labels_on_the_diagonal() -> None:
    torch.manual_seed(0)
    one = torch.randn(1, 1, 8, 16, dtype=torch.float64)
    steps = torch.arange(0, 80, 10)[None, None].expand(1, 2, -1)
    config = build({"loss.name": "lrprop"}).loss
    _, same = LrpropLoss(config)(paired(one.expand(-1, 2, -1, -1), steps))
    _, reversed_ = LrpropLoss(config)(paired(torch.cat([one, one.flip(2)], dim=1), steps))
    assert same["labels"] < reversed_["labels"]


@pytest.mark.parametrize("fields", [{}, {"loss.stochastic": True, "loss.cycle_length": 3}], ids=["all", "random"])
def test_cycles_never_lead_through_another_action(fields: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    leaf = torch.randn(7, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    steps = torch.arange(0, 60, 10).expand(7, -1)
    loss = TccLoss(build({"loss.name": "tcc", "loss.objective": "regression_mse", **fields}).loss)
    # Three clips of one action and four of another, mixed.
    action = torch.tensor([4, 0, 0, 4, 0, 4, 0])
    clips = replace(clips_of(leaf, steps=steps, video_lengths=torch.full((7,), 60), pairs=[[0, 3]]), action=action)
    logits, _, start, _ = (_random_cycles if fields else _all_cycles)(leaf, clips, loss.config)
    (grad,) = torch.autograd.grad(logits[action[start] == 4].sum(), leaf)
    assert (grad[action == 4] != 0).any(-1).any(-1).all()
    assert (grad[action == 0] == 0).all()
    if not fields:
        # 3 x 2 ordered pairs of the one, 4 x 3 of the other; each counts the same.
        parts = [
            loss(clips_of(leaf[action == a], steps=steps[: int((action == a).sum())], pairs=[[0, 1]]))[0]
            for a in (4, 0)
        ]
        clips = replace(clips, video_lengths=torch.full((7,), 6))
        torch.testing.assert_close(loss(clips)[0], (6 * parts[0] + 12 * parts[1]) / 18)


def test_in_cycles_every_ordered_pair_of_clips_counts_the_same_whatever_its_length() -> None:
    embeddings, steps, lengths, video_lengths = (x[:1] for x in batch())
    config = build({"loss.name": "tcc", "loss.objective": "regression_mse", "loss.normalize_indices": False}).loss
    found, _ = TccLoss(config)(paired(embeddings, steps, lengths=lengths, video_lengths=video_lengths))
    clips = [embeddings[0, side, :length].numpy() for side, length in enumerate(lengths[0].tolist())]
    times = [steps[0, side, :length].numpy() for side, length in enumerate(lengths[0].tolist())]

    def softmax(logits: np.ndarray) -> np.ndarray:
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def distances(frame: np.ndarray, clip: np.ndarray) -> np.ndarray:
        return -((clip - frame) ** 2).sum(1) / 128 / 0.1

    means = []
    for here, there in ((0, 1), (1, 0)):
        errors = []
        for number, frame in enumerate(clips[here]):
            neighbour = softmax(distances(frame, clips[there])) @ clips[there]
            back = softmax(distances(neighbour, clips[here])) @ times[here]
            errors.append((back - times[here][number]) ** 2)
        means.append(np.mean(errors))
    np.testing.assert_allclose(found.item(), np.mean(means), rtol=1e-12)


def test_every_row_of_the_page_of_methods_has_as_many_cells_as_its_header() -> None:
    header = None
    for line in (ROOT / "docs" / "methods.md").read_text().splitlines():
        cells = line.count("|") if line.startswith("|") else None
        assert None in (cells, header) or cells == header, line
        header = None if cells is None else header or cells
