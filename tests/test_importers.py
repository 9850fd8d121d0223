import json
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign_models import made_up_arrays
from PIL import Image

from blt_jax.models import ModelSpec, build_model
from blt_jax.models.foreign.array_files import ForeignCheckpointError
from blt_jax.models.foreign.files import ForeignWeights, read_weights
from blt_jax.models.foreign.importers import classes_of, convert
from blt_jax.models.foreign.report import Report

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
NUM_CLASSES = 3
ONE = np.ones(1, np.float32)


def converted(path, **spec):
    """A file as the model it is of, or as another; and that model."""
    weights = read_weights(path)
    if "num_classes" not in spec:
        spec["num_classes"] = classes_of(weights, "resnet10") or 1
    model = build_model(ModelSpec(**spec))
    return convert(weights, model, jax.random.key(0)), model


def read_original(path):
    imported, model = converted(path)
    assert not imported.report.drawn and not imported.report.unused
    return imported.params, imported.batch_stats, model.spec.num_classes


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", "2.10", reason="needs PyTorch 2.10 or later")


def state_dicts():
    """Random arrays under the names of the released code."""
    generator = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return (scale * generator.normal(size=shape)).astype(np.float32)

    def conv(out, into, size):
        return normal(out, into, size, size, scale=(2 / (size * size * out)) ** 0.5)

    feat = {"module.conv1.weight": conv(64, 3, 7)}

    def norm(name, size):
        for leaf in ("weight", "running_var"):
            feat[f"{name}.{leaf}"] = 0.5 + generator.random(size, np.float32)
        for leaf in ("bias", "running_mean"):
            feat[f"{name}.{leaf}"] = normal(size, scale=0.1)
        feat[f"{name}.num_batches_tracked"] = np.array(7)

    norm("module.bn1", 64)
    into = 64
    for stage, out in enumerate((64, 128, 256, 512), start=1):
        name = f"module.layer{stage}.0"
        feat[f"{name}.conv1.weight"] = conv(out, into, 3)
        norm(f"{name}.bn1", out)
        feat[f"{name}.conv2.weight"] = conv(out, out, 3)
        norm(f"{name}.bn2", out)
        if stage > 1:
            feat[f"{name}.downsample.0.weight"] = conv(out, into, 1)
            norm(f"{name}.downsample.1", out)
        into = out
    feat["module.fc_add.weight"] = normal(512, 512, scale=1 / 16)
    feat["module.fc_add.bias"] = normal(512, scale=1 / 16)
    kernel = normal(NUM_CLASSES, 512, scale=1 / 16)
    return {
        "feat_model": feat,
        "classifier": {"module.cosnorm_classifier.weight": kernel},
    }


@pytest.fixture(scope="module")
def arrays():
    return state_dicts()


def write_pth(path, best):
    import torch

    tensors = {g: {n: torch.tensor(a) for n, a in s.items()} for g, s in best.items()}
    torch.save(
        {"epoch": 1, "best_epoch": 1, "state_dict_best": tensors, "best_acc": 0.5}, path
    )


def write_npz(path, best, between="/"):
    flat = {f"{g}{between}{n}": a for g, s in best.items() for n, a in s.items()}
    np.savez(path, **flat)


def write_safetensors(path, best, between="/"):
    from safetensors.numpy import save_file

    flat = {f"{g}{between}{n}": a for g, s in best.items() for n, a in s.items()}
    save_file(flat, path)


@pytest.fixture
def save(arrays, tmp_path):
    """Write a checkpoint; `change(feat_model, classifier)` alters copies first."""

    def write(change=lambda feat, classifier: None):
        best = {group: dict(state) for group, state in arrays.items()}
        change(best["feat_model"], best["classifier"])
        write_npz(tmp_path / "original.npz", best)
        return tmp_path / "original.npz"

    return write


