"""A few hallucinations of a trained model, to look at."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from blt_jax.config import ConfigError
from blt_jax.data.decode import open_picture
from blt_jax.data.folders import loose_images
from blt_jax.data.split import Split, split_of_files
from blt_jax.data.transforms import eval_crop
from blt_jax.hallucination.cascade import hallucinate
from blt_jax.hallucination.targets import Confusion, draw_targets, draw_thresholds
from blt_jax.training.checkpoint import find_checkpoint, load_checkpoint
from blt_jax.training.inference import Classifier, load
from blt_jax.training.setup import read_dataset, tail


class Example(NamedTuple):
    """A seed image, what became of it, and the numbers of its ascent.

    seed_image, hallucinated_image: [H, W, 3] (or [H, W, 1], [H, W]), uint8, or float
    in display space, where [0, 1] is the visible range; the hallucinated one may leave
    it. Scores and threshold: softmax probabilities of the confusing class.
    iterations: updates applied.
    """

    seed_image: np.ndarray
    hallucinated_image: np.ndarray
    class_name: str
    confusing_class: str
    score_before: float
    score_after: float
    score_threshold: float
    iterations: int


def example_hallucinations(
    checkpoint: str | Path,
    config: ConfigDict,
    *,
    images: str | None = None,
    target: str | None = None,
    count: int = 6,
) -> list[Example]:
    """Hallucinate a few images with a checkpoint's model, by the run's own ascent.

    images: a folder of images, each taken to be of its most likely class; None: tail
    images of the training split. target: name or number of the confusing class; None:
    drawn from the validation confusion, or, where there is none, the runner-up. count:
    images at most. Raises ConfigError for no tail class, an unknown class or a count
    below 1, and as `loose_images` does.
    """
    if count < 1:
        raise ConfigError(f"--count {count}: it is at least 1")
    classifier = load(checkpoint)
    split = (
        _training_seeds(config, count)
        if images is None
        else split_of_files("images", loose_images([images])[:count])
    )
    pixels = np.stack(
        [
            eval_crop(image_size=config.data.image_size, resize=config.data.resize)(
                open_picture(split.source[i], name=split.ids[i]),
                np.random.default_rng(),
            )
            for i in range(len(split))
        ]
    )
    seeds = classifier.normalise(pixels)
    before = np.asarray(jax.nn.softmax(classifier.logits_fn(seeds)))
    labels = split.labels if images is None else before.argmax(1)
    uniform = jax.random.uniform(jax.random.key(config.seed), (2, len(labels)))
    targets = _targets(classifier, checkpoint, before, labels, uniform[0], target)
    options = config.hallucination
    thresholds = draw_thresholds(
        uniform[1],
        interval=tuple(options.threshold),
        grid=config.compat == "released",
    )
    clip = options.clip_to_pixel_range and classifier.normalisation.pixel_range()
    result = jax.jit(
        lambda seeds, targets, thresholds: hallucinate(
            classifier.logits_fn,
            seeds,
            targets,
            thresholds,
            step_rule=options.step_rule,
            step_size=options.step_size,
            max_iterations=options.max_iterations,
            max_step=options.max_step,
            max_norm=options.max_norm,
            clip_to_pixel_range=clip,
        )
    )(seeds, jnp.asarray(targets), thresholds)
    after = classifier.denormalise(result.images)
    names = classifier.class_names
    return [
        Example(
            seed_image=pixels[i] / np.float32(255),
            hallucinated_image=after[i],
            class_name=names[labels[i]],
            confusing_class=names[targets[i]],
            score_before=float(before[i, targets[i]]),
            score_after=float(result.scores[i]),
            score_threshold=float(thresholds[i]),
            iterations=int(result.iterations[i]),
        )
        for i in range(len(labels))
    ]


def _training_seeds(config: ConfigDict, count: int) -> Split:
    """Tail images of the training split, one of each class as far as they go."""
    dataset = read_dataset(config)
    tail_classes = tail(config, dataset.class_counts)
    if not tail_classes.any():
        raise ConfigError(
            f"no class is a tail class under config.tail.rule {config.tail.rule!r} "
            f"with value {config.tail.value}; change them, or give --images"
        )
    classes, firsts = np.unique(dataset.train.labels, return_index=True)
    firsts = firsts[tail_classes[classes]]
    spread = np.linspace(0, len(firsts) - 1, min(count, len(firsts))).round()
    return dataset.train.select(firsts[spread.astype(int)])


def _targets(
    classifier: Classifier,
    checkpoint: str | Path,
    probabilities: np.ndarray,
    labels: np.ndarray,
    uniform: jax.Array,
    target: str | None,
) -> np.ndarray:
    if target is not None:
        chosen = np.full(len(labels), _class_number(target, classifier.class_names))
        if (chosen == labels).any():
            raise ConfigError(f"--target {target} is the true class of an image")
        return chosen
    runner_up = np.where(
        np.arange(probabilities.shape[1])[None] == labels[:, None], -1, probabilities
    ).argmax(1)
    arrays, _ = load_checkpoint(find_checkpoint(checkpoint), confusion=True)
    if "confusion" not in arrays:
        return runner_up
    saved = arrays["confusion"]
    confusion = Confusion(*(jnp.asarray(saved[name]) for name in Confusion._fields))
    targets, drawn = draw_targets(uniform, jnp.asarray(labels), confusion)
    return np.where(drawn, targets, runner_up)


def _class_number(name: str, names: tuple[str, ...]) -> int:
    if name in names:
        return names.index(name)
    if name.isdigit() and int(name) < len(names):
        return int(name)
    raise ConfigError(
        f"--target {name!r} is neither a class name nor a number below {len(names)}"
    )
