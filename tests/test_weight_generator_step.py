"""The step of the weight generator: its loss, what stays as it is, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import OneLayer, assert_trees_close
from test_weight_generator import written_out

from blt_jax.hallucination.targets import empty_confusion
from blt_jax.models.weight_generator import init_generator
from blt_jax.training.augment import Augmentation, Normalisation, augment, normalise
from blt_jax.training.draws import draw
from blt_jax.training.episode import Episode, draw_episode
from blt_jax.training.mesh import make_mesh, put_batch, put_replicated
from blt_jax.training.optimizer import make_optimizer
from blt_jax.training.state import create_state
from blt_jax.training.weight_generator_step import (
    episode_loss,
    make_weight_generator_step,
)

BASE = np.array([True, False, True, True, False, True])
NUM_BASE, FEATURES, SIZE, BATCH = 4, 8, 8, 16
NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
AUGMENTATION = Augmentation(True, 10.0, 0.4, 0.4, 0.4)


class FrozenLayer(OneLayer):
    """One layer and a cosine head, with features of their own."""

    def init(self, key):
        params, batch_stats = super().init(key)
        rng = np.random.default_rng(key)
        kernel = rng.normal(size=(FEATURES, len(BASE)))
        params["head"] = {
            "kernel": jnp.asarray(kernel, self.dtype),
            "scale": jnp.asarray(10.0, self.dtype),
            "bias": jnp.asarray(0.5, self.dtype),
        }
        # A zero with a sign is what an addition would not keep.
        kept = params["backbone"]["kernel"].at[0, 0, 0, 0].set(-0.0)
        params["backbone"]["kernel"] = kept
        return params, batch_stats

    def features(self, params, batch_stats, images):
        stats = batch_stats["backbone"]
        x = self._convolve(params, images)
        head = {"kernel": jnp.zeros((FEATURES, 1), self.dtype)}
        ours = {**params, "head": head}
        return self._head(ours, x, stats["mean"], stats["var"]).features


def host_batch(step):
    rng = np.random.default_rng(step)
    label = np.repeat(np.flatnonzero(BASE), 4).astype(np.int32)
    none = np.zeros(0, np.int32)
    return {
        "image": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        "label": rng.permutation(label),
        "index": np.arange(BATCH, dtype=np.int32),
        "seed_image": np.zeros((0, SIZE, SIZE, 3), np.uint8),
        "seed_label": none,
        "seed_index": none,
        "seed_valid": none.astype(bool),
    }


class Run:
    """A few steps on the first `devices` devices."""

    def __init__(self, devices, *, generator=None, **options):
        self.mesh = make_mesh(devices)
        model = FrozenLayer("float32")
        # One that would decay the backbone, if it were asked.
        groups = ("backbone", "head", "generator")
        optimizer = make_optimizer(dict.fromkeys(groups, lambda step: 0.1))
        self.step_fn = make_weight_generator_step(
            model,
            optimizer,
            BASE,
            mesh=self.mesh,
            normalisation=NORMALISATION,
            augmentation=AUGMENTATION,
            fake_novel=0.5,
            **options,
        )
        params, batch_stats = model.init(0)
        params["generator"] = generator or init_generator(
            jax.random.key(5), num_features=FEATURES, num_base=NUM_BASE
        )
        state = create_state(params, batch_stats, optimizer)
        self.begun = jax.tree.map(np.array, jax.device_get(state))
        self.state = put_replicated(state, self.mesh)
        self.rest = put_replicated(
            (empty_confusion(1, 6), jax.random.key(7)), self.mesh
        )

    def __call__(self, step):
        batch = put_batch(host_batch(step), self.mesh)
        with jax.transfer_guard("disallow"):
            self.state, sums = self.step_fn(self.state, batch, *self.rest)
        return {name: float(value) for name, value in jax.device_get(sums).items()}


@pytest.fixture(scope="module")
def eight():
    run = Run(8)
    run.sums = [run(step) for step in range(3)]
    return run


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_the_backbone_and_its_statistics_stay_bit_for_bit(eight):
    assert bits(eight.state.params["backbone"]) == bits(eight.begun.params["backbone"])
    assert bits(eight.state.batch_stats) == bits(eight.begun.batch_stats)
    assert eight.state.step == 3


def test_head_and_generator_learn_and_novel_weights_are_nothing(eight):
    now, begun = eight.state.params, eight.begun.params
    for name in ("average", "attended", "query", "keys", "scale"):
        assert (now["generator"][name] != begun["generator"][name]).any(), name
    kernel = np.asarray(now["head"]["kernel"])
    np.testing.assert_array_equal(kernel[:, ~BASE], 0)
    assert (kernel[:, BASE] != begun["head"]["kernel"][:, BASE]).all()
    assert now["head"]["scale"] != 10


def test_one_device_does_what_eight_do(eight):
    one = Run(1)
    for step in range(3):
        np.testing.assert_allclose(
            one(step)["loss"], eight.sums[step]["loss"], rtol=1e-5
        )
    assert_trees_close(one.state.params, eight.state.params, rtol=1e-4, atol=1e-5)


def test_it_reports_what_the_log_asks_for(eight):
    for sums in eight.sums:
        assert set(sums) == {"loss", "correct", "trained", "not_finite"}
        assert sums["not_finite"] == 0 and np.isfinite(sums["loss"])
        # Of 16 rows, 2 classes with 1 to 3 exemplars each are novel.
        assert BATCH - 6 <= sums["trained"] <= BATCH - 2
        assert 0 <= sums["correct"] <= sums["trained"]


def test_what_novel_weights_were_before_changes_nothing(eight):
    """A run that was saved, with generated weights, goes on as one that was not."""
    other = Run(8)
    params = other.state.params
    kernel = jnp.where(BASE[None, :], params["head"]["kernel"], 7.0)
    head = {**params["head"], "kernel": kernel}
    other.state = put_replicated(
        other.state._replace(params={**params, "head": head}), other.mesh
    )
    for step in range(3):
        other(step)
    assert bits(other.state) == bits(eight.state)


def test_a_step_that_is_not_finite_is_left_out():
    bad = init_generator(jax.random.key(5), num_features=FEATURES, num_base=NUM_BASE)
    bad["average"] = bad["average"] * np.nan
    run = Run(1, generator=bad, skip_not_finite=True)
    assert int(run(0)["not_finite"]) & 1  # the loss
    assert bits(run.state.params["generator"]) == bits(run.begun.params["generator"])
    assert run.state.params["head"]["scale"] == 10
    assert run.state.step == 1


LOSS = jax.jit(episode_loss)


def an_episode(dtype=np.float32):
    rng = np.random.default_rng(2)
    generator = {
        "average": rng.normal(size=FEATURES),
        "attended": rng.normal(size=FEATURES),
        "query": rng.normal(size=(FEATURES, FEATURES)),
        "keys": rng.normal(size=(NUM_BASE, FEATURES)),
        "scale": np.array(5.0),
    }
    head = {
        "kernel": rng.normal(size=(FEATURES, NUM_BASE)),
        "scale": np.array(4.0),
        "bias": np.array(0.1),
    }
    labels = np.repeat(np.arange(NUM_BASE), 4)
    novel = np.array([False, True, False, True])
    exemplar = np.zeros(BATCH, bool)
    exemplar[[4, 6, 7, 13]] = True  # three of class 1, one of class 3
    member = (labels[None] == np.arange(NUM_BASE)[:, None]) & exemplar[None]
    shares = member / np.maximum(member.sum(1, keepdims=True), 1)
    features = rng.normal(size=(BATCH, FEATURES))
    arrays = jax.tree.map(lambda x: x.astype(dtype), (generator, head, features))
    episode = Episode(novel, exemplar, shares.astype(dtype), np.ones((BATCH, FEATURES)))
    return (*arrays, labels, episode)


def test_the_loss_against_the_formula():
    """Float64 NumPy: only queries, with generated weights where they are novel."""
    with jax.enable_x64(True):
        loss, hits = LOSS(*an_episode(np.float64))
    generator, head, features, labels, episode = an_episode(np.float64)
    weights = head["kernel"].T.copy()
    shown = np.where(episode.exemplar, labels, -1)
    for c in np.flatnonzero(episode.novel):
        one = np.where(shown == c, 0, -1)
        base = head["kernel"].T
        weights[c] = written_out(generator, base, features, one, 1, ~episode.novel)[0]
    losses, right = [], []
    for x, label in zip(
        features[~episode.exemplar], labels[~episode.exemplar], strict=True
    ):
        cosine = weights @ x / np.linalg.norm(x) / np.linalg.norm(weights, axis=1)
        logits = head["scale"] * (cosine + head["bias"])
        losses.append(np.log(np.exp(logits).sum()) - logits[label])
        right.append(logits.argmax() == label)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-12)
    assert len(losses) == 12 and 0 < sum(right) < 12
    np.testing.assert_array_equal(hits[~episode.exemplar], right)
    assert not hits[episode.exemplar].any()


def test_the_own_weight_of_a_novel_class_has_no_influence():
    generator, head, *rest = an_episode()
    grad = jax.jit(jax.grad(episode_loss, argnums=(0, 1), has_aux=True))
    (of_generator, of_head), _ = grad(generator, head, *rest)
    np.testing.assert_array_equal(of_head["kernel"][:, [1, 3]], 0)
    np.testing.assert_array_equal(of_generator["keys"][1::2], 0)
    assert (np.abs(of_head["kernel"][:, [0, 2]]) > 0).all()
    kernel = head["kernel"].copy()
    kernel[:, [1, 3]] = -100
    other = {**head, "kernel": kernel}
    assert LOSS(generator, head, *rest)[0] == LOSS(generator, other, *rest)[0]


def test_gradients_are_finite_for_a_feature_of_zeros():
    generator, head, features, labels, episode = an_episode()
    features[[0, 13]] = 0  # a query, and the only exemplar of a class
    grad = jax.jit(jax.grad(episode_loss, argnums=(0, 1, 2), has_aux=True))
    found = grad(generator, head, features, labels, episode)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_the_step_is_made_of_its_parts(eight):
    """The loss of step 0: its draws, features with dropout, base classes alone."""
    params, batch = eight.begun.params, host_batch(0)
    key, ordinals = jax.random.key(7), batch["index"]
    labels = (np.cumsum(BASE) - 1)[batch["label"]]

    @jax.jit
    def loss_of(params, images):
        episode = draw_episode(
            key,
            0,
            jnp.asarray(labels),
            jnp.asarray(ordinals),
            num_classes=NUM_BASE,
            num_features=FEATURES,
            fake_novel=0.5,
            dropout=0.5,
        )
        images = augment(images, draw(key, 0, ordinals), AUGMENTATION, jnp.float32)
        images = normalise(images, NORMALISATION, jnp.float32)
        stats = eight.begun.batch_stats
        features = FrozenLayer("float32").features(params, stats, images)
        features = features * episode.kept
        kernel = params["head"]["kernel"][:, np.flatnonzero(BASE)]
        head = {**params["head"], "kernel": kernel}
        loss, hits = episode_loss(params["generator"], head, features, labels, episode)
        return loss, hits.sum(), (~episode.exemplar).sum()

    found = jax.device_get(loss_of(params, batch["image"]))
    sums = eight.sums[0]
    np.testing.assert_allclose(found[0], sums["loss"], rtol=1e-5)
    assert found[1:] == (sums["correct"], sums["trained"])
