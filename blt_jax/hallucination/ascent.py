"""Gradient ascent on ONE image: one update, and the loop (Sec. 3.1).

Everything here is written for a single image and batched with `jax.vmap`;
`cascade` runs the same update over many images without the waste of a plain
vmapped loop. The classifier comes in as a function, so nothing of it is known.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

LogitsFn = Callable[[jax.Array], jax.Array]

# Below this squared norm a gradient points nowhere, and Newton's step along it
# would be longer than any image.
_SMALLEST_SQUARED_NORM = 1e-12
# Newton's step aims a little beyond the threshold, as the log-odds bend downwards.
_NEWTON_OVERSHOOT = 1.05


class Options(NamedTuple):
    """How an image is moved; the same for all images, static under jit."""

    step_rule: str  # a key of STEP_RULES
    step_size: float  # delta: normalised pixels per unit of the logit's gradient
    max_iterations: int  # updates at most
    max_step: float  # newton: longest step, root-mean-square per value
    max_norm: float | None  # longest perturbation as a whole, L2
    pixel_range: tuple[jax.Array, jax.Array] | None  # normalised black, white [c]


class Problem(NamedTuple):
    """What stays fixed while one image is moved."""

    seed: jax.Array  # [H, W, c] normalised image the ascent begins at
    target: jax.Array  # [] int, the confusing class c'
    threshold: jax.Array  # [] probability of c' that is enough, s_c'


class Progress(NamedTuple):
    """Loop carry: where one image stands."""

    image: jax.Array  # [H, W, c]
    memory: jax.Array  # [H, W, c] sum of the gradients so far, or [0] if not needed
    score: jax.Array  # [] probability of the target at `image`, once evaluated
    iterations: jax.Array  # [] int32, updates applied
    active: jax.Array  # [] bool, one more evaluation is needed
    reached: jax.Array  # [] bool, score >= threshold
    finite: jax.Array  # [] bool, no NaN or infinity was met


def log_odds(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Log-odds of one class: its logit minus the logsumexp of the others.

    logits: [C]; target: [] int. Returns []. The sigmoid of it is the softmax
    probability of the class.
    """
    others = jnp.where(jnp.arange(logits.shape[0]) == target, -jnp.inf, logits)
    return logits[target] - jax.nn.logsumexp(others)


def _logit(logits: jax.Array, target: jax.Array) -> jax.Array:
    return logits[target]


