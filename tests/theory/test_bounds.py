"""Bounds: known numbers, what has none and why, and what is refused."""

import math

import numpy as np
import pytest
import torch

from epsbook.losses import AGCELoss, BootstrapLoss, CELoss, ClippedCELoss, EpsCELoss
from epsbook.losses import EpsFocalLoss, GCELoss, LossSum, MAELoss, MSELoss
from epsbook.losses import NCELoss, NNCELoss, NoiseAdaptationLoss, RCELoss, SCELoss
from epsbook.noise import NoiseSpec
from epsbook.theory import bounds
from epsbook.theory.shape import shape

# Ranges of the sum, computed by an independent search over the simplex.
RANGES = {
    10: {0: 142.8, 1e2: 103.5, 1e3: 82.9, 1e4: 62.2, 1e5: 41.4, 1e6: 20.7, 1e7: 2.77},
    100: {0: 1363, 1e2: 910.8, 1e3: 683.8, 1e4: 455.9, 1e5: 227.9, 1e6: 35.8},
}


@pytest.mark.parametrize("k, m", [(k, m) for k, row in RANGES.items() for m in row])
def test_the_spread_of_epsilon_softmax(k, m):
    known = RANGES[k][m]
    assert shape(EpsCELoss(m=m), k).spread == pytest.approx(known, rel=1e-3, abs=0.06)


def test_without_a_slope_there_is_no_spread():
    s = shape(EpsCELoss(m=6e7), 10)
    assert s.spread < 1e-6 and s.room == 0 and s.ratio == 1


@pytest.mark.parametrize(
    "m, error", [(1e3, 0.87), (1e4, 0.50), (1e5, 0.27), (1e6, 0.11)]
)
def test_errors_at_forty_percent(m, error):
    found = bounds.zero_one(EpsCELoss(m=m), 10, NoiseSpec.symmetric(0.4))
    assert found == pytest.approx(error, abs=0.006)


@pytest.mark.parametrize(
    "rate, alone, both",
    [(0.2, 0.097, 0.0023), (0.4, 0.27, 0.0065), (0.6, 0.68, 0.016), (0.8, None, 0.065)],
)
def test_published_settings_of_cifar10(rate, alone, both):
    noise = NoiseSpec.symmetric(rate)
    found = bounds.zero_one(EpsCELoss(m=1e5), 10, noise)
    assert found == pytest.approx(alone or math.inf, rel=0.02)
    loss = 0.01 * EpsCELoss(m=1e5) + 5 * MAELoss()
    assert bounds.zero_one(loss, 10, noise) == pytest.approx(both, rel=0.03)
    assert bounds.zero_one(MAELoss(), 10, noise) == 0
    assert rate < bounds.breakdown(loss, 10)


def test_asymmetric_cifar10():
    noise = NoiseSpec.asymmetric(0.4, {9: 1, 2: 0, 3: 5, 5: 3, 4: 7})
    loss = 0.02 * EpsCELoss(m=1e3) + 5 * MAELoss()
    assert bounds.zero_one(loss, 10, noise) == pytest.approx(0.32, abs=0.005)
    assert bounds.odds(noise, 10) == pytest.approx(2 / 3)
    assert bounds.published(1, noise, 10) == pytest.approx(10)
    assert bounds.any_noise(2, noise, 10) == pytest.approx(2)


def test_the_share_of_classes_counts():
    noise = NoiseSpec.asymmetric(0.4, {0: 1})
    none = [0.0, *[1 / 9] * 9]
    assert bounds.any_noise(2, noise, 10, p_y=none) == 0
    assert bounds.any_noise(2, noise, 10, p_y=np.eye(10)[0]) == pytest.approx(4)


