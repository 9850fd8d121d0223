"""Every backbone of the table: its size and cost, and that it learns.

`QUICK` names those that run in the quick suite; the others run with `-m slow`.
"""

import functools
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from blt_jax import losses
from blt_jax.hallucination.targets import confusion_pools
from blt_jax.models import BACKBONES, ModelSpec, build_model
from blt_jax.models.backbones.resnet import GroupedBottleneck, ResNet
from blt_jax.reports.backbones import (
    PUBLISHED,
    abstract_backbone,
    main,
    measure,
)
from blt_jax.training.append import HallucinationOptions
from blt_jax.training.augment import Augmentation, Normalisation
from blt_jax.training.mesh import make_mesh, put_batch, put_replicated
from blt_jax.training.state import create_state
from blt_jax.training.step import make_train_step

PAGE = Path(__file__).resolve().parents[1] / "docs" / "backbones.md"
NAMES = tuple(BACKBONES)
GROUPED = "grouped"  # what ResNeXt is made of, but two blocks: it compiles in a moment
QUICK = ("resnet10_narrow", "cifar_resnet20", "vit_s16", GROUPED)
# Pixels of a side, of those that do not take one.
SMALLEST = {"vgg16": 32, "densenet121": 32, "inception_v3": 75, "convnext_tiny": 32}
CLASSES, BATCH = 4, 6
# Of numbers that are some tens at most, after many layers in float32.
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


@pytest.fixture(scope="module", autouse=True)
def _grouped_backbone():
    def grouped(**options):
        return ResNet((1, 1), 64, block=GroupedBottleneck, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, GROUPED, grouped)
        yield


each = pytest.mark.parametrize("name", NAMES)
each_run = pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in (GROUPED, *NAMES)
    ],
)
each_run_slow = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)


@functools.cache
def model(name, **changes):
    return build_model(ModelSpec(backbone=name, num_classes=CLASSES, **changes))


@functools.cache
def variables(name):
    return model(name).init(jax.random.key(0))


