"""A folder a class: which files are taken, how they are decoded, and what is said of bad ones."""

import errno
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import load_data
from models.datasets import cache, folder

from .layouts import save_image, write_folder


def load(root, **options):
    return load_data(f"folder:{root}", seed=0, **options)


def levels(images_NCHW: torch.Tensor) -> list[int]:
    return images_NCHW[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("test", ["test", "val"])
def test_classes_are_numbered_by_name(tmp_path, test):
    write_folder(tmp_path)
    (tmp_path / "test").rename(tmp_path / test)
    data = load(tmp_path)
    assert data.train_images.dtype == torch.uint8
    assert data.image_shape == (3, 8, 8)
    assert data.num_classes == 2
    assert sorted(levels(data.train_images)) == list(range(6))
    assert data.train_labels.tolist() == [level % 2 for level in levels(data.train_images)]
    assert levels(data.test_images) == [100, 101]
    assert data.test_labels.tolist() == [0, 1]
    assert data.remarks == []


def test_channels_and_rows_stay_where_they_are(tmp_path):
    write_folder(tmp_path, test=0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    save_image(tmp_path / "test/cat/it.bmp", pixels)
    data = load(tmp_path)
    assert np.array_equal(data.test_images[0].numpy(), pixels.transpose(2, 0, 1))


def test_images_are_grey_if_all_are(tmp_path):
    write_folder(tmp_path, shape=(8, 8))
    assert load(tmp_path).image_shape == (1, 8, 8)
    save_image(tmp_path / "train/dog/red.png", np.full((8, 8, 3), [255, 0, 0], dtype=np.uint8))
    data = load(tmp_path)
    assert data.image_shape == (3, 8, 8)
    assert (data.test_images[0] == 100).all()


def test_second_load_maps_what_the_first_decoded(tmp_path, cache_home, monkeypatch):
    """A worker that is restarted must not decode a hundred thousand images again."""
    write_folder(tmp_path)
    first = load(tmp_path)
    monkeypatch.setattr(folder, "_decode", None)
    second = load(tmp_path)
    assert torch.equal(second.train_images, first.train_images)
    assert torch.equal(second.train_labels, first.train_labels)
    assert len(list(cache_home.rglob("*.npy"))) == 1
    assert list(cache_home.rglob("*.part")) == []


def test_images_are_decoded_by_a_thread_a_core(tmp_path, monkeypatch):
    """Each waits until another one is being decoded, too."""
    write_folder(tmp_path, train=6, test=2)
    both, decode = threading.Barrier(2, timeout=10), folder._decode

    def decode_beside_another(file, shape):
        both.wait()
        return decode(file, shape)

    monkeypatch.setattr(folder, "PER_TASK", 1)
    monkeypatch.setattr(folder, "_decode", decode_beside_another)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert sorted(levels(load(tmp_path).train_images)) == list(range(6))


def test_changed_image_is_decoded_anew_in_place_of_the_old_one(tmp_path, cache_home):
    write_folder(tmp_path)
    load(tmp_path)
    save_image(tmp_path / "test/cat/0.png", np.full((8, 8, 3), 77, dtype=np.uint8))
    assert levels(load(tmp_path).test_images) == [77, 101]
    assert len(list(cache_home.rglob("*.npy"))) == 1


def test_without_a_cache_images_are_decoded_into_memory(tmp_path, cache_home, monkeypatch):
    write_folder(tmp_path)
    (cache_home / "loco-runtime").write_text("in the way")
    assert levels(load(tmp_path).test_images) == [100, 101]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # in which no directory can be made
    assert levels(load(tmp_path).test_images) == [100, 101]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.setattr(cache, "SHARE_OF_MEMORY", 0.0)
    with pytest.raises(
        ValueError, match=r"too large to hold in memory, .*: not a directory.*XDG_CACHE"
    ):
        load(tmp_path)


def test_sizes_that_differ_ask_for_one(tmp_path):
    write_folder(tmp_path)
    save_image(tmp_path / "test/dog/wide.png", np.zeros((20, 30, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"of 2 sizes, from 8x8 to 30x20; .* --image-size 8$"):
        load(tmp_path)
    assert load(tmp_path, image_size=4).image_shape == (3, 4, 4)


def test_short_side_is_scaled_and_the_long_one_cut_at_both_ends(tmp_path):
    write_folder(tmp_path, test=0)
    stripes = np.zeros((10, 40), dtype=np.uint8)
    stripes[:, 15:25] = 200
    save_image(tmp_path / "test/cat/wide.png", np.stack([stripes] * 3, axis=2))
    save_image(tmp_path / "test/cat/tall.png", np.stack([stripes.T] * 3, axis=2))
    data = load(tmp_path, image_size=5)
    assert (data.test_images[:, :, 1:-1, 1:-1] > 190).all()
    assert levels(load(tmp_path, image_size=16).train_images) == levels(data.train_images)


def test_image_size_is_for_folders_only():
    with pytest.raises(ValueError, match="image-size 8 is for folder:PATH, and data 'digits' have"):
        load_data("digits", seed=0, image_size=8)


def test_damaged_image_is_named(tmp_path, cache_home):
    write_folder(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = tmp_path / "train/dog/bad.jpg"
    save_image(file, noise)
    whole = file.read_bytes()
    for content, said in (
        (whole[:-150], "(?i:truncated)"),
        (b"<html>", "it is no image"),
        (b"", ""),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"dog/bad.jpg can't be decoded \(.*{said}.*replace"):
            load(tmp_path)
    assert [found for found in cache_home.rglob("*") if found.is_file()] == []
    file.write_bytes(whole)
    assert len(load(tmp_path).train_images) == 7


def test_image_of_16_bits_is_refused(tmp_path):
    """Pillow would cut what is above 255 off."""
    write_folder(tmp_path)
    Image.fromarray(np.full((8, 8), 4000, dtype=np.uint16)).save(tmp_path / "train/dog/deep.png")
    with pytest.raises(ValueError, match=r"deep.png has more than 8 bits a channel; convert it"):
        load(tmp_path)


def test_class_that_is_not_trained_is_refused_and_one_that_is_not_tested_is_fine(tmp_path):
    write_folder(tmp_path)
    save_image(tmp_path / "train/eel/0.png", np.zeros((8, 8, 3), dtype=np.uint8))
    assert load(tmp_path).num_classes == 3
    (tmp_path / "train/dog").rename(tmp_path / "train/fox")
    with pytest.raises(
        ValueError, match=r"1 of the test images' classes \(dog\) are not in .*/tra"
    ):
        load(tmp_path)


def test_images_deeper_in_a_class_count_and_other_files_are_told(tmp_path):
    write_folder(tmp_path)
    save_image(tmp_path / "train/dog/more/7.PNG", np.full((8, 8, 3), 7, dtype=np.uint8))
    (tmp_path / "train/dog/notes.txt").write_text("x")
    (tmp_path / "train/dog/.hidden.png").write_text("x")
    save_image(tmp_path / "val/cat/0.png", np.zeros((8, 8, 3), dtype=np.uint8))
    data = load(tmp_path)
    assert sorted(levels(data.train_images)) == [*range(6), 7]
    assert [
        ": 1 file whose suffix" in data.remarks[0],
        "val is left out, since" in data.remarks[1],
    ] == [True] * 2


@pytest.mark.parametrize("made", [[], ["train"], ["train/cat"]])
def test_missing_images_say_where_to_put_them(tmp_path, made):
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"(put images into|there are no images in) .*train/"):
        load(tmp_path)


def test_folder_that_can_not_be_looked_at_is_no_missing_one(tmp_path, monkeypatch):
    write_folder(tmp_path)
    stat = os.stat

    def fail(path, *more, **how):
        if os.path.basename(path) == "test":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, *more, **how)

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(ValueError, match=r"/test can't be read: permission denied; check it"):
        load(tmp_path)


def test_validation_takes_the_place_of_the_test_images(tmp_path):
    write_folder(tmp_path, train=20)
    data = load(tmp_path, validation=0.2)
    assert data.test_labels.tolist() == [0, 1, 0, 1]
    assert sorted(levels(data.train_images) + levels(data.test_images)) == list(range(20))


def test_folder_without_test_images_can_be_validated_on(tmp_path):
    write_folder(tmp_path, train=20, test=0)
    assert len(load(tmp_path).test_images) == 0
    assert len(load(tmp_path, validation=0.2).test_images) == 4


def test_link_to_a_folder_above_is_not_followed(tmp_path):
    """train/a/loop -> .. made all classes' images also those of a; three such loops never ended."""
    write_folder(tmp_path)
    before = load(tmp_path)
    train = tmp_path / "train"
    for place in sorted(train.iterdir()):
        (place / "loop").symlink_to(train)
    again = load(tmp_path)
    assert torch.equal(again.train_labels, before.train_labels)


def test_images_to_test_on_are_not_decoded_for_a_validation(tmp_path, cache_home):
    """All were, which takes as long as the training images for some sets."""
    write_folder(tmp_path)
    load(tmp_path)
    save_image(tmp_path / "test/dog/wide.png", np.zeros((20, 30, 3), dtype=np.uint8))
    for _ in range(2):
        data = load(tmp_path, validation=0.4)
        assert (len(data.train_images), len(data.test_images)) == (4, 2)
    assert len(list(cache_home.rglob("*.npy"))) == 2  # each has its own, and neither is in the way


def test_names_may_be_no_utf8(tmp_path):
    """The cache's name was a digest of them, which an archive's of the last century ended."""
    write_folder(tmp_path)
    (tmp_path / "train/cat").rename(tmp_path / "train" / os.fsdecode(b"c\xe4t"))
    (tmp_path / "test/cat").rename(tmp_path / "test" / os.fsdecode(b"c\xe4t"))
    assert sorted(levels(load(tmp_path).train_images)) == list(range(6))


def test_pipe_named_as_an_image_is_refused(tmp_path):
    """It was waited for, for ever."""
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "train/cat/pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is no plain file; take it out of the folder"):
        load(tmp_path)