@pytest.mark.parametrize(
    "loss, why",
    [
        (CELoss(), "not bounded"),
        (EpsCELoss(m=1, tau=0), "not bounded without its floor"),
        (EpsFocalLoss(m=1), "nothing is proved here about EpsFocalLoss"),
        (ClippedCELoss(max_loss=3), "neither convex nor concave"),
        (MSELoss(), "nothing is proved here about MSELoss"),
        (BootstrapLoss(beta=0.8), "nothing is proved"),
        (MAELoss() - GCELoss(q=0.5), "subtracted"),
        (NCELoss(), "about what a mistake costs"),
        (MAELoss(weight=torch.tensor([1.0] * 10)), "classes have weights"),
        (5 * EpsCELoss(m=1, weight=torch.ones(10)), "classes have weights"),
    ],
)
def test_no_bound_says_why(loss, why):
    found = bounds.zero_one(loss, 10, NoiseSpec.symmetric(0.3))
    assert found == math.inf and str(found).startswith("no bound: ")
    assert why in str(found) and why in repr(found)


def test_too_much_noise_says_so():
    for noise in (NoiseSpec.symmetric(0.9), NoiseSpec.pair(0.5)):
        assert str(bounds.excess_risk(MAELoss(), 10, noise)).startswith("no bound")
    loss = EpsCELoss(m=1e5)
    found = bounds.zero_one(loss, 10, NoiseSpec.symmetric(0.8))
    assert str(found) == "no bound: 2.7, and an error is below 1"


@pytest.mark.parametrize("k", [2, 3, 10, 100])
@pytest.mark.parametrize(
    "loss",
    [
        GCELoss(q=0.5),
        AGCELoss(a=6, q=1.5),
        RCELoss(),
        NCELoss() + RCELoss(),
        NNCELoss(),
        2 * EpsCELoss(m=1e4) + 3 * GCELoss(q=0.7),
        EpsCELoss(m=1e4) + EpsCELoss(m=10) + NCELoss(),
    ],
)
def test_no_sum_of_random_answers_leaves_the_spread(loss, k):
    g = torch.Generator().manual_seed(k)
    width = torch.logspace(-2, 2, 4000, dtype=torch.float64)[:, None]
    h = width * torch.randn(4000, k, generator=g, dtype=torch.float64)
    h = torch.cat([h, torch.zeros(1, k).double(), 800 * torch.eye(k).double()])
    table, of = loss.per_class(h), shape(loss, k)
    table = table - table[-1, -1]  # a sure and right answer counts as 0
    S = table.sum(1)
    assert S.max() - S.min() <= of.spread + 1e-9
    assert (k - 1) * of.largest - S.min() <= of.room + 1e-9
    assert table.max() <= of.largest + 1e-9
    label_wins = table.argmin(1)[:, None] == torch.arange(k)
    top = h.argmax(1)[:, None] == torch.arange(k)
    assert table[~top & (h < h.max(1, keepdim=True).values)].min() >= of.mistake - 1e-9
    assert label_wins.any()


def test_a_sum_of_sums_and_a_constant_change_nothing():
    one = 0.01 * EpsCELoss(m=1e5) + 5 * MAELoss()
    two = LossSum([(0.5, one), (0.5, one)])
    assert shape(two, 10)[:5] == pytest.approx(shape(one, 10)[:5])


@pytest.mark.parametrize("off", [CELoss(), MSELoss(), EpsCELoss(m=1, tau=0)])
def test_a_term_that_is_switched_off_does_not_count(off):
    assert shape(0 * off + MAELoss(), 10) == shape(MAELoss(), 10)
    assert shape(0 * MAELoss(), 10).mistake == 0


def test_a_slope_that_grows_without_end_stands_no_noise():
    assert shape(GCELoss(q=0.999), 10).ratio == bounds.breakdown(CELoss(), 10) == 0
    floor = shape(EpsCELoss(m=0, tau=0.1), 3).ratio
    assert floor == pytest.approx(0.1 * math.e)
    assert bounds.breakdown(0 * MAELoss(), 10) == 0


