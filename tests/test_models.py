"""Networks: sizes, shapes, memory formats, and what is refused."""

import pytest
import torch
from torch import nn

from epsbook.models import MODELS, build, digits_net


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def size(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_parameters_are_as_documented(k):
    assert size(digits_net(k)) == 150_208 + 129 * k
    assert "150,208 + 129 K" in digits_net.__doc__


def test_ten_classes_by_default():
    assert size(digits_net()) == 151_498
    assert "151,498 for ten" in digits_net.__doc__


def test_layers_are_as_documented():
    shapes = [tuple(p.shape) for p in digits_net().parameters() if p.ndim > 1]
    assert shapes == [(32, 1, 3, 3), (64, 32, 3, 3), (128, 1024), (10, 128)]
    kinds = [type(layer) for layer in digits_net()]
    assert kinds.count(nn.ReLU) == 3 and kinds.count(nn.MaxPool2d) == 1
    assert kinds.count(nn.BatchNorm2d) == 2


@pytest.mark.parametrize("k", [2, 10])
@pytest.mark.parametrize("n", [1, 6])
def test_output_is_one_logit_per_class(images, n, k):
    net = digits_net(k)
    logits = net(images[:n])
    assert logits.shape == (n, k) and logits.isfinite().all()
    assert isinstance(net[-1], nn.Linear)  # no ReLU and no softmax at the end


def test_channels_last_changes_storage_only(images):
    net = digits_net().eval()
    expected = net(images)
    net = net.to(memory_format=torch.channels_last)
    assert net[3].weight.is_contiguous(memory_format=torch.channels_last)
    found = net(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_seed_decides_the_weights(images):
    logits = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        logits.append(digits_net()(images))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_every_parameter_gets_a_gradient(images):
    net = digits_net()
    nn.functional.cross_entropy(net(images), torch.arange(6)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_it_can_learn_six_labels_by_heart(images):
    torch.manual_seed(0)
    net, labels = digits_net(), torch.tensor([0, 3, 1, 9, 9, 2])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    assert (net(images).argmax(1) == labels).all()


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_built_by_name(name):
    assert size(build(name, num_classes=7)) == size(MODELS[name](7))


@pytest.mark.parametrize("name", ["resnet", "", None, 3, ["digits_net"]])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match="name must be one of digits_net, got"):
        build(name, num_classes=10)


@pytest.mark.parametrize(
    "k, error, message",
    [
        (1, ValueError, "num_classes must be at least 2, got 1"),
        (0, ValueError, "num_classes must be at least 2, got 0"),
        (10.0, TypeError, "num_classes must be an integer, got 10.0"),
        (True, TypeError, "num_classes must be an integer, got True"),
        (None, TypeError, "num_classes must be an integer, got None"),
    ],
)
def test_class_counts_that_are_none(k, error, message):
    with pytest.raises(error, match=message):
        build("digits_net", k)
    with pytest.raises(error, match=message):
        digits_net(k)
