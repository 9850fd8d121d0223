from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from blt_jax import losses
from blt_jax.losses.large_margin_softmax import annealing_schedule, psi
from blt_jax.models.heads import HeadOutput, LinearHead, SquashingCosineHead


def head_output(seed=0, n=6, c=5, scale_columns=1):
    rng = np.random.default_rng(seed)
    cosine = rng.uniform(-1, 1, size=(n, c))
    scale = rng.uniform(1, 16, size=(n, scale_columns))
    return HeadOutput(
        *(
            jnp.asarray(v, jnp.float32)
            for v in (cosine * scale, cosine, scale, np.zeros((n, 2)))
        )
    )


LABELS = jnp.array([0, 4, 2, 2, 1, 3])


def float64_psi(theta, m):
    """Liu et al. 2016, Eq. 6, by its intervals."""
    k = np.minimum(np.floor(theta * m / np.pi), m - 1)
    return (-1.0) ** k * np.cos(m * theta) - 2 * k


def float64_loss(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_softmax[np.arange(len(labels)), labels]


def test_cross_entropy_by_hand():
    # Logits ln 1, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    output = HeadOutput(logits, logits, jnp.ones((2, 1)), logits)
    loss = losses.cross_entropy(output, jnp.array([0, 2]))
    np.testing.assert_allclose(loss, np.log([8.0, 1.6]), rtol=1e-6)


def test_cross_entropy_survives_large_and_16_bit_logits():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    output = HeadOutput(logits, logits, logits, logits)
    np.testing.assert_array_equal(losses.cross_entropy(output, jnp.array([0])), [0.0])
    half = head_output()._replace(logits=head_output().logits.astype(jnp.bfloat16))
    assert losses.cross_entropy(half, LABELS).dtype == jnp.float32


@pytest.mark.parametrize("label", [-1, 5])
@pytest.mark.parametrize("name", list(losses.LOSSES))
def test_a_label_outside_gives_nan(name, label):
    output = head_output(n=1)
    assert np.isnan(losses.LOSSES[name](output, jnp.array([label]))).all()


def test_margin_one_is_cross_entropy_bit_for_bit():
    output = head_output()
    for annealing in (0.0, 3.0):
        np.testing.assert_array_equal(
            losses.large_margin_softmax(output, LABELS, margin=1, annealing=annealing),
            losses.cross_entropy(output, LABELS),
        )


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
@pytest.mark.parametrize("annealing", [0.0, 5.0])
@pytest.mark.parametrize("scale_columns", [1, 5])
def test_against_float64_with_arccos(margin, annealing, scale_columns):
    output = head_output(scale_columns=scale_columns)
    rows = np.arange(6)
    cosine = np.asarray(output.cosine, np.float64)
    scale = np.broadcast_to(np.asarray(output.scale, np.float64), cosine.shape)
    logits = cosine * scale
    own = cosine[rows, LABELS]
    margin_cosine = float64_psi(np.arccos(own), margin)
    mixed = (annealing * own + margin_cosine) / (1 + annealing)
    logits[rows, LABELS] = mixed * scale[rows, LABELS]
    loss = losses.large_margin_softmax(
        output, LABELS, margin=margin, annealing=annealing
    )
    np.testing.assert_allclose(
        loss, float64_loss(logits, np.asarray(LABELS)), rtol=1e-5, atol=1e-5
    )


def test_margin_keeps_a_bias():
    output = head_output()
    bias = jnp.arange(5.0)[None]
    biased = output._replace(logits=output.logits + bias)
    change = float64_psi(np.arccos(np.asarray(output.cosine, np.float64)), 3)
    change = (change - output.cosine) * np.asarray(output.scale)
    logits = np.asarray(biased.logits, np.float64)
    logits[np.arange(6), LABELS] += change[np.arange(6), LABELS]
    np.testing.assert_allclose(
        losses.large_margin_softmax(biased, LABELS, margin=3),
        float64_loss(logits, np.asarray(LABELS)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_falls_with_the_angle(margin):
    cosine = jnp.cos(jnp.linspace(0, jnp.pi, 1001))
    values = np.asarray(psi(cosine, margin))
    assert (np.diff(values) <= 2e-6).all()
    # From cos(0) = 1 to (-1)^(m-1) cos(m pi) - 2 (m - 1) = 1 - 2 m.
    np.testing.assert_allclose(values[[0, -1]], [1, 1 - 2 * margin], atol=1e-5)
    assert (values <= np.asarray(cosine) + 2e-6).all()


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_gradients_are_finite_where_the_cosine_is_one(margin):
    cosine = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    scale = jnp.full((3, 1), 16.0)

    def total(cosine):
        output = HeadOutput(cosine * scale, cosine, scale, cosine)
        labels = jnp.zeros(3, jnp.int32)
        return losses.large_margin_softmax(output, labels, margin=margin).sum()

    assert np.isfinite(jax.grad(total)(cosine)).all()
    # At a cosine of 1 the slope of cos(m theta) over cos(theta) is m^2.
    assert jax.grad(psi)(1.0, margin) == pytest.approx(margin**2)


def test_annealing_of_a_few_steps():
    # 1000 / (1 + step / 8): 1000, 1000 / 2, 1000 / 126, 1000 / 1001 = 0.999 < 5.
    schedule = annealing_schedule(1000.0, 0.125, 5.0)
    steps = jnp.array([0, 8, 1000, 8000])
    np.testing.assert_allclose(
        jax.vmap(schedule)(steps), [1000.0, 500.0, 1000 / 126, 5.0], rtol=1e-6
    )
    # Its floor alone is a constant, and nothing at all is the loss without it.
    np.testing.assert_array_equal(annealing_schedule(0.0, 0.0, 3.0)(steps[3]), 3.0)
    output = head_output()
    get = partial(losses.get, "large_margin_softmax", margin=4)
    annealed = get(annealing=(1000.0, 0.125, 5.0))
    for step, weight in ((0, 1000.0), (8, 500.0), (8000, 5.0)):
        expected = losses.large_margin_softmax(
            output, LABELS, margin=4, annealing=weight
        )
        np.testing.assert_allclose(
            annealed(output, LABELS, jnp.asarray(step)), expected, rtol=1e-6
        )
    assert losses.cross_entropy(output, LABELS)[1] < expected[1]
    np.testing.assert_array_equal(
        get()(output, LABELS, jnp.asarray(0)),
        losses.large_margin_softmax(output, LABELS, margin=4),
    )


def test_annealing_may_be_traced():
    output = head_output()
    traced = jax.jit(
        lambda a: losses.large_margin_softmax(output, LABELS, margin=2, annealing=a)
    )
    for annealing in (0.0, 2.0):
        np.testing.assert_allclose(
            traced(annealing),
            losses.large_margin_softmax(output, LABELS, margin=2, annealing=annealing),
            rtol=1e-6,
        )


def test_get_gives_the_loss_with_its_margin():
    output = head_output()
    settings = {
        "cross_entropy": {},
        "large_margin_softmax": {"margin": 3},
        "additive_margin_softmax": {"margin": 0.25},
        "focal": {"focus": 0.5},
        "sigmoid_cross_entropy": {},
        "sigmoid_focal": {"focus": 3.0},
    }
    assert set(settings) == set(losses.LOSSES)
    for name, setting in settings.items():
        np.testing.assert_array_equal(
            losses.get(name, **setting)(output, LABELS, jnp.asarray(7)),
            losses.LOSSES[name](output, LABELS, **setting),
        )


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("crossentropy", {}, "choose one of: cross_entropy, "),
        ("large_margin", {}, "choose one of: large_margin_softmax, "),
        ("large_margin_softmax", {"margin": 5.0}, "known: 1, 2, 3, 4"),
        ("large_margin_softmax", {"margin": 1.5}, "known: 1, 2, 3, 4"),
        ("additive_margin_softmax", {}, "loss.margin is 1.0; it must be a cosine"),
        ("additive_margin_softmax", {"margin": -0.1}, "at least 0 and below 1"),
        ("cross_entropy", {"margin": 2.0}, "has no margin"),
        ("focal", {"margin": 0.5}, "has no margin"),
        ("focal", {"focus": -1.0}, "loss.focus is -1.0"),
        ("focal", {"focus": float("nan")}, "loss.focus is nan"),
        ("focal", {"annealing": (9.0, 1.0, 0.0)}, "focal has no annealing"),
        ("large_margin_softmax", {"annealing": (9.0, -1.0, 0.0)}, "annealing_decay"),
        ("focal", {"class_weights": "effective"}, "loss.class_weights: unknown"),
        (
            "focal",
            {"class_weights": "effective_number", "effective_beta": 1.0},
            "loss.effective_beta is 1.0",
        ),
        ("focal", {"class_weights": "effective_number"}, "needs class counts"),
    ],
)
def test_get_refuses(name, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        losses.get(name, **settings)
    assert "\n" not in str(error.value)


def test_large_margin_refuses_another_margin():
    with pytest.raises(ValueError, match="is 5"):
        losses.large_margin_softmax(head_output(), LABELS, margin=5)


@pytest.mark.parametrize("head", [SquashingCosineHead, LinearHead])
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_zero_features_have_a_loss_and_a_gradient(head, margin):
    graph, weights = nnx.split(head(4, 3, rngs=nnx.Rngs(0)))
    features, labels = jnp.zeros((3, 4)).at[1].set(2.0), jnp.array([0, 1, 2])

    def total(weights, features):
        output = nnx.merge(graph, weights)(features)
        loss = losses.large_margin_softmax(output, labels, margin=margin)
        return jnp.sum(loss), loss

    gradients, loss = jax.grad(total, argnums=(0, 1), has_aux=True)(weights, features)
    for leaf in jax.tree.leaves((gradients, loss)):
        assert np.isfinite(leaf).all()
    if head is SquashingCosineHead:
        # All logits are 0.
        np.testing.assert_allclose(loss[0], np.log(3), rtol=1e-6)
