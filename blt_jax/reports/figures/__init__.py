"""The figures of the paper, and one it lacks, drawn from records.

    sweep                      Fig. 3a to 3d    draw_sweep
    arms side by side          Fig. 3e          draw_arms
    batch sizes                Fig. 3f          draw_batch_sizes
    gains of each class        Fig. 4           draw_gains
    accuracy against FLOPs     Fig. 5a, 5b      draw_accuracy_against_flops
    dynamic against static     Fig. 5c          draw_dynamic_against_static
    error against rank         Fig. 5d          draw_error_against_rank
    few against many or cost   -                draw_pareto

Each returns a `Drawing`: figure, caption and numbers; `save_drawing` writes it. They
need the extra `figures`.
"""

from blt_jax.reports.figures.bars import (
    draw_arms,
    draw_dynamic_against_static,
    draw_gains,
)
from blt_jax.reports.figures.lines import (
    draw_batch_sizes,
    draw_error_against_rank,
    draw_sweep,
)
from blt_jax.reports.figures.scatter import draw_accuracy_against_flops, draw_pareto
from blt_jax.reports.figures.style import Drawing, save_drawing

__all__ = [
    "Drawing",
    "draw_accuracy_against_flops",
    "draw_arms",
    "draw_batch_sizes",
    "draw_dynamic_against_static",
    "draw_error_against_rank",
    "draw_gains",
    "draw_pareto",
    "draw_sweep",
    "save_drawing",
]
