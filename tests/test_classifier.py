import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from blt_jax.models import BACKBONES, ModelSpec, build_model
from blt_jax.models.backbones.resnet import ResNet

SPEC = ModelSpec(backbone="two_stages", num_classes=5)


def two_stages(**options):
    """All kinds of layers there are, but few of them, as compiling takes long."""
    return ResNet((1, 1), 8, small_images=True, **options)


@pytest.fixture(scope="module", autouse=True)
def _small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "two_stages", two_stages)
        yield


@pytest.fixture(scope="module")
def model(_small_backbone):
    return build_model(SPEC)


@pytest.fixture(scope="module")
def variables(model):
    """Weights, and statistics that are not those of the start."""
    params, batch_stats = model.init(jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.1, batch_stats)
    return params, moved


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (8, 8, 8, 3))


@pytest.fixture(scope="module")
def apply_eval(model):
    return jax.jit(model.apply_eval)


def trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_init_gives_plain_dicts_by_part(model):
    params, batch_stats = model.init(jax.random.key(0))
    assert set(params) == {"backbone", "head"} and set(batch_stats) == {"backbone"}
    for path, leaf in jax.tree.leaves_with_path((params, batch_stats)):
        assert all(isinstance(entry.key, str) for entry in path[1:])
        assert isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32
    assert params["head"]["kernel"].shape == (model.num_features, 5)


def test_init_depends_on_its_key_only_and_works_in_jit(model):
    first, again, other = (model.init(jax.random.key(k)) for k in (0, 0, 1))
    trees_close(first, again, rtol=0)
    trees_close(first, jax.jit(model.init)(jax.random.key(0)), rtol=0)
    assert not np.array_equal(first[0]["head"]["kernel"], other[0]["head"]["kernel"])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, shapes)


def test_optax_takes_the_two_parts_apart(variables):
    params, _ = variables
    optimizer = optax.multi_transform(
        {"slow": optax.sgd(0.01), "fast": optax.sgd(0.1)},
        {"backbone": "slow", "head": "fast"},
    )
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.1)
    np.testing.assert_allclose(updates["backbone"]["projection"]["bias"], -0.01)


def test_evaluation_rows_do_not_depend_on_each_other(apply_eval, variables, images):
    output = apply_eval(*variables, images)
    changed = apply_eval(*variables, images.at[3:].set(7.0))
    np.testing.assert_allclose(output.logits[:3], changed.logits[:3], atol=1e-5)


def test_features_are_what_the_head_gets(model, apply_eval, variables, images):
    params, batch_stats = variables
    x = np.asarray(jax.jit(model.features)(params, batch_stats, images), np.float64)
    assert x.shape == (8, model.num_features)
    w = np.asarray(params["head"]["kernel"], np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    logits = 16 / (0.5 + norm) * x @ (w / np.linalg.norm(w, axis=0, keepdims=True))
    output = apply_eval(params, batch_stats, images)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-5)


def test_training_uses_the_batch_and_changes_nothing_in_place(model, variables, images):
    params, batch_stats = variables
    before = jax.tree.map(np.array, batch_stats)
    step = jax.jit(model.apply_train)
    output, new = step(params, batch_stats, images)
    trees_close(before, batch_stats, rtol=0)
    assert jax.tree.structure(new) == jax.tree.structure(batch_stats)
    # The stem's mean and variance can be worked out apart.
    kernel = params["backbone"]["stem_conv"]["kernel"]
    maps = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for name, value in [("mean", maps.mean((0, 1, 2))), ("var", maps.var((0, 1, 2)))]:
        old = batch_stats["backbone"]["stem_norm"][name]
        np.testing.assert_allclose(
            new["backbone"]["stem_norm"][name],
            0.9 * old + 0.1 * value,
            rtol=1e-4,
            atol=1e-5,
        )
    # What the running statistics are makes no difference to the output.
    other = step(params, jax.tree.map(jnp.ones_like, batch_stats), images)[0]
    np.testing.assert_array_equal(output.logits, other.logits)


