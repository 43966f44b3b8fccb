"""CIFAR's binary layout: records, where they are looked for, and what is said of bad ones."""

import numpy as np
import pytest
import torch

from models.data import load_data

from .layouts import write_cifar10, write_cifar100


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar10_is_read_from_its_folder_or_the_one_above(tmp_path, folder):
    images, labels = write_cifar10(tmp_path)
    data = load_data(f"cifar10:{tmp_path / folder}", seed=0)
    assert data.train_images.dtype == torch.uint8
    assert np.array_equal(data.train_images.numpy(), images[:20])
    assert np.array_equal(data.test_images.numpy(), images[20:])
    assert data.train_labels.tolist() == labels[:20].tolist()
    assert data.test_labels.tolist() == labels[20:].tolist()
    assert data.num_classes == 10


def test_record_is_a_label_and_red_green_and_blue_rows(tmp_path):
    write_cifar10(tmp_path, per_file=1)
    record = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes(range(32)) * 32
    (tmp_path / "cifar-10-batches-bin/data_batch_1.bin").write_bytes(record)
    data = load_data(f"cifar10:{tmp_path}", seed=0)
    red, green, blue = data.train_images[0]
    assert (red == 1).all()
    assert (green == 2).all()
    assert blue[5].tolist() == list(range(32))
    assert data.train_labels[0] == 7


def test_cifar100_has_fine_labels(tmp_path):
    images, fine = write_cifar100(tmp_path)
    data = load_data(f"cifar100:{tmp_path}", seed=0)
    assert np.array_equal(data.train_images.numpy(), images[:6])
    assert data.train_labels.tolist() == fine[:6].tolist()
    assert data.test_labels.tolist() == fine[6:].tolist()
    assert data.num_classes == 100


@pytest.mark.parametrize("size", [0, 3072, 2 * 3073 - 1])
def test_file_that_is_cut_short_is_refused(tmp_path, size):
    write_cifar10(tmp_path)
    file = tmp_path / "cifar-10-batches-bin/data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"batch_3.bin has {size:,} bytes, which are not whole"):
        load_data(f"cifar10:{tmp_path}", seed=0)


def test_label_beyond_the_classes_is_refused(tmp_path):
    write_cifar10(tmp_path, per_file=2)
    file = tmp_path / "cifar-10-batches-bin/test_batch.bin"
    file.write_bytes(file.read_bytes()[:3073] + bytes([10]) + bytes(3072))
    with pytest.raises(ValueError, match=r"record 1 of .*test_batch.bin has label 10, where CIFAR"):
        load_data(f"cifar10:{tmp_path}", seed=0)


def test_missing_data_say_what_to_download_and_where_to_put_it(tmp_path):
    place = tmp_path / "nowhere"
    with pytest.raises(ValueError, match="there is no data_batch_1") as refusal:
        load_data(f"cifar10:{place}", seed=0)
    text = str(refusal.value)
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in text
    assert f"tar -xzf cifar-10-binary.tar.gz -C {place}" in text
    assert "\n" not in text
    with pytest.raises(ValueError, match=r"cifar-100-binary\.tar\.gz"):
        load_data(f"cifar100:{place}", seed=0)
    with pytest.raises(ValueError, match="'cifar10:' has no path; write cifar10:PATH"):
        load_data("cifar10:", seed=0)


def test_one_file_that_is_missing_is_named(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-bin/data_batch_4.bin").unlink()
    with pytest.raises(ValueError, match=r"there is no data_batch_4.bin in .*; unpack https"):
        load_data(f"cifar10:{tmp_path}", seed=0)


def test_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_cifar10(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "fromfile", refuse)
    with pytest.raises(ValueError, match=r"data_batch_1.bin can't be read: permission denied"):
        load_data(f"cifar10:{tmp_path}", seed=0)
