"""Images kept on the devices: the same crops as the host cuts."""

import jax
import numpy as np
import pytest

from blt_jax.data.pipeline import box_dataset, train_dataset
from blt_jax.data.plan import BatchPlan
from blt_jax.data.sampler import GammaBalancedSampler
from blt_jax.data.split import Split, split_of_arrays
from blt_jax.training.mesh import make_mesh, sharded
from blt_jax.training.programs import BATCH_FIELDS
from blt_jax.training.resident import ResidentImages

LABELS = np.repeat([0, 1, 2], [20, 8, 4])


def smooth_split(height, width):
    """Images whose neighbouring pixels differ little, as in photographs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (len(LABELS), 5, 6, 3)).astype(np.float32)
    resized = jax.image.resize(coarse, (len(LABELS), height, width, 3), "cubic")
    pixels = np.clip(np.asarray(resized), 0, 255).astype(np.uint8)
    return split_of_arrays("train", pixels, LABELS)


def make_plan(seed_source, devices):
    return BatchPlan(
        LABELS,
        GammaBalancedSampler(LABELS, gamma=1.0, seed=3),
        batch_size=16,
        tail_mask=np.array([False, True, True]),
        tail_fraction=0.5,
        seed=3,
        num_devices=devices,
        seed_source=seed_source,
    )


@pytest.mark.parametrize("seed_source", ["batch", "dataset"])
@pytest.mark.parametrize(
    ("crop", "height", "width", "size"),
    [
        ("random_resized", 24, 31, 16),
        ("random_resized", 9, 12, 16),
        ("pad", 16, 16, 16),
        ("pad", 32, 24, 16),
        ("none", 24, 31, 16),
    ],
)
def test_crops_are_those_of_the_host(seed_source, crop, height, width, size):
    split, mesh = smooth_split(height, width), make_mesh(4)
    plan = make_plan(seed_source, 4)
    options = {"num_steps": 3, "image_size": size, "crop": crop, "seed": 7}
    resident = ResidentImages(
        split, image_size=size, counts=(16, *plan.widths), mesh=mesh, threads=2
    )
    assert (resident.width, resident.height) == (width, height)
    boxes = box_dataset(split, plan, width=width, height=height, **options)
    decoded = train_dataset(split, plan, **options)
    for step in range(3):
        expected, batch = decoded[step], boxes[step]
        for name in set(batch) - {"box", "seed_box"}:
            np.testing.assert_array_equal(batch[name], expected[name])
        placed = resident.place(batch, BATCH_FIELDS)
        assert set(placed) == set(BATCH_FIELDS)
        assert expected["seed_valid"].any() and not expected["seed_valid"].all()
        for name, dtype in BATCH_FIELDS.items():
            assert placed[name].sharding == sharded(mesh)
            assert placed[name].dtype == dtype
            difference = placed[name].astype(np.int32) - expected[name].astype(np.int32)
            # Pillow rounds after each direction, the device once.
            most = 1 if name.endswith("image") else 0
            assert np.abs(difference).max() <= most, name
        assert expected["image"].std() > 20


def test_no_batch_compiles_anything():
    """Batches with slots, without, and of every width run what was compiled before."""
    split, size = smooth_split(12, 12), 8
    resident = ResidentImages(
        split, image_size=size, counts=(16, 0, 8), mesh=make_mesh(2), threads=0
    )
    compiled, placed = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "compile" in event else None
    )
    for count in (0, 8, 0, 8):
        batch = {
            "record": np.arange(16),
            "box": np.tile(np.float32([0, 0, 12, 12]), (16, 1)),
            "seed_record": np.full(count, -1),
            "seed_box": np.zeros((count, 4), np.float32),
        }
        placed.append(resident.place(batch, ("image", "seed_image")))
    assert compiled == []
    jax.jit(lambda x: x + 41)(1.0)
    assert compiled  # the listener hears
    for each, count in zip(placed, (0, 8, 0, 8), strict=True):
        assert each["image"].shape == (16, size, size, 3)
        assert each["seed_image"].shape == (count, size, size, 3)
        assert not np.asarray(each["seed_image"]).any()  # padding is black


def test_images_of_several_sizes_are_refused():
    images = [np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
    split = Split("train", images, np.zeros(2, np.int32), ["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"b\.png has 4 x 5 pixels, but a\.png has 5"):
        ResidentImages(split, image_size=4, counts=(), mesh=make_mesh(1), threads=0)