@pytest.mark.slow
def test_padding_changes_nothing_in_float64():
    """Outputs, gradients and statistics of 4 rows alone and with 4 masked ones."""
    with jax.enable_x64(True):
        spec = dataclasses.replace(SPEC, dtype="float64", param_dtype="float64")
        model = build_model(spec)
        params, batch_stats = model.init(jax.random.key(0))
        for leaf in jax.tree.leaves((params, batch_stats)):
            assert leaf.dtype == jnp.float64
        images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3), jnp.float64)

        @jax.jit
        def run(params, images, mask):
            def loss(params, images):
                output, new = model.apply_train(params, batch_stats, images, mask)
                rows = jnp.sin(output.logits).sum(axis=1)
                return jnp.sum(jnp.where(mask, rows, 0)), (output, new)

            both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
            (value, (output, new)), (wrt_params, wrt_images) = both(params, images)
            first = jax.tree.map(lambda leaf: leaf[:4], (output, wrt_images))
            return value, new, wrt_params, first, wrt_images[4:]

        def padded(width):
            extra = jnp.full((width, 8, 8, 3), 3.0)
            return run(
                params, jnp.concatenate([images, extra]), jnp.arange(4 + width) < 4
            )

        alone, doubled = padded(0), padded(4)
        trees_close(alone[:4], doubled[:4], rtol=1e-9, atol=1e-11)
        assert not np.any(doubled[4])
        assert alone[3][0].logits.dtype == jnp.float64


def test_no_mask_is_a_mask_of_ones(model, variables, images):
    step = jax.jit(model.apply_train)
    ones = jnp.ones(8, bool)
    trees_close(
        step(*variables, images), step(*variables, images, ones), rtol=1e-5, atol=1e-5
    )


def test_one_image_at_a_time_under_vmap_grad_and_while_loop(model, variables, images):
    params, batch_stats = variables

    def score(image):
        return model.apply_eval(params, batch_stats, image[None]).logits[0, 2]

    def climb(image):
        return jax.lax.while_loop(
            lambda carry: carry[0] < 1,
            lambda carry: (carry[0] + 1, carry[1] + jax.grad(score)(carry[1])),
            (0, image),
        )[1]

    batched = jax.grad(
        lambda x: model.apply_eval(params, batch_stats, x).logits[:, 2].sum()
    )
    moved = jax.jit(jax.vmap(climb))(images)
    np.testing.assert_allclose(
        moved - images, jax.jit(batched)(images), rtol=1e-3, atol=1e-5
    )


def test_in_shard_map(model, apply_eval, variables, images):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(
        lambda p, b, x: model.apply_eval(p, b, x).logits,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec("data"),
    )
    np.testing.assert_allclose(
        jax.jit(sharded)(*variables, images),
        apply_eval(*variables, images).logits,
        rtol=1e-4,
        atol=1e-5,
    )


def test_bfloat16_keeps_float32_where_it_matters(variables, images, apply_eval):
    model = build_model(dataclasses.replace(SPEC, dtype="bfloat16"))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    features = jax.eval_shape(model.features, *variables, images)
    assert features.dtype == jnp.bfloat16
    output = jax.jit(model.apply_eval)(*variables, images)
    assert {leaf.dtype for leaf in output} == {jnp.dtype("float32")}
    np.testing.assert_allclose(
        output.logits, apply_eval(*variables, images).logits, atol=0.2
    )
    _, new = jax.eval_shape(model.apply_train, *variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype("float32")}


def test_spec_survives_json_and_models_are_hashable():
    text = json.dumps(dataclasses.asdict(SPEC))
    assert ModelSpec(**json.loads(text)) == SPEC
    a, b = build_model(SPEC), build_model(SPEC)
    assert len({a, b, a}) == 2


@pytest.mark.parametrize("projection", [True, False])
@pytest.mark.parametrize("head", ["squashing_cosine", "linear"])
def test_parts_are_chosen_by_name(head, projection):
    spec = dataclasses.replace(SPEC, head=head, projection=projection)
    params, _ = jax.eval_shape(build_model(spec).init, jax.random.key(0))
    assert ("bias" in params["head"]) == (head == "linear")
    assert ("projection" in params["backbone"]) == projection


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"backbone": "resnet10-small"},
            "model.backbone: unknown name 'resnet10-small'; .*: resnet10_small,",
        ),
        (
            {"head": "squashing-cosine"},
            "model.head: unknown name 'squashing-cosine'; .*: squashing_cosine,",
        ),
        ({"dtype": "float8"}, "model.dtype"),
        ({"param_dtype": "bfloat16"}, "model.param_dtype"),
        ({"dtype": "float64"}, "JAX_ENABLE_X64"),
        ({"num_classes": 0}, "number of classes is 0"),
        ({"beta": -1.0}, "beta"),
        # In the table, but not a network that takes it.
        ({"attention": True}, "model.attention .* 'two_stages': .* resnet10,"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        build_model(dataclasses.replace(SPEC, **change))
