"""ViT: other image sizes, no statistics, and how it begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax.models import BACKBONES, ModelSpec, build_model
from blt_jax.models.backbones import vit
from blt_jax.training.checkpoint import load_checkpoint, save_model
from blt_jax.training.handover import take

TINY = "vit_tiny"


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, TINY, lambda **options: vit.ViT(8, 1, 2, **options))
        yield build_model(ModelSpec(backbone=TINY, num_classes=3))


@pytest.fixture(scope="module")
def variables(model):
    return model.init(jax.random.key(0))


@pytest.mark.parametrize("rows, columns", [(6, 6), (3, 20)])
def test_position_embeddings_are_interpolated_as_by_pytorch(rows, columns):
    torch = pytest.importorskip("torch", reason="needs PyTorch as an oracle")
    backbone = vit.ViT(8, 1, 2, rngs=nnx.Rngs(1))
    positions = np.asarray(backbone.position_embedding[...])
    found = np.asarray(backbone._positions(rows, columns))
    grid = torch.tensor(positions[:, 1:].reshape(1, 14, 14, 8).transpose(0, 3, 1, 2))
    wanted = torch.nn.functional.interpolate(
        grid, size=(rows, columns), mode="bicubic", antialias=True
    )
    np.testing.assert_array_equal(found[:, 0], positions[:, 0])
    np.testing.assert_allclose(
        found[0, 1:].reshape(rows, columns, 8),
        wanted[0].numpy().transpose(1, 2, 0),
        atol=1e-6,
    )


def test_images_of_any_size_are_filled_up_with_zeros(model, variables):
    features = jax.jit(model.features)
    x = np.random.default_rng(0).normal(size=(2, 20, 33, 3)).astype(np.float32)
    whole = np.zeros((2, 32, 48, 3), np.float32)
    whole[:, :20, :33] = x
    np.testing.assert_array_equal(features(*variables, x), features(*variables, whole))


def test_without_statistics_it_trains_and_is_saved(model, variables, tmp_path):
    params, batch_stats = variables
    assert not jax.tree.leaves(batch_stats)
    x = jnp.ones((2, 16, 16, 3))
    mask = jnp.array([True, False])
    output, new = jax.jit(model.apply_train)(params, batch_stats, x, mask)
    assert jax.tree.structure(new) == jax.tree.structure(batch_stats)
    plain = jax.jit(model.apply_eval)(params, batch_stats, x)
    np.testing.assert_allclose(output.logits, plain.logits, rtol=1e-6)
    save_model(tmp_path / "saved", params, batch_stats, {})
    arrays, _ = load_checkpoint(tmp_path / "saved")
    jax.tree.map(np.testing.assert_array_equal, arrays["params"], dict(params))
    # As the next stage takes it over.
    fresh, stats = take(tmp_path / "saved", ("backbone",), *variables)
    assert jax.tree.structure(stats) == jax.tree.structure(batch_stats)
    jax.tree.map(np.testing.assert_array_equal, fresh, dict(params))


def test_initial_weights():
    backbone = vit.ViT(96, 1, 2, rngs=nnx.Rngs(0))
    block = backbone.blocks["block1"]
    for array in (
        backbone.patches.kernel,
        backbone.position_embedding,
        block.qkv.kernel,
        block.fc2.kernel,
    ):
        assert np.std(array[...]) == pytest.approx(0.02, rel=0.05)
    assert not np.any(backbone.class_token[...])
