"""The LAC loss against vectors of the release and of the paper's equations, and against cases solved by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pairs import paired
from paths import shared

from lacray.config import ConfigError, LacConfig, build
from lacray.losses import build_loss
from lacray.losses.lac import ALIGNMENTS, LacLoss
from lacray.losses.parts import gaussian_log_targets, similarity
from lacray.ops import needleman_wunsch, soft_sw

CASES = [(case, setting) for case in range(3) for setting in range(3)]


def golden(case: int):
    z = np.load(shared(f"golden/loss_lac/case{case}.npz"))
    return z, json.loads(str(z["meta"]))["settings"]


def golden_loss(z, settings, number: int, **fields) -> LacLoss:
    """A float64 loss with a golden setting's parameters and per-cell penalties."""
    setting = settings[number]
    values = {
        "sigma": math.sqrt(setting["var"]),
        "gamma": setting["temperature"],
        "tau": setting["temperature"],
        "similarity_eps": 0.0,
        "time_scale": "frames",
        **fields,
    }
    loss = LacLoss(LacConfig(**values), num_frames=z["embs"].shape[2]).double()
    with torch.no_grad():
        loss.raw_gap_open.copy_(torch.from_numpy(z[f"p{number}_gap_open"]))
        loss.raw_gap_extend.copy_(torch.from_numpy(z[f"p{number}_gap_extend"]))
    return loss


def check(loss: LacLoss, z, number: int, kind: str) -> None:
    embeddings = torch.from_numpy(z["embs"]).requires_grad_()
    value, parts = loss(paired(embeddings, torch.from_numpy(z["steps"])))
    value.backward()
    key = f"p{number}_{kind}"
    np.testing.assert_allclose(value.item(), z[f"{key}_value"], rtol=1e-12)
    for name, found in (("embs", embeddings), ("gap_open", loss.raw_gap_open), ("gap_extend", loss.raw_gap_extend)):
        grad = z[f"{key}_grad_{name}"]
        np.testing.assert_allclose(found.grad.numpy(), grad, rtol=0, atol=1e-12 * np.abs(grad).max())
    L_c, L_l, sw12, sw21 = z[f"{key}_parts"].mean(axis=0)
    np.testing.assert_allclose(parts["L_c"].item(), L_c, rtol=1e-12)
    np.testing.assert_allclose(parts["L_l"].item(), L_l, rtol=1e-12)
    np.testing.assert_allclose(parts["L_sw"].item(), sw12 + sw21, rtol=1e-12)


@pytest.mark.parametrize(("case", "number"), CASES)
def test_released_preset_gives_the_value_and_the_true_gradient_of_the_release(case, number):
    z, settings = golden(case)
    # match_gradient: the golden gradient is the forward's true one; the release drops what flows through D.
    loss = golden_loss(z, settings, number, preset="released", match_gradient=True)
    check(loss, z, number, "exact")
    value, _ = loss(paired(torch.from_numpy(z["embs"]), torch.from_numpy(z["steps"])))
    np.testing.assert_allclose(value.item(), z[f"p{number}_sw_value"], rtol=1e-12)


@pytest.mark.parametrize(("case", "number"), CASES)
def test_released_contrastive_part_alone_is_the_release_without_alignment(case, number):
    z, settings = golden(case)
    config = LacConfig(
        preset="released",
        alpha=0,
        sigma=math.sqrt(settings[number]["var"]),
        tau=settings[number]["temperature"],
        time_scale="frames",
    )
    loss = LacLoss(config, num_frames=z["embs"].shape[2]).double()
    embeddings = torch.from_numpy(z["embs"]).requires_grad_()
    value, parts = loss(paired(embeddings, torch.from_numpy(z["steps"])))
    value.backward()
    np.testing.assert_allclose(value.item(), z[f"p{number}_nosw_value"], rtol=1e-12)
    grad = z[f"p{number}_nosw_grad_embs"]
    np.testing.assert_allclose(embeddings.grad.numpy(), grad, rtol=0, atol=1e-12 * np.abs(grad).max())
    assert set(parts) == {"L_c", "total"}