@pytest.mark.parametrize("k", range(2, 101))
def test_rounding_makes_no_symmetric_loss_another(k):
    for loss in (NCELoss() + RCELoss(), NCELoss() + MAELoss(), MAELoss()):
        assert shape(loss, k).spread == 0
        assert bounds.breakdown(loss, k) == pytest.approx((k - 1) / k)
    assert shape(SCELoss(a=0, b=1.7) + 0.3 * MAELoss(), k)[:2] == (0, 0)
    tiny = (1e-6 * part + MAELoss() for part in (CELoss(), GCELoss(q=0.5)))
    for loss in (CELoss(), GCELoss(q=0.999), GCELoss(q=1 - 1e-9), *tiny):
        assert shape(loss, k).spread > 0
        assert bounds.breakdown(NCELoss() + loss, k) == 0


def test_sums_that_are_other_losses():
    assert shape(SCELoss(a=0, b=1), 10) == pytest.approx(shape(RCELoss(), 10))
    adapted = NoiseAdaptationLoss(noise_rate=0.3, inclusive=True)
    assert 0 < shape(adapted, 10).spread < shape(EpsCELoss(m=0), 10).spread


def test_without_noise_only_the_clean_risk_is_left():
    assert bounds.zero_one(CELoss(), 10, NoiseSpec.clean()) == 0
    assert bounds.excess_risk(CELoss(), 10, np.eye(10), clean_risk=0.3) == 0.3


def test_nothing_is_attained_where_the_hedge_has_no_mistake():
    assert math.isnan(bounds.attained(EpsCELoss(m=0), 10, 0.13).error)
    with pytest.raises(TypeError, match="with a floor"):
        bounds.attained(EpsFocalLoss(m=1e5), 10, 0.4)


def test_a_floor_that_the_predicted_label_meets():
    table = EpsCELoss(m=0, tau=0.5).per_class(torch.zeros(1, 10).double())
    corner = EpsCELoss(m=0, tau=0.5).per_class(800 * torch.eye(10).double())
    spread = shape(EpsCELoss(m=0, tau=0.5), 10).spread
    assert spread == pytest.approx((table.sum() - corner[0].sum()).item())


def test_samples_shrink_the_first_term_only():
    how = {"classifiers": 1e6, "samples": 10**12}
    far = bounds.finite_sample(GCELoss(q=0.7), 10, 0.4, **how)
    limit = bounds.excess_risk(GCELoss(q=0.7), 10, NoiseSpec.symmetric(0.4))
    assert far == pytest.approx(limit, rel=1e-3)
    assert "not bounded" in str(bounds.finite_sample(CELoss(), 10, 0.4, **how))
    clean, noisy = (
        bounds.finite_sample(MAELoss(), 10, rate, classifiers=10, samples=100)
        for rate in (0, 0.4)
    )
    assert noisy / clean == pytest.approx(1 / (1 - 0.4 * 10 / 9))


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: shape(torch.nn.CrossEntropyLoss(), 10), TypeError, "epsbook.losses"),
        (lambda: shape(MAELoss(), 1), ValueError, "num_classes"),
        (lambda: bounds.zero_one(MAELoss(), 10, 0.4), TypeError, "NoiseSpec"),
        (lambda: bounds.zero_one(MAELoss(), 10, np.eye(3)), ValueError, "10, 10"),
        (
            lambda: bounds.zero_one(MAELoss(), 10, NoiseSpec.instance(0.4)),
            ValueError,
            "no one matrix",
        ),
        (
            lambda: bounds.zero_one(MAELoss(), 3, np.eye(3), clean_risk=-1),
            ValueError,
            "clean_risk",
        ),
        (
            lambda: bounds.any_noise(1, np.eye(3), 3, p_y=[0.5, 0.5]),
            ValueError,
            "p_y",
        ),
        (lambda: bounds.any_noise(-1, np.eye(3), 3), ValueError, "room"),
        (lambda: bounds.attained(MAELoss(), 10, 0.4), TypeError, "EpsCELoss"),
        (lambda: bounds.attained(EpsCELoss(m=1), 10, 0.95), ValueError, "rate"),
        (
            lambda: bounds.finite_sample(MAELoss(), 10, 0.4, samples=0, classifiers=2),
            ValueError,
            "samples",
        ),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
