"""Focal, sigmoid and additive-margin losses, and class weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax import losses
from blt_jax.models.heads import HeadOutput

LABELS = np.array([0, 4, 2, 2, 1, 3])
ROWS = np.arange(6)
COUNTS = np.array([500, 120, 7, 0, 1])


def output_of(logits, *, cosine=None, scale=None):
    """A head's output; what a loss should not read is NaN."""
    logits = jnp.asarray(logits)
    nothing = jnp.full(logits.shape, jnp.nan)
    return HeadOutput(
        logits,
        nothing if cosine is None else jnp.asarray(cosine),
        nothing if scale is None else jnp.asarray(scale),
        nothing,
    )


def random_logits(seed=0):
    return np.random.default_rng(seed).normal(0, 4, (6, 5)).astype(np.float32)


def float64_cross_entropy(logits):
    z = logits.astype(np.float64)
    return np.log(np.exp(z).sum(axis=1)) - z[ROWS, LABELS]


def float64_binary(logits, focus):
    """Every p and every 1 - p written out."""
    right = np.eye(5)[LABELS] == 1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    p = np.where(right, p, 1 - p)
    return np.sum((1 - p) ** focus * -np.log(p), axis=1)


def test_by_hand():
    # p = 1/2 for each of two classes, and for each of three sigmoids.
    two, three = output_of([[0.0, 0.0]]), output_of([[0.0, 0.0, 0.0]])
    label = jnp.array([1])
    ln2 = np.log(2)
    found = [
        losses.focal(two, label, focus=2.0),
        losses.sigmoid_cross_entropy(three, label),
        losses.sigmoid_focal(three, label, focus=1.0),
    ]
    np.testing.assert_allclose(found, [[ln2 / 4], [3 * ln2], [1.5 * ln2]], rtol=1e-6)
    # 10 (0.8 - 0.2) = 10 * 0.6: the margin eats the lead.
    cosine = np.array([[0.8, 0.6]], np.float32)
    led = output_of(10 * cosine, cosine=cosine, scale=[[10.0]])
    loss = losses.additive_margin_softmax(led, jnp.array([0]), margin=0.2)
    np.testing.assert_allclose(loss, [ln2], rtol=1e-6)


@pytest.mark.parametrize("focus", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_against_float64(focus):
    logits = random_logits()
    entropy = float64_cross_entropy(logits)
    np.testing.assert_allclose(
        losses.focal(output_of(logits), LABELS, focus=focus),
        (1 - np.exp(-entropy)) ** focus * entropy,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        losses.sigmoid_focal(output_of(logits), LABELS, focus=focus),
        float64_binary(logits, focus),
        rtol=1e-5,
    )


def test_sigmoid_losses_against_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    functional = torch.nn.functional
    logits = random_logits(1)
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    target = functional.one_hot(torch.tensor(LABELS), 5).double()
    entropy = functional.binary_cross_entropy_with_logits(z, target, reduction="none")
    # torchvision's sigmoid focal loss, without its alpha.
    p = torch.sigmoid(z)
    p_t = p * target + (1 - p) * (1 - target)
    focal = entropy * (1 - p_t) ** 1.5
    for theirs, mine in (
        (entropy, losses.sigmoid_cross_entropy),
        (focal, lambda o, y: losses.sigmoid_focal(o, y, focus=1.5)),
    ):
        (gradient,) = torch.autograd.grad(theirs.sum(), z, retain_graph=True)
        loss = theirs.detach().sum(dim=1)
        np.testing.assert_allclose(mine(output_of(logits), LABELS), loss, rtol=1e-5)
        found = jax.grad(lambda x, mine=mine: mine(output_of(x), LABELS).sum())(logits)
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale_columns", [1, 5])
def test_additive_margin_against_float64_and_keeps_a_bias(scale_columns):
    rng = np.random.default_rng(2)
    cosine = rng.uniform(-1, 1, (6, 5)).astype(np.float32)
    scale = rng.uniform(1, 16, (6, scale_columns)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32)[None]
    output = output_of(cosine * scale + bias, cosine=cosine, scale=scale)
    led = cosine.astype(np.float64)
    led[ROWS, LABELS] -= 0.35
    np.testing.assert_allclose(
        losses.additive_margin_softmax(output, LABELS, margin=0.35),
        float64_cross_entropy(led * scale + bias),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(
        losses.additive_margin_softmax(output, LABELS, margin=0.0),
        losses.cross_entropy(output, LABELS),
    )


@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_16_bit_logits_are_computed_in_float32(name):
    half = random_logits(3).astype(jnp.bfloat16)
    mine, wide = (
        losses.LOSSES[name](output_of(x, cosine=x, scale=x[:, :1] * 0 + 1), LABELS)
        for x in (half, half.astype(np.float32))
    )
    assert mine.dtype == jnp.float32
    np.testing.assert_array_equal(mine, wide)


@pytest.mark.parametrize("focus", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("name", ["focal", "sigmoid_focal"])
def test_saturated_logits_have_a_finite_loss_and_gradient(name, focus):
    # Certain and right, certain and wrong, certain of nothing, and all alike.
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [-1e4] * 3, [0.0] * 3])
    labels = jnp.zeros(4, jnp.int32)

    def total(logits):
        loss = losses.LOSSES[name](output_of(logits), labels, focus=focus)
        return jnp.sum(loss), loss

    gradient, loss = jax.grad(total, has_aux=True)(logits)
    assert np.isfinite(gradient).all()
    # The class with the logit 0 is right or wrong by half for a sigmoid.
    third = 0.0 if name == "focal" else np.log(2) / 2**focus
    np.testing.assert_allclose(loss[:2], [third, 2e4 + third], atol=1e-6)


def test_effective_number_by_hand():
    # (1/2) / (1/2) = 1 and (1/2) / (3/4) = 2/3, with the mean 5/6.
    weights = losses.effective_number_weights(np.array([1, 0, 2]), beta=0.5)
    np.testing.assert_allclose(weights, [1.2, 0.0, 0.8], rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1 - 1e-12])
