"""Devices: the mesh, how arrays lie on it, and how batches get there.

All calls of JAX that changed between the supported versions are here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh "data" over all devices, or over the first few.

    Those of a process lie side by side, processes in their order, so that process p has
    the p-th part of the rows of whatever is split over them. (jax.make_mesh may mix
    them: it goes by how the devices are wired.)

    Raises ValueError when more devices are asked for than there are.
    """
    devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if num_devices is not None:
        if not 1 <= num_devices <= len(devices):
            raise ValueError(
                f"{num_devices} devices were asked for, but {len(devices)} are "
                f"visible to JAX on {jax.default_backend()}"
            )
        devices = devices[:num_devices]
    # Auto: the compiler places what lies between our constraints. (The default
    # became Explicit, which asks for a sharding on every intermediate array.)
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def per_device(
    function: Callable[..., Any], mesh: Mesh, *, num_replicated: int
) -> Callable[..., Any]:
    """Run `function` on each device's own rows, without any communication.

    Its first `num_replicated` arguments are the same everywhere, of the others
    each device sees its part; results are parts of longer arrays again.
    """

    def local(*args: Any) -> Any:
        # Each device's copy is its own, so that no derivative taken inside sums over
        # devices: a collective in a loop that they leave at different times.
        own = jax.lax.pcast(args[:num_replicated], AXIS, to="varying")
        return function(*own, *args[num_replicated:])

    def mapped(*args: Any) -> Any:
        split = [PartitionSpec(AXIS)] * (len(args) - num_replicated)
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(*[PartitionSpec()] * num_replicated, *split),
            out_specs=PartitionSpec(AXIS),
        )(*args)

    return mapped


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Send this host's part of a batch to its devices; returns global arrays."""
    placement = sharded(mesh)
    return {
        name: jax.make_array_from_process_local_data(placement, rows)
        for name, rows in batch.items()
    }


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Send the same values, held by every host, to all devices."""

    def put(leaf: Any) -> jax.Array:
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
            # Keys cannot be sent to other hosts' devices; their numbers can.
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return jax.device_put(leaf, replicated(mesh))

    return jax.tree.map(put, tree)


def meet(where: str) -> None:
    """Wait until every process is here; alone, there is nothing to wait for."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def from_first(value: bool) -> bool:
    """What the first process says, in all of them."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))
