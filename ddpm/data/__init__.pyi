from .datasets import digits as digits
from .datasets import load_dataset as load_dataset
from .datasets import torchvision_dataset as torchvision_dataset
from .folder import FolderDataset as FolderDataset
from .folder import PrepareImage as PrepareImage
from .folder import image_folder as image_folder
