"""Train the classifier of `checkpoints/fashion-mnist-classifier`: a few minutes on one CPU core that is idle otherwise.

    python tools/train_classifier.py --data-root data

It learns from the 60,000 training images of Fashion-MNIST. Its last features are what `ddpm.evaluation` compares images
by; the card says how it was made, and how often it is right on the 10,000 test images.
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from ddpm.data import load_dataset
from ddpm.evaluation.features import fashion_classifier
from ddpm.evaluation.report import first_images
from ddpm.io.files import tensor_bytes, write_whole

FOLDER = Path(__file__).parents[1] / "checkpoints" / "fashion-mnist-classifier"
EPOCHS = 6
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
LABEL_SMOOTHING = 0.1


def images_of(root: Path, *, train: bool) -> TensorDataset:
    """One part of Fashion-MNIST, decoded once."""
    dataset = load_dataset("FashionMNIST", root=root, train=train)
    images, labels = first_images(dataset, len(dataset))  # pyright: ignore[reportArgumentType]
    assert labels is not None
    return TensorDataset(images, labels)


def trained(data: TensorDataset) -> nn.Sequential:
    """A classifier after some passes over the data, half of the images mirrored."""
    classifier = fashion_classifier()
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = EPOCHS * len(data) // BATCH_SIZE
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    sampler = RandomSampler(data, num_samples=steps * BATCH_SIZE)
    for step, (images, labels) in enumerate(DataLoader(data, BATCH_SIZE, sampler=sampler), start=1):
        mirrored = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(3))
        loss = F.cross_entropy(classifier(mirrored), labels, label_smoothing=LABEL_SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if step % 500 == 0:
            print(f"step {step} of {steps}  loss {loss.item():.4f}", flush=True)
    return classifier.eval()


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Tensor, labels: Tensor) -> float:
    """How often the likeliest class is right."""
    answers = torch.cat([classifier(batch).argmax(1) for batch in images.split(500)])
    return float((answers == labels).double().mean())


def main() -> None:
    """Train, keep the weights in float16, measure these, write the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    root = parser.parse_args().data_root
    torch.manual_seed(0)
    started = time.monotonic()
    classifier = trained(images_of(root, train=True))
    seconds = time.monotonic() - started
    kept = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in classifier.state_dict().items()
    }
    classifier.load_state_dict(kept)
    right = accuracy(classifier, *images_of(root, train=False).tensors)
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    FOLDER.mkdir(exist_ok=True)
    write_whole(FOLDER / "model.safetensors", tensor_bytes(kept))
    card = f"""# fashion-mnist-classifier

What `ddpm.evaluation.features.extractor("classifier")` compares images by: the 128 numbers before the last layer of a
small convolutional classifier of our own. It draws nothing.

| | |
|---|---|
| data | FashionMNIST, its 60,000 training images, 1 × 28 × 28, half of them mirrored |
| network | `ddpm.evaluation.features.fashion_classifier()`, {parameters:,} parameters, kept in float16 |
| training | {EPOCHS} passes, {BATCH_SIZE} images a step, AdamW, a cycle up to {LEARNING_RATE}, smoothed labels |
| command | `python tools/train_classifier.py` |
| time | {seconds / 60:.0f} minutes on a shared CPU, {torch.get_num_threads()} thread(s); torch {torch.__version__} |
| accuracy on the 10,000 test images | {right:.2%} |

Code and weights are under the MIT licence.
"""
    (FOLDER / "README.md").write_text(card, encoding="utf-8")
    print(f"{parameters:,} parameters, {seconds:.0f} s, accuracy {right:.4f}")


if __name__ == "__main__":
    main()
