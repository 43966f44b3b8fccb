"""STL-10's binary layout: columns, labels from 1, and a part that nobody labelled."""

import errno
import os

import numpy as np
import pytest
import torch

from models.data import load_data
from models.datasets import cache, published
from models.probe import LinearProbe

from .layouts import write_stl10


@pytest.mark.parametrize("folder", ["", "stl10_binary"])
def test_images_are_turned_and_labels_count_from_0(tmp_path, folder):
    written = write_stl10(tmp_path)
    data = load_data(f"stl10:{tmp_path / folder}", seed=0)
    assert data.train_images.dtype == torch.uint8
    assert np.array_equal(data.test_images.numpy(), written["test"])
    assert data.test_labels.tolist() == (written["test_labels"] - 1.0).tolist()
    assert data.num_classes == 10
    found = {
        (image.tobytes(), int(label))
        for image, label in zip(data.train_images.numpy(), data.train_labels, strict=True)
    }
    labels = written["train_labels"].astype(int) - 1
    expected = {
        (image.tobytes(), label) for image, label in zip(written["train"], labels, strict=True)
    }
    assert found == expected


def test_first_column_of_the_file_is_the_first_column_of_the_image(tmp_path):
    write_stl10(tmp_path, train=3)
    file = tmp_path / "stl10_binary/test_X.bin"
    column = bytes(range(96))
    file.write_bytes(column + file.read_bytes()[96:])
    data = load_data(f"stl10:{tmp_path}", seed=0)
    assert data.test_images[0, 0, :, 0].tolist() == list(column)


def test_unlabelled_part_trains_and_never_reaches_a_probe(tmp_path):
    written = write_stl10(tmp_path, unlabelled=600)
    data = load_data(f"stl10:{tmp_path}", seed=0)
    assert (len(data.train_images), len(data.test_images)) == (612, 4)
    is_unlabelled = data.train_labels < 0
    assert is_unlabelled.sum() == 600
    assert np.array_equal(data.train_images[is_unlabelled].numpy(), written["unlabeled"])
    probe = LinearProbe(3, data.num_classes)
    features, labels = torch.rand(600, 3), data.train_labels[is_unlabelled]
    assert probe.observe(features, labels) is None
    assert not probe.state()["weight"].any()


def test_held_out_images_are_labelled_ones(tmp_path):
    write_stl10(tmp_path, unlabelled=5)
    data = load_data(f"stl10:{tmp_path}", seed=0, validation=0.5)
    assert data.test_labels.bincount().tolist() == [2, 2, 2]
    assert (data.train_labels >= 0).sum() == 6
    assert (data.train_labels < 0).sum() == 5
    train, test = (part.untyped_storage() for part in (data.train_images, data.test_images))
    assert train.data_ptr() == test.data_ptr()  # neither is a copy, which might not fit


def test_set_that_does_not_fit_in_memory_is_mapped(tmp_path, cache_home, monkeypatch):
    write_stl10(tmp_path, unlabelled=5)
    held = load_data(f"stl10:{tmp_path}", seed=0)
    assert list(cache_home.rglob("*.npy")) == []
    monkeypatch.setattr(cache, "SHARE_OF_MEMORY", 0.0)
    mapped = load_data(f"stl10:{tmp_path}", seed=0)
    assert len(list(cache_home.rglob("*.npy"))) == 1
    assert torch.equal(mapped.train_images, held.train_images)
    assert torch.equal(mapped.train_labels, held.train_labels)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", bytes(27647), r"train_X.bin has 27,647 bytes, which are not whole records"),
        ("unlabeled_X.bin", b"", r"unlabeled_X.bin has 0 bytes"),
        ("train_y.bin", bytes([1] * 11), r"12 images, .*train_y.bin 11 labels"),
        ("test_y.bin", bytes([1, 2, 0, 1]), r"test_y.bin has label 0 at 2, where STL-10 has 1 to"),
        ("test_y.bin", bytes([1, 11, 1, 1]), r"test_y.bin has label 11 at 1"),
    ],
)
def test_bad_file_is_refused(tmp_path, name, content, message):
    write_stl10(tmp_path)
    (tmp_path / "stl10_binary" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_data(f"stl10:{tmp_path}", seed=0)


@pytest.mark.parametrize("verifies", [False, True])
@pytest.mark.parametrize("name", ["train_X.bin", "test_y.bin", "unlabeled_X.bin"])
def test_file_that_can_not_be_looked_at_is_named(tmp_path, monkeypatch, name, verifies):
    """As on a server that was restarted: pathlib does not say that it is missing, but raises."""
    write_stl10(tmp_path, unlabelled=5)
    stat = os.stat

    def fail(path, *more, **how):
        if os.path.basename(path) == name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, *more, **how)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(ValueError, match=rf"{name} can't be read: stale file handle; check it"):
        load_data(f"stl10:{tmp_path}", seed=0, verifies=verifies)


def test_missing_data_say_what_to_download_and_where_to_put_it(tmp_path):
    with pytest.raises(ValueError, match=r"there is no train_X.bin") as refusal:
        load_data(f"stl10:{tmp_path}", seed=0)
    assert published.STL10.url in str(refusal.value)
    assert f"tar -xzf stl10_binary.tar.gz -C {tmp_path}" in str(refusal.value)


def test_only_files_that_are_used_are_compared(tmp_path):
    write_stl10(tmp_path, unlabelled=1)
    for validation, count in ((0.0, 5), (0.5, 3)):
        name = f"stl10:{tmp_path}"
        (remark,) = load_data(name, seed=0, verifies=True, validation=validation).remarks
        assert f"{count} of {count} files" in remark
