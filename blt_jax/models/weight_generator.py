"""A generator of classifier weights from a few images of each class.

Gidaris & Komodakis 2018 (arXiv:1804.09458, Sec. 3.1): the weight of a novel class is

    w = phi_avg * z_avg + phi_att * w_att,

z_avg the mean of its exemplars' features z_i of length 1, and w_att the mean over them
of sum_b softmax_b(s cos(phi_q z_i, k_b)) w_b, which looks up what is alike among the
weights w_b of the base classes, of length 1. Pure functions of plain dictionaries; the
phi_q of the authors' code has a bias beside the matrix of the paper, here it has not.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from blt_jax.models.heads import dot, norm

INITIAL_SCALE = 30.0  # s; the authors take 10 for small data sets
_NOISE = 1e-3

Generator = dict[str, Any]


def init_generator(
    key: jax.Array,
    *,
    num_features: int,
    num_base: int,
    dtype: DTypeLike = jnp.float32,
) -> Generator:
    """Draw a generator for F features and b base classes.

    Returns average [F] and attended [F], the diagonals of phi_avg and phi_att, which
    start at 1; query [F, F], phi_q, near the identity; keys [b, F], normal with
    variance 2 / F; scale [], s.
    """
    query, keys = jax.random.split(key)
    square = (num_features, num_features)
    deviation = (2 / num_features) ** 0.5
    return {
        "average": jnp.ones(num_features, dtype),
        "attended": jnp.ones(num_features, dtype),
        "query": jnp.eye(num_features, dtype=dtype)
        + _NOISE * jax.random.normal(query, square, dtype),
        "keys": deviation * jax.random.normal(keys, (num_base, num_features), dtype),
        "scale": jnp.asarray(INITIAL_SCALE, dtype),
    }


def generate(
    generator: Generator,
    base_weights: jax.Array,
    features: jax.Array,
    shares: jax.Array,
    usable: jax.Array,
) -> jax.Array:
    """Write the weights [m, F] of m classes.

    base_weights: [b, F]. features: [n, F], of any length; a zero feature stays zero.
    shares: [m, n], 1 / (number of the class's exemplars) for those and 0 for others; a
    class without exemplars gets zeros. usable: [b] bool, the base classes that may be
    looked at, at least one.
    """
    attention = attend(generator, features, usable)
    return combine(
        generator,
        base_weights,
        dot(shares, unit(features)),
        dot(shares, attention),
    )


def generate_from_many(
    generator: Generator,
    base_weights: jax.Array,
    features: jax.Array,
    places: jax.Array,
    *,
    num_classes: int,
) -> jax.Array:
    """`generate` for more exemplars than fit next to each other, in groups of n.

    features: [g, n, F]; places: [g, n] int, 0 to num_classes - 1, or -1 for padding,
    whose features must be finite. All base classes may be looked at.
    """
    usable = jnp.ones(len(base_weights), bool)
    dtype = base_weights.dtype

    def add(sums: Any, group: Any) -> tuple[Any, None]:
        rows, where = group
        own = (where[None, :] == jnp.arange(num_classes)[:, None]).astype(dtype)
        found = (unit(rows), attend(generator, rows, usable))
        counts = jnp.sum(own, axis=1, keepdims=True)
        new = (*(dot(own, each) for each in found), counts)
        return jax.tree.map(jnp.add, sums, new), None

    shapes = (features.shape[-1], len(base_weights), 1)
    none = tuple(jnp.zeros((num_classes, size), dtype) for size in shapes)
    (unit_sum, attention_sum, counts), _ = jax.lax.scan(add, none, (features, places))
    counts = jnp.maximum(counts, 1)
    return combine(generator, base_weights, unit_sum / counts, attention_sum / counts)


def attend(generator: Generator, features: jax.Array, usable: jax.Array) -> jax.Array:
    """How much each exemplar looks at each base class [n, b]; rows add up to 1.

    features, usable: as for `generate`. Classes that are not usable get 0 exactly.
    """
    queries = unit(dot(unit(features), generator["query"]))
    cosine = dot(queries, unit(generator["keys"]).T)
    return jax.nn.softmax(generator["scale"] * cosine, where=usable[None, :])


def combine(
    generator: Generator,
    base_weights: jax.Array,
    features: jax.Array,
    attention: jax.Array,
) -> jax.Array:
    """The weights [m, F] of m classes from means over their exemplars.

    features [m, F]: of the features of length 1; attention [m, b]: of `attend`.
    """
    found = dot(attention, unit(base_weights))
    average, attended = generator["average"], generator["attended"]
    return average[None, :] * features + attended[None, :] * found


def unit(x: jax.Array) -> jax.Array:
    """Rows [n, F] of length 1; a zero row stays zero."""
    return x / norm(x, axis=1)[1]
