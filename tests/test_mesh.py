"""The order of the devices."""

from dataclasses import dataclass

import jax
import pytest
from jax.sharding import AxisType

from blt_jax.training.mesh import AXIS, make_mesh


@dataclass(frozen=True)
class Device:
    """As much of a device as a mesh looks at."""

    process_index: int
    id: int
    device_kind: str = "TPU v5 lite"


def test_devices_lie_host_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    # A ring through the chips of two hosts, by place, and not by host.
    ring = [Device(0, 0), Device(1, 4), Device(1, 6), Device(0, 2), Device(0, 1)]
    ring += [Device(1, 5), Device(1, 7), Device(0, 3)]
    monkeypatch.setattr(jax, "devices", lambda: ring)
    mesh = make_mesh()
    assert mesh.axis_names == (AXIS,) and mesh.axis_types == (AxisType.Auto,)
    found = [(one.process_index, one.id) for one in mesh.devices]
    assert found == [(process, 4 * process + n) for process in (0, 1) for n in range(4)]
    assert [one.id for one in make_mesh(3).devices] == [0, 1, 2]


def test_more_devices_than_there_are() -> None:
    with pytest.raises(ValueError, match="9 devices were asked for, but 8 are visible"):
        make_mesh(9)
