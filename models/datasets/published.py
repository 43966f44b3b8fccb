"""What is known of published data sets: where they are to be had, and their files' checksums.

Owns addresses, MD5 sums and the sentences about a file that is missing, cut short or unlike the
published one. Knows nothing of what is in a file.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.paths import is_file, reading


@dataclass(frozen=True, kw_only=True)
class Published:
    """A data set as its authors publish it: `url` is an archive that unpacks into `folder`, or the
    address below which the files are, each gzipped. `md5`: of the unpacked files, by name."""

    name: str
    url: str
    size: str
    folder: str = ""
    md5: Mapping[str, str] = field(default_factory=dict)

    def remedy(self, path: Path) -> str:
        """What to download, and where to put it so that `path` is right."""
        if not self.folder:
            files = ", ".join(f"{name}.gz" for name in self.md5)
            return f"download {files} from {self.url} ({self.size}) into {path}"
        archive = self.url.rpartition("/")[2]
        return (
            f"download {self.url} ({self.size}) and unpack it there: mkdir -p {path} &&"
            f" tar -xzf {archive} -C {path}"
        )


# CIFAR's authors publish the MD5 sums of their archives (c32a1d4ab5d03f1284b67883e8d87530 and
# 03b5dce01913d631647c71ecec9e9cb8); those below are of the files in them, as
# github.com/rai-project/dldataset checks them behind the archives'. STL-10's are torchvision's.
# MNIST's and Fashion-MNIST's are of the unpacked files, since archives are often packed anew.
CIFAR10 = Published(
    name="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size="162 MB",
    folder="cifar-10-batches-bin",
    md5={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
)
CIFAR100 = Published(
    name="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    size="161 MB",
    folder="cifar-100-binary",
    md5={
        "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
        "test.bin": "4499cfba6c016c1be1438163640a0898",
    },
)
STL10 = Published(
    name="STL-10",
    url="http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    size="2.6 GB",
    folder="stl10_binary",
    md5={
        "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
        "train_y.bin": "5a34089d4802c674881badbb80307741",
        "unlabeled_X.bin": "5242ba1fed5e4be9e1e742405eb56ca4",
        "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
        "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
    },
)
MNIST = Published(
    name="MNIST",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    size="12 MB",
    md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
)
FASHION_MNIST = Published(
    name="Fashion-MNIST",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    size="31 MB",
    md5={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
)


def find_folder(path: Path, published: Published, first: str) -> Path:
    """The folder that holds a published set's files: `path`, or the set's own folder in it.

    `first` is a file by which it is known. Raises ValueError, with what to download.
    """
    for folder in (path, path / published.folder):
        if is_file(folder / first):
            return folder
    raise ValueError(
        f"there is no {first} in {path} or {path / published.folder};"
        f" for {published.name} {published.remedy(path)}"
    )


def find_file(folder: Path, name: str, published: Published) -> Path:
    """A file in a folder of a published set. Raises ValueError if it is missing."""
    file = folder / name
    if not is_file(file):
        raise ValueError(
            f"there is no {name} in {folder}, beside the other files of {published.name}; unpack"
            f" {published.url} anew"
        )
    return file


def checksum_remarks(
    found: Mapping[str, str], candidates: Sequence[Published], folder: Path
) -> list[str]:
    """A remark unless all files are those of one of the candidates; `found`: MD5 by file name."""
    if any(not _unlike(found, one) for one in candidates):
        return []
    nearest = min(candidates, key=lambda one: len(_unlike(found, one)))
    unlike = _unlike(found, nearest)
    names = " or ".join(one.name for one in candidates)
    return [
        f"{len(unlike)} of {len(found)} files in {folder} are not those published as {names}:"
        f" {unlike[0]} has MD5 {found[unlike[0]]}, not {nearest.md5[unlike[0]]}; figures may not"
        " compare with published ones"
    ]


def _unlike(found: Mapping[str, str], published: Published) -> list[str]:
    return [name for name, md5 in found.items() if published.md5[name] != md5]


def md5_of_file(file: Path) -> str:
    """A file's MD5 sum, in hexadecimal."""
    with reading(file), file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def md5_of(content: bytearray) -> str:
    """The MD5 sum of bytes, in hexadecimal."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