@pytest.mark.parametrize(("case", "number"), CASES)
def test_scores_and_matches_of_both_directions_are_the_releases(case, number):
    z, settings = golden(case)
    one, other = torch.from_numpy(z["embs"]).unbind(1)
    opening, extending = (torch.from_numpy(z[f"p{number}_gap_{name}"]) for name in ("open", "extend"))
    table = similarity(one, other, kind="inverse_squared", eps=0.0)
    for key, side in (("12", table), ("21", table.mT)):
        score, match = soft_sw(side, opening, extending, gamma=settings[number]["temperature"])
        np.testing.assert_allclose(score.numpy(), z[f"p{number}_sw{key}"], rtol=1e-12)
        np.testing.assert_allclose(match.numpy(), z[f"p{number}_D{key}"], rtol=1e-12)


@pytest.mark.parametrize(("case", "number"), CASES)
@pytest.mark.parametrize(("kind", "combine"), [("paper", "matmul"), ("paperelem", "product")])
def test_printed_equations_give_the_golden_reading_of_them(case, number, kind, combine):
    z, settings = golden(case)
    fields = {"preset": "paper", "similarity": "inverse_squared", "combine": combine, "normalize": False}
    check(golden_loss(z, settings, number, **fields), z, number, kind)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    embeddings = torch.randn(3, 2, 9, 8, dtype=torch.float64)
    steps = torch.sort(torch.stack([torch.randperm(40)[:9] for _ in range(6)]).unflatten(0, (3, 2)), dim=-1).values
    lengths = torch.tensor([[9, 6], [4, 9], [7, 7]])
    return embeddings, steps, lengths


