"""IDX files: under which names they are found, gzipped or not, and what is said of bad ones."""

import gzip

import numpy as np
import pytest
import torch

from models.data import load_data

from .layouts import idx_bytes, write_idx


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("mark", ["-", "."])
def test_idx_is_read_gzipped_or_not(tmp_path, mark, zipped):
    images, labels = write_idx(tmp_path, mark=mark, zipped=zipped)
    data = load_data(f"idx:{tmp_path}", seed=0)
    assert data.train_images.dtype == torch.uint8
    assert np.array_equal(data.train_images.numpy(), images[:7, None])
    assert np.array_equal(data.test_images.numpy(), images[7:, None])
    assert data.train_labels.tolist() == labels[:7].tolist()
    assert data.test_labels.tolist() == labels[7:].tolist()
    assert (data.num_classes, data.image_shape) == (3, (1, 5, 4))
    assert data.remarks == []


@pytest.mark.parametrize("size", [3, 4, 10, 15, 40, 155])
def test_file_that_is_cut_short_is_refused(tmp_path, size):
    write_idx(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte"
    assert len(file.read_bytes()) == 156
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte (begins with|has)"):
        load_data(f"idx:{tmp_path}", seed=0)


def test_archive_that_is_cut_short_or_none_is_refused(tmp_path):
    write_idx(tmp_path, zipped=True)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    damaged = whole[:-8] + bytes(4) + whole[-4:]  # another sum
    for content in (whole[:-20], b"<html>", damaged):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"ubyte.gz is cut short or damaged .*; download it"):
            load_data(f"idx:{tmp_path}", seed=0)
    file.write_bytes(gzip.compress(gzip.decompress(whole) + b"\0"))
    said = "has 77 bytes unpacked, and its header asks for 76: it is too long; download"
    with pytest.raises(ValueError, match=said):
        load_data(f"idx:{tmp_path}", seed=0)
    file.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="gz is empty, an IDX file of bytes in 3 dimensions with"):
        load_data(f"idx:{tmp_path}", seed=0)


def test_file_of_another_kind_is_refused(tmp_path):
    write_idx(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros((7, 5, 4))))
    with pytest.raises(ValueError, match="begins with 00 00 08 03, an IDX file of bytes in 1 dim"):
        load_data(f"idx:{tmp_path}", seed=0)


def test_images_and_labels_of_different_sets_are_refused(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(6)))
    with pytest.raises(ValueError, match=r"holds 7 images, .*train-labels-idx1-ubyte 6 labels"):
        load_data(f"idx:{tmp_path}", seed=0)


def test_missing_data_say_what_to_download_and_where_to_put_it(tmp_path):
    place = tmp_path / "nowhere"
    with pytest.raises(ValueError, match="there is no train-images-idx3-ubyte, gzipped") as refusal:
        load_data(f"idx:{place}", seed=0)
    text = str(refusal.value)
    assert "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/" in text
    assert f"into {place}" in text
    assert "\n" not in text
