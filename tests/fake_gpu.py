"""A GPU that is not there: tensors that know shape, type and device, and a watch over all that waits for one.

torch's fake tensors stand for tensors on "cuda" without a driver. An operation on tensors of two devices raises, as it
would on a GPU. What waits for a GPU are looks at values (`.item()`, a tensor in an `if`), selections of unknown size,
and copies to the CPU: here each raises, but for those of the functions that a test names as allowed.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LOOK = torch.ops.aten._local_scalar_dense.default
_OF_UNKNOWN_SIZE = (torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default)


class RoundTripError(AssertionError):
    """Something waits for the GPU that must not."""


class Watch(TorchDispatchMode):
    """Notes which functions of the package wait for the GPU, and what they are told; those not named raise.

    Attributes:
        allowed: name of a function -> what it sees where it looks at a number of the GPU.
        waits: the names of those that did, in turn.
    """

    def __init__(self, allowed: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.allowed, self.waits = dict(allowed or {}), []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(x.device.type == "cuda" for x in tensors)
        if func is _LOOK and not on_gpu and isinstance(tensors[0], FakeTensor):
            return 1  # a number on the CPU, of whatever value
        if on_gpu and (func is _LOOK or func in _OF_UNKNOWN_SIZE):
            return self._wait(str(func))
        output = func(*args, **(kwargs or {}))
        if on_gpu and isinstance(output, Tensor) and output.device.type == "cpu":
            self._wait(f"{func}, a copy to the CPU")
        return output

    def _wait(self, what: str) -> float:
        frame = sys._getframe(2)
        while "/ddpm/" not in frame.f_code.co_filename and frame.f_back is not None:
            frame = frame.f_back
        name = frame.f_code.co_name
        if name not in self.allowed:
            raise RoundTripError(f"{name} waits for the GPU by {what}")
        self.waits.append(name)
        return self.allowed[name]


def on_gpu(x: Tensor) -> Tensor:
    """A fake tensor of the GPU like this one."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


def move(module: nn.Module) -> nn.Module:
    """The module with all its parameters and buffers on the fake GPU."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(on_gpu(weight), requires_grad=weight.requires_grad)
        for name, table in part._buffers.items():
            part._buffers[name] = None if table is None else on_gpu(table)
    return module


def wants_a_driver() -> bool:
    """Whether this torch cannot index a fake tensor of a GPU without a driver, as the CUDA build of 2.6 cannot."""
    try:
        with FakeTensorMode():
            return torch.empty(1, device="cuda")[None] is None
    except RuntimeError:
        return True


@contextlib.contextmanager
def real() -> Iterator[None]:
    """Tensors are real within, on the CPU: to build what is to be moved."""
    with unset_fake_temporarily():
        yield


@contextlib.contextmanager
def fake_gpu(**allowed: float) -> Iterator[Watch]:
    """Everything is fake within, and watched; `allowed` are functions that may wait."""
    with FakeTensorMode(), Watch(allowed) as watch:
        yield watch