def _gradient_step(
    gradient: jax.Array,
    memory: jax.Array,
    log_odds: jax.Array,
    threshold: jax.Array,
    options: Options,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """I += delta * gradient of the logit of c' (Sec. 3.1 and 3.2)."""
    return options.step_size * gradient, memory, jnp.ones_like(threshold, bool)


def _accumulated_step(
    gradient: jax.Array,
    memory: jax.Array,
    log_odds: jax.Array,
    threshold: jax.Array,
    options: Options,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """I += delta * sum of all gradients so far, as the released code does.

    Its image gradient is never set to zero between backward passes.
    """
    memory = memory + gradient
    return options.step_size * memory, memory, jnp.ones_like(threshold, bool)


def _newton_step(
    gradient: jax.Array,
    memory: jax.Array,
    log_odds: jax.Array,
    threshold: jax.Array,
    options: Options,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Solve the linearised log-odds for the threshold, within a longest step."""
    wanted = jnp.log(threshold) - jnp.log1p(-threshold)
    squared_norm = jnp.sum(gradient * gradient)
    usable = squared_norm >= _SMALLEST_SQUARED_NORM
    squared_norm = jnp.where(usable, squared_norm, 1)
    scale = _NEWTON_OVERSHOOT * (wanted - log_odds) / squared_norm
    longest = options.max_step * gradient.size**0.5 / jnp.sqrt(squared_norm)
    scale = jnp.minimum(scale, longest).astype(gradient.dtype)
    return scale * gradient, memory, usable


class _StepRule(NamedTuple):
    objective: Callable[[jax.Array, jax.Array], jax.Array]  # what is climbed
    step: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    remembers: bool  # needs the sum of all gradients


STEP_RULES = {
    "gradient": _StepRule(_logit, _gradient_step, remembers=False),
    "accumulated": _StepRule(_logit, _accumulated_step, remembers=True),
    "newton": _StepRule(log_odds, _newton_step, remembers=False),
}


def start(problem: Problem, valid: jax.Array, options: Options) -> Progress:
    """The carry before the first evaluation; works on one image or on a batch."""
    seed, threshold = problem.seed, problem.threshold
    remembers = STEP_RULES[options.step_rule].remembers
    return Progress(
        image=seed,
        memory=jnp.zeros_like(seed if remembers else seed[..., :0]),
        # Built from inputs, not from constants, so that under shard_map the carry
        # has the inputs' device-varying type from the first iteration on.
        score=jnp.zeros_like(threshold),
        iterations=jnp.zeros_like(threshold, jnp.int32),
        active=valid,
        reached=jnp.zeros_like(valid),
        finite=jnp.ones_like(valid),
    )


def update(
    logits_fn: LogitsFn, problem: Problem, progress: Progress, options: Options
) -> Progress:
    """Evaluate one image and, unless it is finished, move it one step.

    One `value_and_grad` gives score and gradient. An inactive image comes back
    unchanged, bit for bit. An image stops when its score meets the threshold,
    after `max_iterations` updates, where the gradient vanishes (newton), or at a
    NaN or infinity; in the last case it goes back to its seed.
    """
    rule = STEP_RULES[options.step_rule]

    def objective(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = logits_fn(image[None])[0]
        return rule.objective(logits, problem.target), log_odds(logits, problem.target)

    gradient, odds = jax.grad(objective, has_aux=True)(progress.image)
    score = jax.nn.sigmoid(odds).astype(problem.threshold.dtype)
    step, memory, usable = rule.step(
        gradient, progress.memory, odds, problem.threshold, options
    )
    moved = _bounded(progress.image + step, problem.seed, options)

    # Of the log-odds: an infinite logit's probability of 1 would pass for success.
    finite = jnp.isfinite(odds)
    reached = finite & (score >= problem.threshold)
    finite &= reached | jnp.all(jnp.isfinite(moved))
    unfinished = ~reached & (progress.iterations < options.max_iterations)
    move = progress.active & unfinished & finite & usable
    evaluated = progress.active
    image = jnp.where(move, moved, progress.image)
    return Progress(
        image=jnp.where(evaluated & ~finite, problem.seed, image),
        memory=jnp.where(move, memory, progress.memory),
        score=jnp.where(evaluated, score, progress.score),
        iterations=progress.iterations + move,
        active=move,
        reached=jnp.where(evaluated, reached, progress.reached),
        finite=jnp.where(evaluated, finite, progress.finite),
    )


def _bounded(image: jax.Array, seed: jax.Array, options: Options) -> jax.Array:
    """Keep the image within the optional bounds."""
    if options.max_norm is not None:
        squared = jnp.sum((image - seed) ** 2)
        bound = options.max_norm / jnp.sqrt(jnp.maximum(squared, options.max_norm**2))
        image = seed + bound * (image - seed)
    if options.pixel_range is not None:
        black, white = options.pixel_range
        image = jnp.clip(image, black[None, None, :], white[None, None, :])
    return image


def ascend(
    logits_fn: LogitsFn, problem: Problem, valid: jax.Array, options: Options
) -> Progress:
    """Move ONE image until it is finished: `lax.while_loop` around `update`.

    Under `jax.vmap` all images take part until the slowest is done; this is the
    reference that `cascade` is tested against.
    """
    return jax.lax.while_loop(
        lambda progress: progress.active,
        lambda progress: update(logits_fn, problem, progress, options),
        start(problem, valid, options),
    )