def torch_features(torch, feat, x):
    """ResNet-10 of the released code with torch's own functions; x [n, 3, h, w]."""
    f = torch.nn.functional
    feat = {name: torch.tensor(array) for name, array in feat.items()}

    def norm(x, name):
        weights = (feat[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var"))
        affine = (feat[f"{name}.{leaf}"] for leaf in ("weight", "bias"))
        return f.batch_norm(x, *weights, *affine, False, 0.1, 1e-5)

    x = f.conv2d(x, feat["module.conv1.weight"], None, 2, 3)
    x = f.max_pool2d(norm(x, "module.bn1").relu(), 3, 2, 1)
    for stage in range(1, 5):
        name, stride = f"module.layer{stage}.0", 1 if stage == 1 else 2
        y = f.conv2d(x, feat[f"{name}.conv1.weight"], None, stride, 1)
        y = f.conv2d(
            norm(y, f"{name}.bn1").relu(), feat[f"{name}.conv2.weight"], None, 1, 1
        )
        y = norm(y, f"{name}.bn2")
        if stage > 1:
            x = f.conv2d(x, feat[f"{name}.downsample.0.weight"], None, stride)
            x = norm(x, f"{name}.downsample.1")
        x = (x + y).relu()
    x = x.mean(dim=(2, 3))
    return f.linear(x, feat["module.fc_add.weight"], feat["module.fc_add.bias"]).relu()


def features_and_logits(model, params, batch_stats, images):
    @jax.jit
    def both(params, batch_stats, images):
        features = model.features(params, batch_stats, images)
        return features, model.apply_eval(params, batch_stats, images).logits

    return both(params, batch_stats, images)


def test_features_and_logits_are_those_of_torch(torch, arrays, save):
    params, batch_stats, num_classes = read_original(save())
    assert num_classes == NUM_CLASSES
    model = build_model(ModelSpec(num_classes=num_classes))
    # With an odd size, other padding than PyTorch's would shift the maps.
    x = np.random.default_rng(0).normal(size=(2, 45, 38, 3)).astype(np.float32)
    wanted = torch_features(
        torch, arrays["feat_model"], torch.tensor(x.transpose(0, 3, 1, 2))
    )
    features, logits = features_and_logits(model, params, batch_stats, x)
    np.testing.assert_allclose(features, wanted.numpy(), rtol=1e-4, atol=1e-4)
    w = torch.tensor(arrays["classifier"]["module.cosnorm_classifier.weight"])
    norm = wanted.norm(dim=1, keepdim=True)
    wanted = 16 * norm / (0.5 + norm) * (wanted / norm) @ (w.T / w.norm(dim=1))
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_the_trees_are_those_of_init(save):
    params, batch_stats, num_classes = read_original(save())
    model = build_model(ModelSpec(num_classes=num_classes))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    for ours, wanted in zip((params, batch_stats), shapes, strict=True):
        assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, wanted)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_names_without_the_prefix_of_data_parallel(save, arrays):
    def strip(*states):
        for state in states:
            for name in list(state):
                state[name.removeprefix("module.")] = state.pop(name)

    params, _, _ = read_original(save(strip))
    kernel = arrays["classifier"]["module.cosnorm_classifier.weight"]
    np.testing.assert_array_equal(params["head"]["kernel"], kernel.T)


@pytest.mark.parametrize("between", ["/", "."])
def test_every_kind_of_file_gives_the_same_arrays(tmp_path, arrays, between):
    write_npz(tmp_path / "a.npz", arrays, between)
    wanted = read_original(tmp_path / "a.npz")
    kernel = arrays["classifier"]["module.cosnorm_classifier.weight"]
    np.testing.assert_array_equal(wanted[0]["head"]["kernel"], kernel.T)
    pytest.importorskip("safetensors", reason="needs safetensors")
    write_safetensors(tmp_path / "A.SAFETENSORS", arrays, between)
    same_bits(read_original(tmp_path / "A.SAFETENSORS"), wanted)
    pytest.importorskip("torch", "2.10", reason="needs PyTorch 2.10 or later")
    if between == "/":  # once is enough: it takes seconds
        write_pth(tmp_path / "a.pth", arrays)
        same_bits(read_original(tmp_path / "a.pth"), wanted)


def same_bits(found, wanted):
    assert found[2] == wanted[2]
    for ours, theirs in zip(
        jax.tree.leaves_with_path(found[:2]),
        jax.tree.leaves_with_path(wanted[:2]),
        strict=True,
    ):
        assert ours[0] == theirs[0] and ours[1].dtype == theirs[1].dtype
        assert ours[1].shape == theirs[1].shape
        assert ours[1].tobytes() == theirs[1].tobytes(), ours[0]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda feat, _: feat.pop("module.layer3.0.bn1.bias"),
            "no 'feat_model.layer3.0.bn1.bias', which resnet10 has",
        ),
        (
            lambda feat, _: feat.update({"module.layer1.1.conv1.weight": ONE}),
            "also holds 'feat_model.layer1.1.conv1.weight'.*another architecture",
        ),
        (
            lambda feat, _: feat.update(
                {"module.layer1.0.conv1.weight": np.zeros((64, 64, 1, 1))}
            ),
            r"'feat_model.layer1.0.conv1.weight'.*\(1, 1, 64, 64\).*\(3, 3, 64, 64\)",
        ),
        (
            lambda feat, _: feat.update({"module.bn1.weight": np.zeros((64, 1))}),
            r"'feat_model.bn1.weight'.*\(64, 1\)",
        ),
        (
            lambda feat, _: feat.update({"bn1.weight": np.ones(64)}),
            "'feat_model.bn1.weight' is in it twice",
        ),
        (
            lambda feat, _: feat.update({"module.bn1.weight": np.full(64, np.nan)}),
            "'feat_model/module.bn1.weight' holds NaN",
        ),
    ],
)
def test_says_in_one_line_what_is_wrong_with_an_array(save, change, message):
    path = save(change)
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        read_original(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


NEW = ("0.head.kernel",)
PROJECTION = ("0.backbone.projection.bias", "0.backbone.projection.kernel")


@pytest.mark.parametrize(
    ("spec", "change", "drawn", "note"),
    [
        ({"num_classes": 5}, None, NEW, "has 3 classes and not 5"),
        (
            {"head": "linear"},
            None,
            ("0.head.bias", *NEW),
            "not one for config.model.head 'linear'",
        ),
        ({}, lambda _, classifier: classifier.clear(), NEW, "has no classifier"),
        (
            {},
            lambda feat, _: [
                feat.pop(f"module.fc_add.{x}") for x in ("weight", "bias")
            ],
            (*PROJECTION, *NEW),
            "what lies before it is drawn anew; config.model.projection=False takes",
        ),
    ],
)
def test_what_a_file_has_not_is_drawn_as_by_init(save, spec, change, drawn, note):
    imported, model = converted(save(change) if change else save(), **spec)
    report = imported.report
    assert report.drawn == tuple(name.partition(".")[2] for name in drawn)
    assert len(report.notes) == 1 and note in report.notes[0]
    lost = sum("backbone" in name for name in drawn)
    assert report.matched == 12 + 12 * 4 + 2 - lost
    assert f"matched, {report.parameters} numbers" in report.lines()[0]
    assert all(name in report.lines()[1] for name in report.drawn)
    fresh = model.init(jax.random.key(0))
    for name in drawn:
        ours, theirs = imported[int(name[0])], fresh[int(name[0])]
        for key in name.split(".")[1:]:
            ours, theirs = ours[key], theirs[key]
        np.testing.assert_array_equal(ours, theirs)
    json.dumps(report.summary())


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        ({"projection": False}, "projection=True and feature_relu=True take it over"),
        ({"feature_relu": False}, "projection=True and feature_relu=True take it over"),
        ({"attention": True}, "drawn anew; config.model.attention=False takes it over"),
    ],
)
def test_a_classifier_comes_only_with_what_it_was_trained_behind(save, spec, remedy):
    report = converted(save(), **spec)[0].report
    assert "head.kernel" in report.drawn
    assert report.notes[0].startswith("the file's classifier is left out, because ")
    assert report.notes[0].endswith(remedy)


