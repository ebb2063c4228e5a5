"""What `suggest` answers: to every question, lines that run and claims in order."""

import functools
import itertools
import re

import numpy as np
import pytest
import torch

import epsbook.losses
from epsbook.losses import ForwardLoss, suggest
from epsbook.losses.asked import KINDS, held_out, read_noise
from epsbook.noise import CIFAR10_MAP, NoiseSpec

CLASSES = (2, 3, 10, 31, 32, 100, 316, 317, 1000, 100_000)
RATES = (None, 0, 0.05, 0.2, 0.4, 0.45)
BUDGETS = (None, 1, 2, 7)


# --- every answer -------------------------------------------------------------------


def evaluated(code, **names):
    "The loss that pasted lines make."
    exec(code, names)
    return names["criterion"]


def same(one, other):
    "Two losses that say the same of the same logits."
    if repr(one) != repr(other):
        return False
    if not isinstance(one, ForwardLoss):
        return True
    return torch.equal(one.transition, other.transition)


def questions(k):
    "Every kind, rate and budget that is a question."
    for kind, rate, budget in itertools.product((None, *KINDS), RATES, BUDGETS):
        # A matrix of a hundred thousand classes has ten billion entries.
        if not (rate and (kind == "clean" or (kind == "pair" and k > 1000))):
            yield k, kind, rate, budget


@functools.cache
def constructed(code):
    "The loss that this text makes, and whether it takes a batch of k classes."
    return eval(code, vars(epsbook.losses))


@pytest.mark.parametrize("k", CLASSES)
def test_every_question_has_an_answer_that_can_be_pasted(k):
    logits, labels = torch.zeros(2, min(k, 1000)), torch.tensor([0, 1])
    for asked in questions(k):
        s = suggest(*asked)
        assert same(evaluated(s.code), s.loss), asked
        assert 1 <= len(s.tries) <= (asked[3] or 1)
        assert len(set(s.tries)) == len(s.tries) and s.second != s.tries[0]
        for code in (*s.tries, s.second):
            if "transition" not in code:
                assert constructed(code)(logits, labels).isfinite(), code
        text = str(s)
        assert "criterion = " in text and "behind " in text and "stop " in text
        assert ("then try" in text) == (len(s.tries) == 1)
        assert text.count("and train") == len(s.tries) - 1
        assert "{" not in text and max(map(len, text.splitlines())) < 80
        assert repr(s) == text


def no_worse(more, less):
    "Whether one claim is at most another, where both were measured."
    one, other = suggest(*more).behind, suggest(*less).behind
    return one is None or other is None or one <= other


def test_more_is_never_worse():
    "What is known, and what one can afford, never raises the claim."
    for k, kind in itertools.product(CLASSES, KINDS):
        assert no_worse((k, kind), (k,)) and no_worse((k, kind, 0), (k,))
        budgets = [(k, kind, None, n) for n in (1, 2, 3, 9)]
        assert all(no_worse(b, a) for a, b in itertools.pairwise(budgets))
        tries = [suggest(*asked).tries for asked in budgets]
        assert all(b[: len(a)] == a for a, b in itertools.pairwise(tries))
    for k, rate in itertools.product(CLASSES[1:-2], (*RATES[1:], 0.6)):
        assert no_worse((k, None, rate), (k,))
        for kind in ("symmetric", "asymmetric", "instance", "human"):
            if (kind, rate) not in (("asymmetric", 0.6), ("human", 0)):
                assert no_worse((k, kind, rate), (k, kind))
        even = NoiseSpec.symmetric(rate)
        assert suggest(k, even).behind == suggest(k, "symmetric", rate).behind


def test_nothing_is_claimed_where_nothing_was_measured():
    for asked in [
        *((k, kind) for k in (2, 3, 317, 100_000) for kind in (None, "clean")),
        *((k, NoiseSpec.pair(0.3)) for k in (2, 3, 32, 100, 1000)),
        *((100, kind, 0.3) for kind in ("symmetric",)),
        *((100, kind, 0.45) for kind in ("symmetric", "asymmetric")),
        (10, "pair"),
        *((10, "pair", rate) for rate in (0.1, 0.2, 0.6)),
        (10, 0.2 * np.eye(10) + 0.8 * np.roll(np.eye(10), 1, axis=1)),
    ]:
        s = suggest(*asked)
        assert s.behind is None and "behind    not measured" in str(s), asked
        assert s.on == ""
    assert suggest(100, "symmetric", 0.2 + 0.2).behind is not None
    for rate in (0.3, 0.4):
        assert suggest(10, "pair", rate).on == "on digits"
    pair, even = NoiseSpec.pair(0.4), NoiseSpec.symmetric(0.4)
    s = suggest(10, (pair.transition(10) + even.transition(10)) / 2)
    assert isinstance(s.loss, ForwardLoss) and s.behind is None


def test_a_word_and_a_description_of_the_same_noise_agree():
    "Where some classes keep their labels; two classes have a rule of their own."
    word = suggest(10, "asymmetric", 0.4)
    spec = NoiseSpec.asymmetric(0.4, CIFAR10_MAP)
    for asked in (spec, spec.transition(10)):
        s = suggest(10, asked)
        assert (s.code, s.behind, s.tries) == (word.code, word.behind, word.tries)
        assert s.stop == word.stop and s.given == "" and "transition" not in str(s)
        assert set(s.reasons) <= set(word.reasons)
    assert isinstance(suggest(2, [[1, 0], [0.3, 0.7]]).loss, ForwardLoss)
    swapped = NoiseSpec.asymmetric(0.7, CIFAR10_MAP)
    assert isinstance(suggest(10, swapped).loss, ForwardLoss)