VARIANTS = [
    {},
    {"alignment": "end_to_end"},
    {"alignment": "dtw", "gap": "fixed"},
    {"combine": "cycle"},
    {"combine": "matmul"},
    {"symmetric": False},
    {"score_sign": -1},
    {"similarity": "cosine"},
    {"similarity": "rbf"},
    {"similarity": "negative_squared"},
    {"similarity": "inverse"},
    {"gap": "fixed"},
    {"gap": "position"},
    {"preset": "released"},
    {"preset": "paper"},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
@pytest.mark.parametrize("garbage", [1e6, math.nan, math.inf])
def test_masked_frames_change_nothing(pair, fields, garbage):
    embeddings, steps, lengths = pair
    loss = LacLoss(LacConfig(alpha=0.5, **{"preset": "lacray", **fields}), num_frames=9).double()
    clean = embeddings.clone().requires_grad_()
    value, _ = loss(paired(clean, steps, lengths=lengths))
    value.backward()
    beyond = torch.arange(9) >= lengths[..., None]
    dirty = embeddings.masked_fill(beyond[..., None], garbage).requires_grad_()
    other, _ = loss(paired(dirty, steps.masked_fill(beyond, 10**6), lengths=lengths))
    other.backward()
    assert value.item() == other.item()
    assert torch.equal(dirty.grad, clean.grad)
    assert (dirty.grad[beyond] == 0).all()


@pytest.mark.parametrize("fields", [v for v in VARIANTS if "preset" not in v and v.get("gap") != "position"], ids=str)
def test_padded_pairs_equal_the_same_pairs_cut_to_their_lengths(pair, fields):
    embeddings, steps, lengths = pair
    config = LacConfig(alpha=0.5, **{"preset": "lacray", **fields})
    # matmul multiplies tables whose inner sizes must agree, so only its pair of equal lengths can be cut.
    for number in [2] if fields.get("combine") == "matmul" else range(3):
        n, m = lengths[number].tolist()
        padded, _ = LacLoss(config, num_frames=9).double()(
            paired(embeddings[number : number + 1], steps[number : number + 1], lengths=lengths[number : number + 1])
        )
        longest = max(n, m)
        cut, _ = LacLoss(config, num_frames=longest).double()(
            paired(
                embeddings[number : number + 1, :, :longest],
                steps[number : number + 1, :, :longest],
                lengths=lengths[number : number + 1],
            )
        )
        assert padded.item() == pytest.approx(cut.item(), rel=1e-12)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_gradient_is_the_slope_of_the_value(pair, fields):
    embeddings, steps, lengths = pair
    if fields == {"preset": "released"}:
        fields = {**fields, "match_gradient": True, "similarity_eps": 0.1}
    loss = LacLoss(LacConfig(alpha=0.5, **{"preset": "lacray", **fields}), num_frames=9).double()

    def value(z, *gaps):
        parameters = dict(zip(("raw_gap_open", "raw_gap_extend"), gaps, strict=False))
        return torch.func.functional_call(loss, parameters, (paired(z, steps, lengths=lengths),))[0]

    gaps = [p.detach().clone().requires_grad_() for p in loss.parameters()]
    assert torch.autograd.gradcheck(value, (embeddings.requires_grad_(), *gaps), fast_mode=True)


def test_dropping_the_match_gradient_leaves_the_value_and_stops_l_l_from_training(pair):
    embeddings, steps, lengths = pair
    gradients, values = [], []
    for fields in ({"match_gradient": True}, {"match_gradient": False}, {"local": False}):
        loss = LacLoss(LacConfig(alpha=0.5, **fields), num_frames=9).double()
        z = embeddings.clone().requires_grad_()
        value, _ = loss(paired(z, steps, lengths=lengths))
        value.backward()
        gradients.append(z.grad)
        values.append(value.item())
    assert values[0] == values[1] != values[2]
    assert not torch.allclose(gradients[0], gradients[1])
    assert torch.allclose(gradients[1], gradients[2], atol=1e-15)


def test_targets_of_rows_that_underflow_do_not_vanish():
    steps = torch.tensor([[0, 500]]), torch.tensor([[0, 1, 2]])
    log_targets = gaussian_log_targets(*steps, sigma=1.0, mask_to=torch.ones(1, 3, dtype=torch.bool))
    # exp(-500^2 / 2) is 0 in any precision, yet all of the row's mass belongs to the nearest frame.
    assert log_targets.exp()[0, 1].tolist() == pytest.approx([0, 0, 1])
    assert log_targets.exp().sum(-1).tolist() == [pytest.approx([1.0, 1.0])]


def test_contrastive_loss_of_two_frames_solved_by_hand():
    z = torch.tensor([[[[1.0, 0], [0, 1]], [[1.0, 0], [0, 1]]]], dtype=torch.float64)
    steps = torch.tensor([[[0, 2], [0, 2]]])
    config = LacConfig(alpha=0, tau=0.5, sigma=1.0, symmetric=False)
    value, _ = LacLoss(config, num_frames=2)(paired(z, steps))
    near, far = 1 / (1 + math.exp(-2)), math.exp(-2) / (1 + math.exp(-2))  # G(0), G(2) normalised; e^(0 - 2)
    log_near, log_far = -math.log(1 + math.exp(-2)), -2 - math.log(1 + math.exp(-2))  # logits 2 and 0
    assert value.item() == pytest.approx(-(near * log_near + far * log_far), rel=1e-12)


def test_sign_of_the_score_and_its_weight():
    torch.manual_seed(1)
    z, steps = torch.randn(2, 2, 5, 4), torch.arange(5).expand(2, 2, 5)
    values = {}
    for sign in (1, -1):
        config = LacConfig(alpha=0.3, beta=0.7, local=False, score_sign=sign)
        values[sign], parts = LacLoss(config, num_frames=5)(paired(z, steps))
    assert (values[1] - values[-1]).item() == pytest.approx(2 * 0.3 * 0.7 * parts["L_sw"].item(), rel=1e-5)


def test_alignment_from_end_to_end_is_one_word(pair):
    embeddings, steps, lengths = pair
    fields = {"local": False, "alpha": 1.0, "gamma": 1e-5, "gap": "fixed", "gap_open": 0.7, "gap_extend": 0.2}
    loss = LacLoss(LacConfig(**fields, alignment="end_to_end"), num_frames=embeddings.shape[2]).double()
    _, parts = loss(paired(embeddings, steps, lengths=lengths))
    similar = similarity(*F.normalize(embeddings, dim=-1).unbind(1), kind="inverse_squared", eps=0.1)
    there, _ = needleman_wunsch(similar, 0.7, 0.2, lengths=lengths)
    back, _ = needleman_wunsch(similar.transpose(1, 2), 0.7, 0.2, lengths=lengths.flip(1))
    np.testing.assert_allclose(parts["L_sw"].item(), (there + back).mean().item(), rtol=1e-4)


def warping_paths(n, m):
    """Every way from the first cell to the last of an n x m table by steps down, right and both."""
    if (n, m) == (1, 1):
        return [[(0, 0)]]
    before = [(n - 1, m - 1), (n - 1, m), (n, m - 1)]
    return [[*path, (n - 1, m - 1)] for a, b in before if a > 0 and b > 0 for path in warping_paths(a, b)]


@pytest.mark.parametrize("gamma", [0.3, 5.0])
def test_dtw_scores_every_warping_path_by_the_similarity_along_it(gamma):
    torch.manual_seed(2)
    lengths = torch.tensor([[4, 3]])
    table = torch.rand(1, 5, 5, dtype=torch.float64)
    none = torch.zeros(())
    score, match = ALIGNMENTS["dtw"](table, none, none, gamma=gamma, lengths=lengths)
    # The match table at (i, j) is the score of the two clips cut there.
    for n, m in ((4, 3), (2, 3), (4, 1)):
        sums = [sum(table[0, i, j].item() for i, j in path) for path in warping_paths(n, m)]
        expected = gamma * math.log(sum(math.exp(total / gamma) for total in sums))
        assert match[0, n - 1, m - 1].item() == pytest.approx(expected, rel=1e-12)
    assert score.item() == pytest.approx(match[0, 3, 2].item(), rel=1e-12)


def test_dtw_has_no_gaps_to_be_learned():
    with pytest.raises(ConfigError, match="gap must be fixed with alignment dtw, which has no gaps, got scalar"):
        build({"loss.name": "lac", "loss.alignment": "dtw"})
    assert build({"loss.name": "lac", "loss.alignment": "dtw", "loss.gap": "fixed"}).loss.alignment == "dtw"


@pytest.mark.parametrize("transform", ["softplus", "raw"])
@pytest.mark.parametrize("gap", ["fixed", "scalar", "position"])
def test_penalties_start_at_their_initial_values(gap, transform):
    loss = LacLoss(LacConfig(gap=gap, gap_transform=transform, gap_open=2.5, gap_extend=0.03), num_frames=4)
    opening, extending = loss.gap_penalties()
    assert opening.shape == ((4, 4) if gap == "position" else ())
    assert torch.allclose(opening, torch.tensor(2.5))
    assert torch.allclose(extending, torch.tensor(0.03))
    assert len(list(loss.parameters())) == (0 if gap == "fixed" else 2)
    assert loss.diagnostics() == pytest.approx({"gap.open": 2.5, "gap.extend": 0.03})


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(2)
    z, steps = torch.randn(2, 2, 12, 8), torch.arange(12).expand(2, 2, 12)
    loss = build_loss(build({"loss.name": "lac", "data.num_frames": 12}))
    rounded = z.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = loss(paired(rounded, steps))
    assert value.dtype == torch.float32
    assert value.item() == loss(paired(rounded.float(), steps))[0].item()


def test_position_penalties_refuse_clips_of_another_length():
    loss = LacLoss(LacConfig(gap="position"), num_frames=8)
    with pytest.raises(ValueError, match=r"built for clips of 8 frames, got 5.*gap=scalar"):
        loss(paired(torch.randn(1, 2, 5, 4), torch.arange(5).expand(1, 2, 5)))


def test_a_field_that_is_given_wins_over_its_preset():
    config = build({"loss.name": "lac", "loss.preset": "released", "loss.tau": 0.2}).loss
    assert (config.tau, config.combine, config.normalize) == (0.2, "matmul", False)


def test_softplus_refuses_penalties_it_cannot_reach():
    with pytest.raises(ConfigError, match=r"gap_open and gap_extend must be > 0 with gap_transform softplus, got 0.0"):
        build({"loss.name": "lac", "loss.gap_open": 0.0})