def test_effective_number_between_equal_and_inverse_frequency(beta):
    weights = losses.effective_number_weights(COUNTS, beta=beta)
    some = COUNTS > 0
    assert weights[3] == 0
    np.testing.assert_allclose(weights[some].mean(), 1)
    if beta == 0:
        np.testing.assert_array_equal(weights[some], 1)
    elif beta > 0.99999:
        inverse = 1 / COUNTS[some]
        np.testing.assert_allclose(weights[some], inverse / inverse.mean(), rtol=1e-6)
    else:
        formula = (1 - beta) / (1 - beta ** COUNTS[some])
        np.testing.assert_allclose(weights[some], formula / formula.mean(), rtol=1e-9)


def test_class_weights_against_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    logits, counts = random_logits(4), np.array([500, 120, 7, 30, 1])
    weights = losses.effective_number_weights(counts, beta=0.99)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(LABELS),
        weight=torch.tensor(weights),
    )
    loss = losses.get(
        "cross_entropy",
        class_weights="effective_number",
        effective_beta=0.99,
        class_counts=counts,
    )
    mine = loss(output_of(logits), LABELS, jnp.asarray(0))
    # PyTorch divides by the sum of the weights, the authors by the number of images.
    expected = theirs * weights[LABELS].sum() / len(LABELS)
    np.testing.assert_allclose(jnp.mean(mine), expected, rtol=1e-6)
    assert abs(expected / theirs - 1) > 0.05


@pytest.mark.parametrize("name", ["focal", "sigmoid_focal"])
def test_the_class_weight_stays_out_of_the_focal_power(name):
    loss = losses.get(
        name,
        focus=0.5,
        class_weights="effective_number",
        effective_beta=0.999,
        class_counts=COUNTS,
    )
    labels = np.array([0, 4, 2, 2, 1, 0])
    weights = losses.effective_number_weights(COUNTS, beta=0.999)[labels]
    output = output_of(random_logits(5))
    np.testing.assert_allclose(
        loss(output, labels, jnp.asarray(0)),
        weights * np.asarray(losses.LOSSES[name](output, labels, focus=0.5)),
        rtol=1e-6,
    )


def test_prior_bias_is_the_logit_of_one_class_in_c():
    for num_classes in (2, 10, 8142):
        chance = 1 / (1 + np.exp(-losses.prior_bias(num_classes)))
        assert chance == pytest.approx(1 / num_classes)
    assert losses.prior_bias(1) == 0