def test_more_classes_ask_for_a_smaller_power():
    q = [suggest(k).loss.q for k in (317, 1000, 10_000, 1_000_000)]
    assert q == sorted(q, reverse=True) and q[0] < 0.7
    pulls = [float(k) ** -p for k, p in zip((317, 1000, 10_000), q, strict=False)]
    assert pulls == pytest.approx([100**-0.7] * 3, rel=0.05)


# --- what is known of the noise -----------------------------------------------------


def test_a_spec_says_what_its_matrix_says():
    for spec, kind in [
        (NoiseSpec.clean(), "clean"),
        (NoiseSpec.symmetric(0.4), "symmetric"),
        (NoiseSpec.symmetric(0.4, inclusive=True), "symmetric"),
        (NoiseSpec.pair(0.3), "uneven"),
        (NoiseSpec.asymmetric(0.4, CIFAR10_MAP), "uneven"),
    ]:
        T = spec.transition(10)
        found = [read_noise(10, x) for x in (spec, T, T.tolist(), torch.tensor(T))]
        assert {x.kind for x in found} == {kind}
        assert len({x.rate for x in found}) == 1
    assert read_noise(10, NoiseSpec.fixed("cifar10n-worse")).kind == "human"
    assert read_noise(10, NoiseSpec.fixed("cifar10-instance-40")).kind == "instance"
    assert read_noise(10, NoiseSpec.instance(0.3)) == ("instance", 0.3, None, "")


def test_a_matrix_is_the_users_own():
    T = 0.7 * np.eye(4) + 0.3 * np.roll(np.eye(4), 1, axis=1)
    s = suggest(4, T)
    assert np.allclose(s.loss.transition, T)
    assert same(evaluated(s.code, T=T), s.loss)
    assert same(evaluated(s.code, T=T.tolist()), s.loss)
    assert suggest(10, "pair", 0.3).code == suggest(10, NoiseSpec.pair(0.3)).code


def test_a_matrix_whose_wrong_labels_lead_is_corrected():
    s = suggest(4, 0.3 * np.eye(4) + 0.7 * np.roll(np.eye(4), 1, axis=1))
    assert isinstance(s.loss, ForwardLoss)


@pytest.mark.parametrize(
    "asked, error, fix",
    [
        ((1,), ValueError, "num_classes must be at least 2"),
        ((10.0,), TypeError, "num_classes must be an integer"),
        ((10, "white"), ValueError, "noise must be one of clean, symmetric"),
        ((10, 0.4), TypeError, "write rate=0.4"),
        ((10, None, 1), ValueError, r"rate must be finite and in \[0, 1\)"),
        ((10, None, "40%"), TypeError, "rate must be a number"),
        ((10, "symmetric", 0.9), ValueError, "below 0.9.*give the matrix"),
        ((10, None, 0.95), ValueError, "below 0.9 for unknown noise"),
        ((10, "asymmetric", 0.5), ValueError, "below 0.5.*give the matrix"),
        ((10, "clean", 0.1), ValueError, "clean labels have rate 0"),
        ((10, "pair", 0.5), ValueError, "merge the classes"),
        ((10, NoiseSpec.pair(0.1), 0.1), ValueError, "leave out rate=0.1"),
        ((10, np.ones((10, 10)) / 10), ValueError, "as likely as the right one"),
        ((10, NoiseSpec.symmetric(0.95)), ValueError, "below 0.9.*have labels checked"),
        ((10, np.eye(3)), ValueError, "num_classes must be 3"),
        ((3, np.ones((3, 3))), ValueError, "sum to"),
        ((10, None, None, 0), ValueError, "budget must be at least 1"),
        ((10, None, None, 1.5), TypeError, "budget must be an integer"),
    ],
)
def test_bad_input_is_told_what_would_do(asked, error, fix):
    with pytest.raises(error, match=fix):
        suggest(*asked)


def test_noisier_labels_ask_for_more_of_them():
    for even in (True, False):
        n = [held_out(10, r, even=even) for r in (0, 0.1, 0.3, 0.45)]
        assert n == sorted(n) and n[0] == 625
    assert held_out(10, 0.4) < held_out(10, 0.4, even=False)
    draws = np.random.default_rng(0).random((4000, held_out(10, 0.4))) < 0.6
    spread = 100 * draws.mean(axis=1).std() / (1 - 0.4 * 10 / 9)
    assert 1.9 < spread < 2.1
    with pytest.raises(ValueError, match=r"rate must be below 0\.5"):
        held_out(10, 0.5, even=False)


def test_a_number_is_printed_with_the_rate_it_was_computed_for():
    said = r"If (\S+) % are wrong, evenly spread, (\S+) held-out"
    for k, kind in itertools.product(CLASSES, (None, "clean", "symmetric")):
        for rate in (None, 0) if kind == "clean" else (None, 0, 0.15, 0.3, 0.48):
            (found,) = re.findall(said, suggest(k, kind, rate).stop.text)
            assert float(found[0]) == 100 * (
                rate or 0.4 * (rate is None and kind != "clean")
            )
            n = held_out(k, float(found[0]) / 100)
            assert int(found[1].replace(",", "")) == n
    assert "5,062,501" in suggest(10, "symmetric", 0.89).stop.text
    for asked in [(10, "human"), (10, "instance", 0.3), (10, "asymmetric", 0.4)]:
        assert "no number of labels mends" in suggest(*asked).stop.text
    # Wrong labels that lead are agreed with best by the network that learned them.
    assert "smallest held-out value" in suggest(10, NoiseSpec.pair(0.7)).stop.text
