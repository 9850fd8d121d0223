"""The same network and the same step in PyTorch, to be timed side by side.

Only for comparison: nothing of it is used in training. Weights are copied over, so
that both begin with the same loss.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from blt_jax.models.classifier import Model
from blt_jax.training.augment import Normalisation

try:
    import torch
    from torch import nn
except ImportError as error:
    raise ValueError(
        "--against torch: PyTorch is not installed; install blt-jax[torch]"
    ) from error

VERSION = torch.__version__
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = "bfloat16" if torch.cuda.is_available() else "float32"


class _Block(nn.Module):
    """A residual block of the same convolutions as ours, under the same names."""

    def __init__(self, block: BasicBlock | Bottleneck):
        super().__init__()
        self.depth = len(block.convolutions()) - block.projected
        for number in range(1, self.depth + 1):
            conv = _conv(getattr(block, f"conv{number}"))
            setattr(self, f"conv{number}", conv)
            setattr(self, f"norm{number}", nn.BatchNorm2d(conv.out_channels))
        if block.projected:
            self.shortcut_conv = _conv(block.shortcut_conv)
            self.shortcut_norm = nn.BatchNorm2d(self.shortcut_conv.out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for number in range(1, self.depth + 1):
            y = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(y))
            y = torch.relu(y) if number < self.depth else y
        if hasattr(self, "shortcut_conv"):
            x = self.shortcut_norm(self.shortcut_conv(x))
        return torch.relu(x + y)


class _Classifier(nn.Module):
    """ResNet with a squashing-cosine head, named as ours."""

    def __init__(self, backbone: ResNet, num_classes: int, alpha: float, beta: float):
        super().__init__()
        self.alpha, self.beta, self.small = alpha, beta, backbone.small_images
        self.stem_conv = _conv(backbone.stem_conv)
        self.stem_norm = nn.BatchNorm2d(self.stem_conv.out_channels)
        self.blocks = nn.ModuleDict(
            {name: _Block(backbone.blocks[name]) for name in backbone.block_names}
        )
        ours, features = backbone.projection, backbone.num_features
        self.projection = nn.Linear(ours.in_features, features) if ours else None
        self.kernel = nn.Parameter(torch.empty(num_classes, features))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem_conv(images)))
        if not self.small:
            x = nn.functional.max_pool2d(x, 3, 2, 1)
        for block in self.blocks.values():
            x = block(x)
        x = x.mean((2, 3))
        if self.projection is not None:
            x = torch.relu(self.projection(x))
        norm = x.norm(dim=1, keepdim=True)
        kernel = self.kernel / self.kernel.norm(dim=1, keepdim=True)
        return self.alpha / (self.beta + norm) * (x @ kernel.T)


def _conv(conv: nnx.Conv) -> nn.Conv2d:
    """The same convolution; ours have square kernels and "same" padding."""
    strides: Any = conv.strides
    size: Any = conv.kernel_size
    stride = strides if isinstance(strides, int) else strides[0]
    return nn.Conv2d(
        conv.in_features,
        conv.out_features,
        size[0],
        stride,
        size[0] // 2,
        groups=conv.feature_group_count,
        bias=False,
    )


def place(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch on the device, as ours is before its step is timed.

    images: [B, H, W, 3] uint8; labels: [B] int.
    """
    pixels, target = torch.from_numpy(images), torch.from_numpy(labels)
    return pixels.to(DEVICE), target.to(DEVICE).long()


def make_torch_step(
    model: Model,
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    normalisation: Normalisation,
    *,
    learning_rates: Mapping[str, float],
    compiled: bool,
) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """A training step (images [B, H, W, 3] uint8, labels [B] int64) -> its loss.

    The batch lies on the device (`place`).

    SGD with momentum 0.9 and weight decay 5e-4, cross-entropy, on the GPU if there is
    one; in bfloat16 (autocast) and channels_last there, as is usual. compiled: by
    `torch.compile`. Raises ValueError for a network that it does not know.
    """
    spec = model.spec
    backbone = nnx.eval_shape(
        lambda: BACKBONES[spec.backbone](projection=spec.projection, rngs=nnx.Rngs(0))
    )
    if not isinstance(backbone, ResNet) or spec.head != "squashing_cosine":
        raise ValueError(
            f"--against torch: knows residual networks with a squashing-cosine head, "
            f"not {spec.backbone} with head {spec.head}"
        )
    on_gpu = DEVICE.type == "cuda"
    layout = torch.channels_last if on_gpu else torch.contiguous_format
    network = _Classifier(backbone, spec.num_classes, spec.alpha, spec.beta)
    _copy(network, jax.device_get(params), jax.device_get(batch_stats))
    network.to(DEVICE).train()
    if on_gpu:
        network.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        [
            {
                "params": [
                    p for n, p in network.named_parameters() if (n == "kernel") == head
                ],
                "lr": learning_rates["head" if head else "backbone"],
            }
            for head in (False, True)
        ],
        momentum=0.9,
        weight_decay=5e-4,
    )
    mean, std = (
        torch.tensor(part, device=DEVICE)[None, :, None, None] for part in normalisation
    )
    forward = torch.compile(network) if compiled else network

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        pixels = images.permute(0, 3, 1, 2)
        x = ((pixels.float() / 255 - mean) / std).contiguous(memory_format=layout)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=on_gpu):
            logits = forward(x)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _copy(
    network: _Classifier, params: Mapping[str, Any], batch_stats: Mapping[str, Any]
) -> None:
    """Our weights and statistics under PyTorch's names and axes."""
    state: dict[str, torch.Tensor] = {"kernel": _tensor(params["head"]["kernel"].T)}
    renamed = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    renamed |= {"mean": "running_mean", "var": "running_var"}
    for tree in (params["backbone"], batch_stats["backbone"]):
        for path, leaf in jax.tree.leaves_with_path(tree):
            *layer, name = (str(key.key) for key in path)
            array = np.asarray(leaf)
            # HWIO -> OIHW; [in, out] -> [out, in].
            array = array.transpose((3, 2, 0, 1)) if array.ndim == 4 else array.T
            state[".".join([*layer, renamed[name]])] = _tensor(array)
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [name for name in missing if "num_batches_tracked" not in name]
    assert not missing and not unexpected, (missing, unexpected)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))