def test_the_remedy_is_a_model_that_can_be_built(save):
    """Without a projection there is no ReLU after it to leave out."""

    def without_projection(feat, _):
        for leaf in ("weight", "bias"):
            del feat[f"module.fc_add.{leaf}"]

    path = save(without_projection)
    note = converted(path, feature_relu=False)[0].report.notes[0]
    assert note.endswith("projection=False and feature_relu=True takes it over")
    report = converted(path, projection=False, feature_relu=True)[0].report
    assert not report.drawn and not report.notes


def test_the_checkpoint_keeps_every_name_and_eight_are_printed():
    unused = tuple(f"{number:02}" + 100 * "x" for number in range(20))
    report = Report("timm", "resnet18", 0, 0, (), unused, ())
    kept = report.summary()["unused"]
    assert [name[:2] for name in kept] == [name[:2] for name in unused]
    assert max(map(len, kept)) == 80
    assert "07x" in report.lines()[2] and "08x" not in report.lines()[2]
    assert report.lines()[2].endswith(" and 12 more")


@pytest.mark.parametrize("released", [True, False])
def test_backbones_that_are_named_instead_can_be_read(released):
    arrays = {"feat_model.a": ONE} if released else {"a": ONE}
    backbone = "vit_s16" if released else "resnet10"
    message = f"names for {backbone} are not known"
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        classes_of(ForeignWeights(Path("a.npz"), arrays), backbone)
    named = str(caught.value).partition("name one of ")[2].partition(" as ")[0]
    assert len(named.split(", ")) > 10
    for one in named.split(", "):
        assert classes_of(ForeignWeights(Path("a.npz"), arrays), one) is None


