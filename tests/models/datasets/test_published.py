"""Checksums beside the published ones."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from models.data import load_data
from models.datasets import cifar, idx
from models.datasets.published import CIFAR10, FASHION_MNIST, MNIST, Published, checksum_remarks

from .layouts import write_cifar10, write_idx


def md5s(folder) -> dict[str, str]:
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def named(name: str, md5) -> Published:
    return Published(name=name, url="http://x/y.tgz", size="1 MB", folder="y", md5=md5)


def test_files_as_published_have_no_remark(tmp_path, monkeypatch):
    write_cifar10(tmp_path)
    md5 = md5s(tmp_path / "cifar-10-batches-bin")
    published = dataclasses.replace(CIFAR10, md5=md5)
    monkeypatch.setattr(cifar, "TEN", dataclasses.replace(cifar.TEN, published=published))
    assert load_data(f"cifar10:{tmp_path}", seed=0, verifies=True).remarks == []


def test_files_unlike_the_published_ones_are_remarked_once(tmp_path):
    write_cifar10(tmp_path)
    (remark,) = load_data(f"cifar10:{tmp_path}", seed=0, verifies=True).remarks
    assert "6 of 6 files in" in remark
    assert "not those published as CIFAR-10: data_batch_1.bin has MD5" in remark
    assert CIFAR10.md5["data_batch_1.bin"] in remark
    assert load_data(f"cifar10:{tmp_path}", seed=0).remarks == []  # a worker need not look again


def test_test_images_that_are_not_loaded_are_not_compared(tmp_path):
    write_cifar10(tmp_path)
    data = load_data(f"cifar10:{tmp_path}", seed=0, verifies=True, validation=0.2)
    assert "5 of 5 files in" in data.remarks[0]


def test_files_must_all_be_of_the_same_published_set():
    first, second = named("first", {"a": "1", "b": "2"}), named("second", {"a": "3", "b": "4"})
    for whole in (first, second):
        assert checksum_remarks(whole.md5, [first, second], Path("there")) == []
    (remark,) = checksum_remarks({"a": "3", "b": "2"}, [first, second], Path("there"))
    assert remark.startswith("1 of 2 files in there are not those published as first or second: ")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_compared_unpacked(tmp_path, monkeypatch, zipped):
    """Debian packs Fashion-MNIST anew: the archives differ from the published ones, not the data.

    Only images of the number and size of the published ones pretend to be them.
    """
    write_idx(tmp_path / "plain")
    write_idx(tmp_path / "given", zipped=zipped)
    name = f"idx:{tmp_path / 'given'}"
    assert load_data(name, seed=0, verifies=True).remarks == []
    monkeypatch.setattr(idx, "PUBLISHED_SHAPE", (7, 5, 4))
    (remark,) = load_data(name, seed=0, verifies=True).remarks
    assert "4 of 4 files" in remark
    assert "MNIST or Fashion-MNIST" in remark
    monkeypatch.setattr(idx, "MNIST", named("these", md5s(tmp_path / "plain")))
    assert load_data(name, seed=0, verifies=True).remarks == []


@pytest.mark.parametrize("one", [MNIST, FASHION_MNIST])
def test_every_file_of_a_set_has_a_checksum(one):
    assert len(one.md5) == 4
    assert all(len(md5) == 32 for md5 in one.md5.values())
