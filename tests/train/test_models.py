"""Networks: sizes, shapes, memory formats, and what is refused."""

import itertools
import sys

import pytest
import torch
from torch import nn

from epsbook.train.augment import scaling
from epsbook.train.models import (
    MODELS,
    Prepared,
    build,
    cifar_cnn,
    digits_net,
    mnist_cnn,
    patches_net,
    published_init,
    resnet18,
    resnet34,
    resnet50,
)


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def size(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_parameters_are_as_documented(k):
    assert size(digits_net(k)) == 150_208 + 129 * k
    assert "150,208 + 129 · K" in digits_net.__doc__


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


SIZES = {  # published network, K -> parameters
    mnist_cnn: (420_800, 129),
    cifar_cnn: (1_637_224, 257),
    patches_net: (410_368, 257),
    resnet18: (11_168_832, 513),
    resnet34: (21_276_992, 513),
    resnet50: (23_508_032, 2_049),
}


@pytest.mark.parametrize("make", SIZES)
@pytest.mark.parametrize("k", [2, 10, 100])
def test_published_networks_have_their_parameters(make, k):
    base, each = SIZES[make]
    with torch.device("meta"):
        assert size(make(k)) == base + each * k
    assert f"{base:,} + {each:,} · K" in make.__doc__


def test_the_eight_layers_are_the_published_ones():
    assert size(cifar_cnn()) == 1_639_794 and size(mnist_cnn()) == 422_090
    shapes = [tuple(p.shape) for p in cifar_cnn().parameters() if p.ndim > 1]
    channels = [3, 64, 64, 128, 128, 196, 196]
    convolutions = [(b, a, 3, 3) for a, b in itertools.pairwise(channels)]
    assert shapes == [*convolutions, (256, 3136), (10, 256)]


INPUTS = {"digits_net": (1, 8), "mnist_cnn": (1, 28), "resnet50": (3, 64)}
INPUTS["patches_net"] = 1600, 1


@pytest.mark.parametrize("name", MODELS)
def test_each_network_takes_its_images_in_both_memory_formats(name):
    channels, side = INPUTS.get(name, (3, 32))
    torch.manual_seed(0)
    net, x = build(name, 5).eval(), torch.rand(2, channels, side, side)
    expected = net(x)
    assert expected.shape == (2, 5) and expected.isfinite().all()
    net = net.to(memory_format=torch.channels_last)
    found = net(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_patches_net_ends_as_the_eight_layers_do():
    assert size(patches_net()) == 412_938 and "412,938" in patches_net.__doc__
    kinds = [[type(layer) for layer in net()[-5:]] for net in (patches_net, cifar_cnn)]
    assert kinds[0] == kinds[1] and len(patches_net()) == 5
    x = torch.randn(6, 1600, 1, 1).half()
    ready = Prepared(patches_net(3), scaling(x))
    logits = ready(x)
    assert logits.shape == (6, 3) and logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None for p in ready.parameters())


def test_small_resnets_keep_the_resolution_of_the_first_stage():
    net, shapes = resnet18(), []
    net.layer1.register_forward_hook(lambda *x: shapes.append(tuple(x[2].shape)))
    net(torch.rand(1, 3, 32, 32))
    assert shapes == [(1, 64, 32, 32)]
    with torch.device("meta"):
        assert tuple(resnet34().conv1.weight.shape) == (64, 3, 3, 3)


def test_residual_blocks_of_resnet50_start_as_the_identity():
    net = resnet50(2)
    assert all(not block.bn3.weight.any() for block in net.layer1)


@pytest.mark.parametrize("make", [cifar_cnn, patches_net, resnet18])
def test_initial_weights_follow_the_published_rules(make):
    torch.manual_seed(0)
    for layer in make(10).modules():
        if isinstance(layer, nn.Conv2d):
            bound = (6 / layer.weight[0].numel()) ** 0.5  # He: var 2 / fan in
        elif isinstance(layer, nn.Linear):
            bound = (6 / sum(layer.weight.shape)) ** 0.5  # Glorot
        else:
            continue
        w = layer.weight.detach()
        assert bound * 0.95 < w.abs().max() <= bound
        assert w.var() == pytest.approx(bound**2 / 3, rel=0.15)


def test_published_init_returns_the_network_and_spares_biases():
    net = digits_net()
    bias = net[0].bias.clone()
    assert published_init(net) is net and torch.equal(net[0].bias, bias)


@pytest.mark.parametrize("width", [8, 20, 0, -16])
def test_widths_that_are_none(width):
    with pytest.raises(ValueError, match="width must be"):
        cifar_cnn(10, width)


def test_without_torchvision_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="resnet18 needs torchvision: pip install"):
        resnet18()


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_prepared_networks_take_pixels(bf16, channels_last):
    torch.manual_seed(0)
    x = torch.randint(0, 256, (20, 3, 32, 32)).byte()
    net, (mean, spread) = cifar_cnn(4, 16).eval(), scaling(x)
    expected = net((x - mean) / spread)
    options = {"bf16": bf16, "channels_last": channels_last}
    ready = Prepared(net, (mean, spread), **options).eval()
    found = ready(x)
    assert found.dtype == torch.float32  # so that the loss is not rounded
    assert torch.equal(found, found.bfloat16().float()) == bf16
    tolerance = 0.1 if bf16 else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert {"mean", "spread"} <= set(ready.state_dict())
    assert (net[0].weight.stride()[1] == 1) == channels_last


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_built_by_name(name):
    assert size(build(name, num_classes=7)) == size(MODELS[name](7))


@pytest.mark.parametrize("name", ["resnet", "", None, 3, ["digits_net"]])
def test_unknown_names_list_the_known(name):
    with pytest.raises(
        ValueError, match=r"name must be one of digits_net, .*, resnet50, got"
    ):
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