def images(name, count=BATCH):
    size = SMALLEST.get(name, 32)
    shape = (count, size, size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def leaves(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@each
def test_sizes_and_costs_are_the_published_ones(name):
    ours = measure(name)
    # For a new backbone: what it must be, and from where, goes into PUBLISHED.
    assert name in PUBLISHED or name.startswith("resnet")
    if name in PUBLISHED:
        theirs = PUBLISHED[name]
        unit = theirs.rounded_to
        assert round(ours.parameters / unit) * unit == theirs.parameters
        if theirs.gmacs:
            assert ours.gflops == pytest.approx(2 * theirs.gmacs, rel=0.01)
    assert ours.small_gflops <= ours.gflops


@each
def test_features_of_any_image_size_and_number(name):
    definition, state = abstract_backbone(name)
    size = SMALLEST.get(name, 1)
    # Any number of them too, as `export` has it.
    (n,) = jax.export.symbolic_shape("n")

    def features(height):
        # Square images of two sizes are among what is measured above.
        x = jax.ShapeDtypeStruct((n, height, size + 45, 3), jnp.float32)
        return jax.eval_shape(lambda s, x: nnx.merge(definition, s)(x), state, x)

    found = features(size)
    assert found.shape == (n, measure(name).features)
    assert found.dtype == jnp.float32
    message = f"takes images of {size} px and more, not {size - 1}x{size + 45}: enlarge"
    with pytest.raises(ValueError, match=message):
        features(size - 1)


def test_the_page_is_made_from_the_backbones(monkeypatch):
    monkeypatch.delitem(BACKBONES, GROUPED)
    assert main([str(PAGE), "--check"]) == 0


def test_only_the_table_of_a_page_is_made(tmp_path, capsys, monkeypatch):
    kept = "resnet10_small"
    for name in list(BACKBONES):
        if name != kept:
            monkeypatch.delitem(BACKBONES, name)
    page = tmp_path / "page.md"
    page.write_text("one\n<!-- table -->\nold\n<!-- end -->\ntwo\n")
    assert main([str(page), "--check"]) == 1
    assert "differs from the backbones" in capsys.readouterr().err
    assert main([str(page)]) == 0
    lines = page.read_text().splitlines()
    assert lines[:2] == ["one", "<!-- table -->"] and lines[-2:] == [
        "<!-- end -->",
        "two",
    ]
    assert [line.split("|")[1].strip() for line in lines[4:-2]] == [f"`{kept}`"]
    assert main([str(page), "--check"]) == 0
    assert main([str(tmp_path / "gone.md")]) == 2


@each_run
def test_one_image_gives_what_its_row_of_a_batch_gives(name):
    features = jax.jit(model(name).features)
    x = images(name, 3)
    batch = features(*variables(name), x)
    assert batch.shape == (3, model(name).num_features)
    assert np.isfinite(batch).all() and np.ptp(batch, axis=0).max() > 0
    one = features(*variables(name), x[1:2])
    np.testing.assert_allclose(one[0], batch[1], **CLOSE)


def host_batch(name):
    """Six images and two seeds, as the pipeline gives them."""
    rng = np.random.default_rng(1)
    size = SMALLEST.get(name, 32)
    image = rng.integers(0, 256, (BATCH, size, size, 3), np.uint8)
    label = (np.arange(BATCH) % CLASSES).astype(np.int32)
    rows = np.arange(2, dtype=np.int32)
    return {
        "image": image,
        "label": label,
        "index": np.arange(BATCH, dtype=np.int32),
        "seed_image": image[rows],
        "seed_label": label[rows],
        "seed_index": rows,
        "seed_valid": np.ones(2, bool),
    }


def blt_step(name, **changes):
    """A step with hard examples: its sums, and what was before and is after it."""
    mesh = make_mesh(1)
    made = model(name, **changes)
    # Large, so that the smallest gradient (ConvNeXt scales its blocks by 1e-6) is seen.
    optimizer = optax.sgd(1e4)
    step = make_train_step(
        made,
        optimizer,
        losses.get("cross_entropy"),
        mesh=mesh,
        normalisation=Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        augmentation=Augmentation(True, 10.0, 0.4, 0.4, 0.4),
        hallucination=HallucinationOptions(
            step_size=1.0, max_iterations=2, threshold=(0.3, 0.5)
        ),
    )
    before = leaves(variables(name))
    state = create_state(*jax.tree.map(jnp.array, variables(name)), optimizer)
    labels = np.repeat(np.arange(CLASSES), 3)
    confusion = confusion_pools(labels, np.roll(labels, 1), CLASSES)
    arguments = (
        put_replicated(state, mesh),
        put_batch(host_batch(name), mesh),
        put_replicated(confusion, mesh),
        put_replicated(jax.random.key(7), mesh),
    )
    state, sums = step(*arguments)
    return jax.device_get(sums), before, leaves((state.params, state.batch_stats))


@each_run
def test_a_blt_step_reaches_every_parameter(name):
    sums, before, after = blt_step(name)
    assert np.isfinite(sums["loss"]) and sums["not_finite"] == 0
    assert before.keys() == after.keys()
    for path, array in after.items():
        assert np.isfinite(array).all(), path
        assert not np.array_equal(array, before[path]), path


@each_run_slow
def test_bfloat16(name):
    made = model(name, dtype="bfloat16")
    x = images(name)
    output, _ = jax.jit(made.apply_train)(*variables(name), x)
    assert np.isfinite(output.logits).all()
    # Statistics of six images would enlarge the differences, layer by layer.
    features = jax.jit(made.features)(*variables(name), x)
    assert features.dtype == jnp.bfloat16  # the head goes on in float32
    wanted = jax.jit(model(name).features)(*variables(name), x)
    off = np.abs(features.astype(jnp.float32) - wanted).mean()
    assert off < 0.1 * np.abs(wanted).mean()


@each_run_slow
def test_remat_changes_nothing_but_what_is_kept(name):
    # In float32 the statistics of six images enlarge rounding to per cents.
    with jax.enable_x64(True):
        x = images(name).astype(np.float64)
        direction = np.random.default_rng(2).normal(size=(BATCH, CLASSES))
        wide = {"dtype": "float64", "param_dtype": "float64"}
        params, stats = model(name, **wide).init(jax.random.key(0))
        results, kept = [], []
        for remat in (False, True):
            made = model(name, remat=remat, **wide)

            def loss(params, stats, made=made):
                output, new = made.apply_train(params, stats, x)
                return jnp.sum(output.logits * direction), new

            gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
            results.append(leaves(gradient(params, stats)))
            backward = jax.eval_shape(
                lambda params, stats, loss=loss: jax.vjp(
                    lambda p: loss(p, stats)[0], params
                )[1],
                params,
                stats,
            )
            kept.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
    assert kept[1] < kept[0]
    for path, plain in results[0].items():
        again, scale = results[1][path], np.abs(plain).max()
        np.testing.assert_allclose(again, plain, atol=1e-8 * scale, err_msg=path)
