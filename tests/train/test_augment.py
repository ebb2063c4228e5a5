"""Crop, mirror and turn: pixel by pixel what an image library does."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from epsbook.train.augment import Moves, augmented, draw_moves, scaling, turned, windows


def bytes_(n, channels=3, height=32, width=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = n, channels, height, width
    return torch.randint(0, 256, shape, generator=g).byte()


def protocol(crop=0, flip=False, rotate=0):
    return SimpleNamespace(crop=crop, flip=flip, rotate=rotate)


def pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def tensor(image):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-179.9, 179.9), min_size=1, max_size=6),
    st.integers(2, 40),
    st.integers(2, 40),
)
def test_turns_are_pillows_to_the_pixel(degrees, height, width):
    degrees = [d for d in degrees if d % 90] or [0.0]
    images = bytes_(len(degrees), height=height, width=width)
    found = turned(images, torch.tensor(degrees, dtype=torch.float64))
    for image, angle, ours in zip(images, degrees, found, strict=True):
        assert torch.equal(tensor(pillow(image).rotate(angle)), ours)


def test_a_turn_by_nothing_changes_nothing():
    images = bytes_(4)
    assert torch.equal(turned(images, torch.zeros(4)), images)


def test_all_moves_are_torchvisions():
    "Cut with padding, mirror, turn, in torchvision's functions and its order."
    functional = pytest.importorskip("torchvision.transforms.functional")
    images, asked = bytes_(60), protocol(crop=4, flip=True, rotate=20)
    moves = draw_moves(60, asked, torch.Generator().manual_seed(1))
    found = augmented(windows(images, 4), torch.arange(60), moves)
    for i, image in enumerate(images):
        image = functional.pad(pillow(image), 4)
        image = functional.crop(image, int(moves.top[i]), int(moves.left[i]), 32, 32)
        if moves.mirror[i]:
            image = functional.hflip(image)
        image = functional.rotate(image, float(moves.turn[i]))
        assert torch.equal(tensor(image), found[i])


def test_a_batch_gets_the_moves_of_its_images():
    images, asked = bytes_(30), protocol(crop=2, flip=True, rotate=10)
    moves = draw_moves(30, asked, torch.Generator().manual_seed(2))
    index = torch.tensor([7, 29, 0, 7])
    whole = augmented(windows(images, 2), torch.arange(30), moves)
    assert torch.equal(augmented(windows(images, 2), index, moves), whole[index])


@pytest.mark.parametrize("asked", [protocol(), protocol(crop=1), protocol(flip=True)])
def test_floats_keep_their_type_and_values(asked):
    images = bytes_(10).float() / 255
    moves = draw_moves(10, asked, torch.Generator().manual_seed(0))
    source = windows(images, asked.crop) if asked.crop else images
    found = augmented(source, torch.arange(10), moves)
    assert found.dtype == torch.float32 and found.shape == images.shape
    if not asked.crop:
        assert found.sum() == pytest.approx(float(images.sum()))


def test_draws_cover_their_range_evenly():
    n = 20_000
    moves = draw_moves(n, protocol(4, True, 20), torch.Generator().manual_seed(0))
    for part in (moves.top, moves.left):
        counts = part.bincount(minlength=9)
        assert len(counts) == 9 and (counts - n / 9).abs().max() < 5 * (n / 9) ** 0.5
    assert abs(float(moves.mirror.float().mean()) - 0.5) < 0.02
    assert moves.turn.abs().max() <= 20 and abs(float(moves.turn.mean())) < 0.5
    assert moves.turn.abs().mean() == pytest.approx(10, abs=0.3)


def test_moves_are_taken_over_in_place():
    g = torch.Generator().manual_seed(0)
    first, second = (draw_moves(9, protocol(1, True, 5), g) for _ in range(2))
    address = first.top.data_ptr()
    first.copy_(second)
    assert first.top.data_ptr() == address
    assert all(
        torch.equal(getattr(first, k), getattr(second, k))
        for k in ("top", "left", "mirror", "turn")
    )
    Moves().copy_(Moves())


def test_windows_are_a_view():
    images = bytes_(5, height=8, width=8)
    view = windows(images, 1)
    assert view.shape == (5, 3, 3, 3, 8, 8)
    assert torch.equal(view[:, :, 1, 1], images)
    assert view.untyped_storage().nbytes() == 5 * 3 * 10 * 10


def test_scaling_of_features_is_that_of_their_channels():
    g = torch.Generator().manual_seed(0)
    x = (7 + 3 * torch.randn(2500, 40, 1, 1, generator=g)).half()
    x[:, 5] = 2.0
    mean, spread = scaling(x)
    assert mean.shape == spread.shape == (1, 40, 1, 1)
    assert mean.dtype == spread.dtype == torch.float32
    rows = x.flatten(1).double()
    torch.testing.assert_close(mean.flatten(), rows.mean(0).float())
    wanted = rows.std(0).clamp_min(1e-4).float()
    torch.testing.assert_close(spread.flatten(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_scaling_is_mean_and_deviation_by_channel(kind):
    images = bytes_(50)
    images = images if kind == torch.uint8 else images.float() / 255
    mean, spread = scaling(images)
    x = (images - mean) / spread
    assert mean.shape == (1, 3, 1, 1)
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), rtol=1e-4, atol=0)


def test_a_constant_channel_is_not_divided_by_zero():
    mean, spread = scaling(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8))
    assert float(mean) == pytest.approx(51) and float(spread) == pytest.approx(0.0255)
