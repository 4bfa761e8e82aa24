from .datasets import digits as digits
from .datasets import load_dataset as load_dataset
from .datasets import torchvision_dataset as torchvision_dataset
from .folder import FolderDataset as FolderDataset
from .folder import image_folder as image_folder
from .images import PrepareImage as PrepareImage
