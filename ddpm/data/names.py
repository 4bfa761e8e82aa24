"""The data sets that have a name, and how torchvision's are called. Importing this does not import torch.

What a word means, a name or a path, is the rule of `ddpm.io.paths`: of data a name goes first.
"""

import difflib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from ddpm.io.paths import canonical, expanded, holds_run, is_path

DIGITS = "digits"
# The classes of torchvision.datasets whose items are images, by how each is told which part to give: the argument, and
# for `split` its value for the training part, where there is one.
_CLASSES = {
    "train": "CIFAR10 CIFAR100 EMNIST FashionMNIST Kitti KMNIST MNIST PhotoTour QMNIST USPS",
    "split=train": "CelebA Cityscapes CLEVRClassification Country211 DTD FER2013 Flowers102 Food101 GTSRB ImageNet"
    " Imagenette PCAM RenderedSST2 StanfordCars STL10 SVHN WIDERFace",
    "split=trainval": "FGVCAircraft OxfordIIITPet",
    "split=train-standard": "Places365",
    "split=": "LFWPairs LFWPeople MovingMNIST",
    "": "Caltech101 Caltech256 CocoCaptions CocoDetection EuroSAT FakeData Flickr30k Flickr8k INaturalist LSUN Omniglot"
    " SBU SEMEION SUN397 VOCDetection VOCSegmentation",
}
TORCHVISION = {name: part for part, names in _CLASSES.items() for name in names.split()}
# What else, besides `root`, has no default in some of them; and those that fetch no files, or have none.
NEEDS = {"EMNIST": "split", "PhotoTour": "name", "Flickr30k": "ann_file", "Flickr8k": "ann_file"} | (
    {"CocoCaptions": "annFile", "CocoDetection": "annFile"}
)
_NO_DOWNLOAD = "Cityscapes CocoCaptions CocoDetection FakeData FER2013 Flickr30k Flickr8k ImageNet LSUN"
NO_DOWNLOAD, NO_ROOT = frozenset(_NO_DOWNLOAD.split()), frozenset({"FakeData"})


_BY_WORD = {canonical(name): name for name in (DIGITS, *TORCHVISION)}


def known_name(name_or_path: str | Path) -> str | None:
    """The name "digits" or that of torchvision's class, however it is spelled; None for a path or an unknown word."""
    return None if is_path(name_or_path) else _BY_WORD.get(canonical(str(name_or_path)))


def suggestion(name: str, known: Iterable[str]) -> str:
    """For a message: the names close to this one, and all there are."""
    by_word = {canonical(other): other for other in known}
    close = [by_word[word] for word in difflib.get_close_matches(canonical(name), by_word, n=4, cutoff=0.5)]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{hint}; known are {', '.join(sorted(by_word.values(), key=str.lower))}"


def check_name_or_folder(name_or_path: str | Path) -> None:
    """Refuse what is neither the name of a data set nor a folder; for a word with the names that are close.

    A name beside a folder of that name, unless that is a run's, is a warning, which says how to mean the folder.
    """
    name, folder = known_name(name_or_path), expanded(name_or_path)
    if str(name_or_path) == "":
        raise ValueError("the data are an empty word: give the name of a data set or the path of a folder")
    if name and folder.is_dir() and not holds_run(folder):
        # From one place, so that Python says it once however often the name is looked up.
        warnings.warn(
            f"{str(name_or_path)!r} is taken for {described(name_or_path)}, not for the folder of that name here; for"
            f" the folder write .{os.sep}{name_or_path}",
            stacklevel=1,
        )
    if not (name or folder.is_dir()):
        if is_path(name_or_path) or folder.is_file():
            what = "is a file" if folder.exists() else "does not exist"
            raise NotADirectoryError(f"{folder} {what}; give the path of a folder that holds images")
        hint = suggestion(str(name_or_path), _BY_WORD.values())
        raise ValueError(f"there is no folder {str(name_or_path)!r} and no data set of that name{hint}")


def described(name_or_path: str | Path, root: str | Path | None = None) -> str:
    """What a word was taken for: a data set by name, with the `root` of torchvision's files if given, or a folder."""
    name = known_name(name_or_path)
    if name is None:
        folder = expanded(name_or_path)
        return f"the folder {folder}" + ("" if folder.is_dir() else ", which is not there")
    if name == DIGITS:
        return "the digits of scikit-learn"
    return f"torchvision's data set {name}" + (f", its files in {root}" if root is not None else "")
