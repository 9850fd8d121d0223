"""Networks of torchvision and timm, imported: their logits are PyTorch's."""

import import_parity
import pytest
from foreign_models import assert_names_match, parity

from blt_jax.models.backbones import BACKBONES
from blt_jax.models.foreign.names import FOREIGN_NAMES, backbone_called

# Of torchvision, about its own.
pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization")

_LIBRARIES = [
    (backbone, program)
    for backbone, programs in FOREIGN_NAMES.items()
    for program in programs
    if program != "released"
]
# One network of each table of names.
_QUICK_NAMES = (
    ("resnext50", "torchvision"),
    ("vgg16", "torchvision"),
    ("densenet121", "torchvision"),
    ("shufflenet_v2", "torchvision"),
    ("efficientnet_b0", "torchvision"),
    ("inception_v3", "torchvision"),
    ("vit_s16", "timm"),
    ("convnext_tiny", "torchvision"),
)
_QUICK_LOGITS = (("resnet18", "torchvision"),)


def libraries(quick):
    """A parameter for each network of a library; those that are not quick are slow."""
    return pytest.mark.parametrize(
        ("backbone", "program"),
        [
            one if one in quick else pytest.param(*one, marks=pytest.mark.slow)
            for one in _LIBRARIES
        ],
    )


@libraries(_QUICK_NAMES)
def test_names_and_shapes_are_those_of_the_library(backbone, program):
    assert_names_match(backbone, program)


@libraries(_QUICK_LOGITS)
def test_logits_are_those_of_the_library(backbone, program, tmp_path):
    # As they are handed out.
    ending = {"torchvision": ".pth", "timm": ".safetensors"}[program]
    found = parity(backbone, program, tmp_path, ending=ending)
    assert found.logit > 1
    assert found.difference < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "program", "size"),
    [
        ("resnet18", "torchvision", 45),
        ("resnext50", "torchvision", 50),
        ("vgg16", "torchvision", 32),
        ("vgg16", "torchvision", 70),
        ("densenet121", "torchvision", 45),
        ("shufflenet_v2", "torchvision", 38),
        ("efficientnet_b0", "torchvision", 45),
        ("efficientnet_b5", "torchvision", 45),
        ("inception_v3", "torchvision", 83),
        ("convnext_tiny", "torchvision", 75),
        ("vit_s16", "timm", 272),
        ("vit_s16", "timm", 96),
        ("vit_s16", "timm", 40),
    ],
)
def test_logits_for_other_image_sizes(backbone, program, size, tmp_path):
    options = {}
    if backbone == "vit_s16":
        options = {"dynamic_img_size": True, "dynamic_img_pad": True}
    found = parity(backbone, program, tmp_path, size=size, **options)
    assert found.logit > 1
    assert found.difference < 1e-3


def test_the_table_without_a_library_ends_in_one_line(monkeypatch, capsys):
    def lacking(*arguments):
        pytest.skip("needs timm")

    monkeypatch.setattr(import_parity, "parity", lacking)
    with pytest.raises(SystemExit) as end:
        import_parity.main(["resnet18"])
    assert end.value.code == "needs timm"
    assert capsys.readouterr().out.count("\n") == 2


def test_every_name_is_one_of_our_backbones():
    assert set(FOREIGN_NAMES) <= set(BACKBONES)


def test_the_backbone_that_timm_calls_so():
    for backbone, programs in FOREIGN_NAMES.items():
        if "timm" in programs:
            assert backbone_called(f"{programs['timm'].model}.a1_in1k") == backbone
    assert backbone_called("resnet50") == "resnet50"
    assert backbone_called("resnet26") is backbone_called("") is None
