import pickle
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

from blt_jax.models import ModelSpec, build_model
from blt_jax.models.importers import ForeignCheckpointError, read_original

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
NUM_CLASSES = 3


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", "2.10", reason="needs PyTorch 2.10 or later")


def state_dicts(torch):
    """Random arrays under the names of the released code."""
    generator = torch.Generator().manual_seed(0)

    def conv(out, into, size):
        scale = (2 / (size * size * out)) ** 0.5
        return torch.randn(out, into, size, size, generator=generator) * scale

    feat = {"module.conv1.weight": conv(64, 3, 7)}

    def norm(name, size):
        for leaf, low in [("weight", 0.5), ("running_var", 0.5)]:
            feat[f"{name}.{leaf}"] = low + torch.rand(size, generator=generator)
        for leaf in ("bias", "running_mean"):
            feat[f"{name}.{leaf}"] = 0.1 * torch.randn(size, generator=generator)
        feat[f"{name}.num_batches_tracked"] = torch.tensor(7)

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
    feat["module.fc_add.weight"] = torch.randn(512, 512, generator=generator) / 16
    feat["module.fc_add.bias"] = torch.randn(512, generator=generator) / 16
    kernel = torch.randn(NUM_CLASSES, 512, generator=generator) / 16
    return {
        "feat_model": feat,
        "classifier": {"module.cosnorm_classifier.weight": kernel},
    }


@pytest.fixture(scope="module")
def arrays(torch):
    return state_dicts(torch)


@pytest.fixture
def save(torch, arrays, tmp_path):
    """Write a checkpoint; `change(feat_model, classifier)` alters copies first."""

    def write(change=lambda feat, classifier: None):
        best = {group: dict(state) for group, state in arrays.items()}
        change(best["feat_model"], best["classifier"])
        path = tmp_path / "final_model_checkpoint.pth"
        torch.save(
            {"epoch": 1, "best_epoch": 1, "state_dict_best": best, "best_acc": 0.5},
            path,
        )
        return path

    return write


def torch_features(torch, feat, x):
    """ResNet-10 of the released code with torch's own functions; x [n, 3, h, w]."""
    f = torch.nn.functional

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
    w = arrays["classifier"]["module.cosnorm_classifier.weight"]
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
    np.testing.assert_array_equal(params["head"]["kernel"], kernel.numpy().T)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda torch, feat, _: feat.pop("module.layer3.0.bn1.bias"),
            "no 'module.layer3.0.bn1.bias' in 'feat_model'",
        ),
        (
            lambda torch, _, classifier: classifier.clear(),
            "no 'module.cosnorm_classifier.weight'",
        ),
        (
            lambda torch, feat, _: feat.update(
                {"module.layer1.1.conv1.weight": torch.zeros(64, 64, 3, 3)}
            ),
            "also holds 'module.layer1.1.conv1.weight'.*another architecture",
        ),
        (
            lambda torch, feat, _: feat.update(
                {"module.layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}
            ),
            r"'module.layer1.0.conv1.weight'.*\(1, 1, 64, 64\).*\(3, 3, 64, 64\)",
        ),
        (
            lambda torch, feat, _: feat.update(
                {"module.bn1.weight": torch.zeros(64, 1)}
            ),
            r"'module.bn1.weight'.*\(64, 1\)",
        ),
        (
            lambda torch, feat, _: feat.update(
                {"module.bn1.weight": torch.full((64,), float("nan"))}
            ),
            "'module.bn1.weight' in 'feat_model' holds NaN",
        ),
        (
            lambda torch, feat, _: feat.update({"module.bn1.weight": "text"}),
            "'module.bn1.weight' in 'feat_model' is not an array",
        ),
        (
            # One stored number, seen as 40 TB.
            lambda torch, _, classifier: classifier.update(
                {
                    "module.cosnorm_classifier.weight": torch.zeros(1, 1).expand(
                        2 * 10**10, 512
                    )
                }
            ),
            "is larger than the file",
        ),
    ],
)
def test_says_in_one_line_what_is_wrong_with_an_array(torch, save, change, message):
    path = save(lambda feat, classifier: change(torch, feat, classifier))
    with pytest.raises(ForeignCheckpointError, match=message) as caught:
        read_original(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "saved, message",
    [
        ({"model": 1}, "no 'state_dict_best'"),
        ([1, 2], "no 'state_dict_best'"),
        ({"state_dict_best": 3}, "no 'feat_model'"),
        ({"state_dict_best": {"feat_model": {}}}, "no 'classifier'"),
    ],
)
def test_another_checkpoint(torch, tmp_path, saved, message):
    torch.save(saved, tmp_path / "other.pth")
    with pytest.raises(ForeignCheckpointError, match=message):
        read_original(tmp_path / "other.pth")


def test_not_a_checkpoint(torch, save, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth: no such file"):
        read_original(tmp_path / "nothing.pth")
    path = save()
    whole = path.read_bytes()
    for content in (b"", b"a text\n", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ForeignCheckpointError, match="not read") as caught:
            read_original(path)
        assert "\n" not in str(caught.value)


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_file_is_not_run(torch, tmp_path, how):
    trap = tmp_path / "ran"
    path = tmp_path / "evil.pth"
    content = {"state_dict_best": _Touch(trap)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ForeignCheckpointError, match=r"evil\.pth: not read"):
        read_original(path)
    assert not trap.exists()


def test_names_the_extra_where_torch_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "some.pth"
    path.write_bytes(b"")
    with pytest.raises(ForeignCheckpointError, match=r"blt-jax\[torch\]"):
        read_original(path)


def test_refuses_a_torch_with_known_holes(monkeypatch, tmp_path):
    old = types.ModuleType("torch")
    old.__version__ = "2.9.1+cpu"
    monkeypatch.setitem(sys.modules, "torch", old)
    path = tmp_path / "some.pth"
    path.write_bytes(b"")
    with pytest.raises(ForeignCheckpointError, match="CVE-2026-24747"):
        read_original(path)


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