def test_the_layer_of_a_plain_classifier_of_the_released_code(save):
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(3, 512)), rng.normal(size=3)

    def change(_, classifier):
        classifier.clear()
        classifier.update({"module.fc.weight": kernel, "module.fc.bias": bias})

    imported, _ = converted(save(change), head="linear")
    assert imported.report.drawn == ()
    head = imported.params["head"]
    np.testing.assert_array_equal(head["kernel"], kernel.T.astype(np.float32))
    np.testing.assert_array_equal(head["bias"], bias.astype(np.float32))


def test_a_backbone_alone_becomes_a_backbone_with_a_new_head(tmp_path):
    arrays = made_up_arrays("resnet18", "torchvision")
    np.savez(tmp_path / "a.npz", **arrays)
    spec = {"backbone": "resnet18", "num_classes": 5}
    imported, _ = converted(tmp_path / "a.npz", **spec)
    assert imported.report.program == "torchvision"
    assert imported.report.lines()[0].startswith("torchvision weights for resnet18: ")
    assert imported.report.matched == len(arrays) == 100
    assert imported.report.drawn == (
        "backbone.projection.bias",
        "backbone.projection.kernel",
        "head.kernel",
    )
    block = imported.params["backbone"]["blocks"]["stage2_block1"]
    kernel = arrays["layer2.0.downsample.0.weight"]
    for out, into in ((0, 0), (127, 63), (3, 60)):
        assert block["shortcut_conv"]["kernel"][0, 0, into, out] == kernel[out, into]
    deeper = {**arrays, "layer1.2.conv1.weight": np.ones((64, 64, 3, 3))}
    with pytest.raises(ForeignCheckpointError, match=r"also holds 'layer1\.2\.conv1"):
        convert(
            ForeignWeights(tmp_path / "a.npz", deeper),
            build_model(ModelSpec(**spec)),
            jax.random.key(0),
        )
    for backbone, message in (
        (
            "resnet34",
            r"no 'layer1\.2\.conv1\.weight', which resnet34 has as torchvision",
        ),
        (
            "resnet10_narrow",
            "another library's names for resnet10_narrow are not known",
        ),
        ("resnet10", "another library's names for resnet10 are not known; name one of"),
    ):
        with pytest.raises(ForeignCheckpointError, match=message):
            converted(tmp_path / "a.npz", backbone=backbone, num_classes=3)
    np.savez(tmp_path / "b.npz", some=ONE)
    with pytest.raises(ForeignCheckpointError, match="none of its 1 arrays, such as"):
        converted(tmp_path / "b.npz", **spec)


