"""Networks of torchvision and timm, imported: their logits are PyTorch's."""

import pytest
from foreign_models import parity

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.foreign.names import FOREIGN_NAMES, backbone_called

_LIBRARIES = [
    (backbone, program)
    for backbone, programs in FOREIGN_NAMES.items()
    for program in programs
    if program != "released"
]
_QUICK = ("resnet18", "torchvision")


@pytest.mark.parametrize(
    ("backbone", "program"),
    [
        pytest.param(*one, marks=() if one == _QUICK else pytest.mark.slow)
        for one in _LIBRARIES
    ],
)
def test_logits_are_those_of_the_library(backbone, program, tmp_path):
    # As they are handed out.
    ending = {"torchvision": ".pth", "timm": ".safetensors"}[program]
    found = parity(backbone, program, tmp_path, ending=ending)
    assert found.logit > 1
    assert found.difference < 1e-3


def test_every_name_is_one_of_our_backbones():
    assert set(FOREIGN_NAMES) <= set(BACKBONES)


def test_the_backbone_that_timm_calls_so():
    for backbone, programs in FOREIGN_NAMES.items():
        if "timm" in programs:
            assert backbone_called(f"{programs['timm'].model}.a1_in1k") == backbone
    assert backbone_called("resnet50") == "resnet50"
    assert backbone_called("resnet26") is backbone_called("") is None
