"""Section of the report: tail images, what the ascent adds, and what comes of it."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from blt_jax.reports.picture import Triple, triples
from blt_jax.reports.run.files import Run
from blt_jax.reports.run.page import Section, missing, paragraph, short
from blt_jax.training.examples import Example

_LARGEST = 128  # pixels of an image on the page
# Examples of a run, or why there are none.
Examples = Sequence[Example] | str


def examples_section(runs: Sequence[Run], found: Sequence[Examples]) -> Section:
    """Triples of each run. found: for each of the runs, in their order."""
    body = paragraph(
        "Tail images of the training split, moved by the trained network towards a "
        "class that validation images of theirs are taken for: the seed, what is added "
        "(amplified, around grey), and the hard example, which is trained with under "
        "the true label."
    )
    for run, examples in zip(runs, found, strict=True):
        if len(runs) > 1:
            body += f"<h3>{escape(run.name)}</h3>"
        if isinstance(examples, str):
            body += missing(examples)
            continue
        factor, rows = triples(examples)
        amplified = f"amplified {factor:g} times" if factor != 1 else "as it is"
        body += paragraph(f"What is added is shown {amplified}.", "faint")
        each = map(_triple, examples, rows)
        body += f'<div class="triples">{"".join(each)}</div>'
    return Section("Hard examples", "examples", body)


def _triple(example: Example, shown: Triple) -> str:
    name, other = escape(example.class_name), escape(example.confusing_class)
    images = "".join(
        f'<img src="{_png(pixels)}" alt="{told}">'
        for pixels, told in zip(
            shown,
            (
                f"seed image of {name}",
                f"amplified perturbation towards {other}",
                f"hallucinated image of {name}",
            ),
            strict=True,
        )
    )
    met = example.score_after >= example.score_threshold
    updates = "update" if example.iterations == 1 else "updates"
    before, after = _score(example.score_before), _score(example.score_after)
    return (
        f'<figure class="triple"><div>{images}</div><figcaption>'
        f"<b>{short(example.class_name)}</b> towards {short(example.confusing_class)}"
        f"<br>score {before} → {after}, threshold {_score(example.score_threshold)} "
        f"{'reached' if met else 'not reached'}, {example.iterations} {updates}"
        "</figcaption></figure>"
    )


def _score(value: float) -> str:
    return "&lt;0.001" if 0 <= value < 0.0005 else f"{value:.3f}"


def _png(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)  # only smaller
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
