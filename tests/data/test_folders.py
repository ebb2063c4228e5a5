"""Folders of photographs: lists read, files opened late, what is missing named."""

import sys

import pytest
import torch

from epsbook.data.folders import Listing, clothing1m, webvision


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("EPSBOOK_DATA", str(tmp_path / "nothing"))


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def web(tmp_path):
    "A WebVision of three classes, the third of which is left out."
    folder = tmp_path / "web"
    train = ["google/q0001/a.jpg 0", "google/q0001/b c.jpg 1", "google/q0002/d.jpg 2"]
    val = ["val2.jpg 1", "val3.jpg 2", "val1.jpg 0"]
    write(
        folder / "info",
        train_filelist_google="\n".join(train) + "\n",
        val_filelist="\n".join(val) + "\n",
    )
    touch(folder, *(line.rsplit(maxsplit=1)[0] for line in train))
    touch(folder / "val_images_256", "val1.jpg", "val2.jpg", "val3.jpg")
    return folder


@pytest.fixture
def shop(tmp_path):
    "A Clothing1M of three images."
    folder = tmp_path / "shop"
    write(
        folder / "annotations",
        noisy_train_key_list="images/0/a.jpg\nimages/1/b.jpg\n",
        noisy_label_kv="images/1/b.jpg 13\nimages/0/a.jpg 2\n",
        clean_test_key_list="images/2/c.jpg\n",
        clean_label_kv="images/2/c.jpg 5\nimages/0/a.jpg 3\n",
    )
    touch(folder / "images", "0/a.jpg", "1/b.jpg", "2/c.jpg")
    return folder


# WebVision -----------------------------------------------------------------------


def test_webvision_keeps_the_first_classes(web):
    found = webvision(web, num_classes=2)
    assert repr(found) == "Listing(webvision: 2 + 2 files, 2 classes)"
    assert found.train_files[1] == web / "google" / "q0001" / "b c.jpg"
    assert found.train_labels.tolist() == [0, 1]
    assert [path.name for path in found.test_files] == ["val2.jpg", "val1.jpg"]
    assert found.test_labels.tolist() == [1, 0]
    assert found.train_labels.dtype == torch.int64


def test_webvision_is_tested_on_imagenet_too(web, tmp_path):
    imagenet = tmp_path / "imagenet"
    touch(imagenet / "val", "n02/x.JPEG", "n01/z.JPEG", "n01/y.JPEG")
    found = webvision(web, imagenet=imagenet, num_classes=2)
    assert [path.name for path in found.test_files] == ["y.JPEG", "z.JPEG", "x.JPEG"]
    assert found.test_labels.tolist() == [0, 0, 1]


def test_imagenet_must_be_sorted_by_class(web, tmp_path):
    touch(tmp_path / "val", "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(FileNotFoundError, match="has 0 classes, not 2 or 1,000"):
        webvision(web, imagenet=tmp_path, num_classes=2)


def test_webvision_says_what_it_needs(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        webvision(tmp_path)
    said = str(caught.value)
    assert str(tmp_path / "info" / "train_filelist_google.txt") in said
    assert "google_resized_256.tar" in said and "\n" not in said


def test_the_default_folder_is_named(tmp_path):
    wanted = str(tmp_path / "nothing" / "webvision")
    with pytest.raises(FileNotFoundError) as caught:
        webvision()
    assert wanted in str(caught.value)


def test_a_missing_image_is_named_before_training(web):
    (web / "val_images_256" / "val1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"webvision needs .*val1\.jpg"):
        webvision(web, num_classes=2)


def test_a_list_of_another_form_is_named(web):
    write(web / "info", val_filelist="val1.jpg\n")
    with pytest.raises(ValueError, match=r"val_filelist.txt has a line that is not"):
        webvision(web, num_classes=2)


def test_a_list_of_other_classes_is_named(web):
    write(web / "info", val_filelist="val1.jpg 7\n")
    with pytest.raises(ValueError, match="the lists of webvision hold no test image"):
        webvision(web, num_classes=2)


# Clothing1M ----------------------------------------------------------------------


def test_clothing_pairs_keys_with_labels(shop):
    found = clothing1m(shop)
    assert repr(found) == "Listing(clothing1m: 2 + 1 files, 14 classes)"
    assert found.train_labels.tolist() == [2, 13]
    assert found.test_labels.tolist() == [5]
    assert found.train_files == (shop / "images/0/a.jpg", shop / "images/1/b.jpg")


def test_clothing_lists_may_lie_at_the_top(shop):
    for path in (shop / "annotations").iterdir():
        path.rename(shop / path.name)
    (shop / "annotations").rmdir()
    assert clothing1m(shop).test_labels.tolist() == [5]


def test_clothing_says_what_it_needs(shop):
    (shop / "annotations" / "clean_label_kv.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"clean_label_kv\.txt: ask its"):
        clothing1m(shop)


def test_a_key_without_a_label_is_named(shop):
    write(shop / "annotations", clean_label_kv="images/0/a.jpg 3\n")
    with pytest.raises(ValueError, match=r"no label for images/2/c\.jpg"):
        clothing1m(shop)


def test_a_label_out_of_range_is_refused(shop):
    write(shop / "annotations", clean_label_kv="images/2/c.jpg 14\n")
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.13, got 14"):
        clothing1m(shop)


# Opening -------------------------------------------------------------------------


def test_images_are_opened_one_by_one(shop):
    image = pytest.importorskip("PIL.Image")
    gray = image.new("L", (4, 3), 7)
    gray.save(shop / "images/1/b.jpg")
    view = clothing1m(shop).images("train")  # the other file is no image
    assert len(view) == 2 and isinstance(view, torch.utils.data.Dataset)
    picture, label = view[1]
    assert picture.mode == "RGB" and picture.size == (4, 3) and label == 13
    sizes = clothing1m(shop).images("train", transform=lambda x: x.size)
    assert sizes[1] == ((4, 3), 13)


def test_a_broken_image_is_named(shop):
    pytest.importorskip("PIL")
    view = clothing1m(shop).images("test")
    with pytest.raises(OSError, match=r"c\.jpg is no image or a broken one"):
        view[0]
    (shop / "images/2/c.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.jpg"):
        view[0]


def test_a_missing_pillow_is_named(shop, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        clothing1m(shop).images("test")[0]


def test_only_two_parts(shop):
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'val'"):
        clothing1m(shop).images("val")


def test_files_and_labels_pair_up():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="test files and labels must pair up"):
        Listing("x", ["a", "b"], labels, ["c"], labels, 2)
