"""Schedules by hand; SGD against PyTorch's rule written out, a rate for each group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blt_jax.training.optimizer import make_optimizer, make_schedule


def rates(steps, **options):
    schedule = make_schedule(1.0, steps_per_epoch=2, **options)
    return [float(schedule(step)) for step in range(steps)]


def test_multistep_drops_as_the_milestone_epoch_begins():
    # Epochs 1 to 4 of two steps; milestones 2 and 4.
    found = rates(8, schedule="multistep", epochs=4, milestones=(2, 4))
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_cosine_falls_to_zero():
    found = rates(9, schedule="cosine", epochs=4)
    expected = [(1 + np.cos(np.pi * t / 8)) / 2 for t in range(9)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_warm_up_rises_from_zero(schedule):
    found = rates(8, schedule=schedule, epochs=4, warmup_epochs=2, milestones=(4,))
    np.testing.assert_allclose(found[:5], [0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    # The milestone keeps its place; the cosine ends where it did.
    if schedule == "multistep":
        np.testing.assert_allclose(found[5:], [1, 0.1, 0.1], rtol=1e-6)
    else:
        np.testing.assert_allclose(found[6], 0.5, rtol=1e-6)


def test_sgd_step_by_step():
    # PyTorch: g += weight_decay * w; v = momentum * v + g; w -= lr * v.
    optimizer = make_optimizer(
        {"backbone": lambda step: 0.1, "head": lambda step: 1.0},
        momentum=0.9,
        weight_decay=0.5,
    )
    params = {"backbone": {"w": jnp.array(2.0)}, "head": {"w": jnp.array(2.0)}}
    gradients = {"backbone": {"w": jnp.array(1.0)}, "head": {"w": jnp.array(1.0)}}
    state = optimizer.init(params)
    expected = {}
    for group, rate in (("backbone", 0.1), ("head", 1.0)):
        w, v = 2.0, 0.0
        for _ in range(3):
            v = 0.9 * v + 1.0 + 0.5 * w
            w -= rate * v
        expected[group] = w
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        params = {g: {"w": params[g]["w"] + updates[g]["w"]} for g in params}
    for group, value in expected.items():
        np.testing.assert_allclose(params[group]["w"], value, rtol=1e-5)


def test_a_memory_has_a_rate_of_its_own_where_there_is_one():
    rates = {"backbone": lambda step: 0.1, "head": lambda step: 1.0}
    params = {"backbone": jnp.array(2.0), "head": jnp.array(2.0)}
    without = make_optimizer(rates, weight_decay=0.0).init(params)
    params["memory"] = {"centroids": jnp.ones((2, 3))}
    optimizer = make_optimizer(rates | {"memory": lambda step: 0.01}, weight_decay=0.5)
    state = optimizer.init(params)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_allclose(updates["memory"]["centroids"], -0.01 * 1.5, rtol=1e-6)
    np.testing.assert_allclose(updates["head"], -(1 + 0.5 * 2), rtol=1e-6)
    # The state of a model without one has no trace of it.
    assert set(without.inner_states) == {"backbone", "head"}
    assert set(state.inner_states) == {"backbone", "head", "memory"}


def test_adamw_decouples_the_decay():
    optimizer = make_optimizer(
        {"backbone": lambda step: 0.1, "head": lambda step: 0.1},
        name="adamw",
        weight_decay=0.5,
    )
    params = {"backbone": {"w": jnp.array(2.0)}, "head": {"w": jnp.array(2.0)}}
    zero = {"backbone": {"w": jnp.array(0.0)}, "head": {"w": jnp.array(0.0)}}
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["head"]["w"], -0.1 * 0.5 * 2.0, rtol=1e-6)


def test_gradient_clip_bounds_the_global_norm():
    optimizer = make_optimizer(
        {"backbone": lambda step: 1.0, "head": lambda step: 1.0},
        momentum=0.0,
        weight_decay=0.0,
        gradient_clip=1.0,
    )
    params = {"backbone": {"w": jnp.array(0.0)}, "head": {"w": jnp.array(0.0)}}
    gradients = {"backbone": {"w": jnp.array(3.0)}, "head": {"w": jnp.array(4.0)}}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["backbone"]["w"], -0.6, rtol=1e-6)
    np.testing.assert_allclose(updates["head"]["w"], -0.8, rtol=1e-6)
    # A run that was begun without it can go on with it.
    plain = make_optimizer({group: lambda step: 1.0 for group in params}, momentum=0.0)
    states = (each.init(params) for each in (plain, optimizer))
    assert len({jax.tree.structure(state) for state in states}) == 1


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match=r"choose one of: .*cosine"):
        rates(1, schedule="step", epochs=1)
    with pytest.raises(ValueError, match=r"choose one of: .*adamw"):
        make_optimizer({}, name="adam")


def test_a_group_without_a_schedule_is_frozen():
    optimizer = make_optimizer({"backbone": None, "head": lambda step: 0.5})
    params = {"backbone": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(3)}}
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    np.testing.assert_array_equal(updates["backbone"]["w"], 0)
    assert (updates["head"]["w"] != 0).all()
    # Neither does it keep a momentum.
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 6
