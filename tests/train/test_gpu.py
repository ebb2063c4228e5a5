"""What only a GPU can show: the losses there, a recorded step, runs side by side.

Each test runs on the CPU as well, where it asks the same of the plain step.
"""

import functools
import time

import pytest
import torch

from epsbook import data, noise, train
from epsbook.losses import CELoss, EpsCELoss, MAELoss, NLNLLoss
from epsbook.losses.recipes import build_loss, known_recipes
from epsbook.runs import sweep
from epsbook.train import graphs
from epsbook.train.protocol import protocol_for

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
on_each = pytest.mark.parametrize("device", DEVICES)

RECIPES = {str(r.terms): r.terms for r in known_recipes()}
METHODS = {r.method: r.terms for r in known_recipes()}


def digits(device, loss, seed=1, epochs=2, precision="fp32", **options):
    "Two epochs on the digits."
    how = {"epochs": epochs, "precision": precision, "channels_last": True}
    p = protocol_for("digits", "smoke", **how)
    spec = noise.NoiseSpec.symmetric(0.4)
    return train.fit(data.load("digits"), spec, loss, p, seed, device, **options)


@on_each
@pytest.mark.parametrize("terms", RECIPES.values(), ids=RECIPES)
def test_published_losses_agree_with_double_precision_on_the_cpu(terms, device):
    torch.manual_seed(0)
    logits, labels = 4 * torch.randn(64, 10), torch.randint(10, (64,))
    want, slope = value_and_slope(terms, logits.double(), labels)
    found, here = value_and_slope(terms, logits.to(device), labels.to(device))
    torch.testing.assert_close(found.cpu().double(), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(here.cpu().double(), slope, rtol=1e-3, atol=1e-6)


def value_and_slope(terms, logits, labels):
    "The loss of a batch and its gradient in the logits."
    logits = logits.clone().requires_grad_()
    value = build_loss(terms).to(logits.device)(logits, labels)
    return value.detach(), torch.autograd.grad(value, logits)[0]


@needs_gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_the_same_twice(method):
    runs = [digits("cuda", build_loss(METHODS[method])) for _ in range(2)]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]


@on_each
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_out_of_time_goes_on_to_the_same_weights(device, precision, tmp_path):
    how = {"epochs": 3, "precision": precision}
    whole, file = digits(device, CELoss(), **how), tmp_path / "run.pt"
    for _ in range(2):
        with pytest.raises(train.OutOfTime, match="of 3 epochs"):
            now = {"checkpoint": file, "until": time.monotonic()}
            digits(device, CELoss(), **how, **now)
    again = digits(device, CELoss(), **how, checkpoint=file)
    for key in ("weights_sha256", "curves", "recall"):
        assert again[key] == whole[key]


def test_until_needs_a_checkpoint():
    with pytest.raises(ValueError, match="until needs a checkpoint"):
        digits("cpu", CELoss(), until=time.monotonic())


@needs_gpu
@pytest.mark.parametrize("loss", [CELoss(), 0.01 * EpsCELoss(m=1e5) + 5 * MAELoss()])
def test_a_recorded_step_is_the_plain_one(loss, monkeypatch):
    recorded = digits("cuda", loss)
    monkeypatch.setattr(train, "recorded", lambda step, *_: step)
    assert digits("cuda", loss)["weights_sha256"] == recorded["weights_sha256"]


@on_each
def test_an_annealed_loss_counts_in_a_recorded_step(device, monkeypatch):
    def run():
        loss = CELoss() + EpsCELoss(m=1)
        change = lambda rows: loss.coefs.__setitem__(0, 1 / (1 + len(rows)))
        return digits(device, loss, epochs=3, watch=change)["weights_sha256"]

    found = run()
    plain = digits(device, CELoss() + EpsCELoss(m=1), epochs=3)
    assert found != plain["weights_sha256"]
    monkeypatch.setattr(train, "recorded", lambda step, *_: step)
    assert run() == found


@needs_gpu
def test_steps_are_recorded(monkeypatch):
    seen = []
    record = graphs.Graphed._record
    monkeypatch.setattr(
        graphs.Graphed, "_record", lambda *x: (seen.append(1), record(*x))
    )
    digits("cuda", CELoss())
    assert seen == [1]


@on_each
def test_a_loss_that_draws_is_the_same_twice(device):
    runs = [digits(device, NLNLLoss())["weights_sha256"] for _ in range(2)]
    assert runs[0] == runs[1]


@on_each
def test_runs_side_by_side_are_those_one_by_one(device, tmp_path):
    (tmp_path / "few.toml").write_text(
        'dataset = "digits"\nscale = "smoke"\nrecipe_of = "cifar10"\n'
        "changes = { epochs = 3 }\n"
        '[[runs]]\nlosses = ["gce", "sce", "nce+rce", "ce_eps+mae"]\n'
        'noises = ["symmetric:0.4"]\nseeds = [1, 2]\n'
    )
    jobs, found = sweep.read_list(tmp_path / "few.toml"), []
    for at_once in (1, 4):
        file = tmp_path / str(at_once) / "few.jsonl"
        keep = functools.partial(sweep.record.append_record, file=file)
        do = functools.partial(sweep.do, folder=file.parent, keep=keep, device=device)
        one = lambda job, do=do: do(job)["method"]
        outcome = sweep.work(jobs, one, lambda line: None, at_once=at_once)
        assert outcome.failed == []
        rows = sweep.record.read_lines(file)
        found.append({(r["method"], r["seed"]): r["weights_sha256"] for r in rows})
        assert not list(file.parent.glob("*.pt"))
    assert len(found[0]) == 8 and found[0] == found[1]