@pytest.mark.parametrize("name", ["", "/", ".", "conv1", "feat_model2/x", "\x1b[2J/x"])
def test_names_of_no_group(save, tmp_path, name):
    np.savez(tmp_path / "a.npz", **{"feat_model/bn1.bias": ONE, name: ONE})
    message = "belongs to no group"
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        read_original(tmp_path / "a.npz")
    assert str(caught.value).isprintable()


def test_no_file(tmp_path):
    for name in ("nothing.pth", "nothing.npz", "nothing.safetensors"):
        with pytest.raises(FileNotFoundError, match=f"{name}: no such file"):
            read_original(tmp_path / name)


@pytest.fixture(scope="module")
def original(torch, shared):
    """Model and weights of the reference checkpoint."""
    path = shared / "reference" / "original_resnet10_tiny_imagenet_lt.pth"
    params, batch_stats, num_classes = read_original(path)
    model = build_model(ModelSpec(num_classes=num_classes, alpha=16.0, beta=0.5))
    return model, params, batch_stats


def test_the_original_checkpoint_gives_the_original_features(shared, original):
    model, params, batch_stats = original
    oracle = np.load(shared / "reference" / "ascent_oracle.npz")
    images = (oracle["images_uint8"] / np.float32(255) - MEAN) / STD
    features, logits = features_and_logits(model, params, batch_stats, images)
    np.testing.assert_allclose(features, oracle["features"], atol=1e-4)
    np.testing.assert_allclose(logits, oracle["logits"], atol=1e-4)


def test_the_original_checkpoint_read_without_torch(torch, shared, tmp_path, original):
    path = shared / "reference" / "original_resnet10_tiny_imagenet_lt.pth"
    saved = torch.load(path, weights_only=True)["state_dict_best"]
    best = {g: {n: t.numpy() for n, t in s.items()} for g, s in saved.items()}
    write_npz(tmp_path / "original.npz", best)
    _, params, batch_stats = original
    wanted = params, batch_stats, 200
    same_bits(read_original(tmp_path / "original.npz"), wanted)
    pytest.importorskip("safetensors", reason="needs safetensors")
    write_safetensors(tmp_path / "original.safetensors", best)
    same_bits(read_original(tmp_path / "original.safetensors"), wanted)


@pytest.mark.slow
def test_the_original_checkpoint_gives_the_original_predictions(
    shared, original, tiny_imagenet_lt
):
    model, params, batch_stats = original
    oracle = np.load(shared / "reference" / "evaluation_oracle.npz")

    @jax.jit
    def predict(images):
        return model.apply_eval(params, batch_stats, images).logits.argmax(axis=1)

    for split in ("val", "test"):
        lines = (tiny_imagenet_lt / f"tiny_imagenet_lt_{split}.txt").read_text()
        paths = [line.rsplit(" ", 1)[0] for line in lines.splitlines()]
        predictions = []
        for start in range(0, len(paths), 200):
            images = np.stack(
                [
                    np.asarray(Image.open(tiny_imagenet_lt / path).convert("RGB"))
                    for path in paths[start : start + 200]
                ]
            )
            predictions.append(predict((images / np.float32(255) - MEAN) / STD))
        same = np.concatenate(predictions) == oracle[f"{split}_predictions"]
        assert same.mean() >= 0.999
