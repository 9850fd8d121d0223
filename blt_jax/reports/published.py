"""The paper's own figures: top-1 accuracy in percent, as its tables print them.

Kozerawski et al., "BLT: Balancing Long-Tailed Datasets with Adversarially-Perturbed
Images", ACCV 2020, Tables 1 and 2. Of Table 1 the rows lifted_structure, range, fslwf
and oltr are there taken from Liu et al. (CVPR 2019); oltr_reproduced is the paper's
own run of OLTR's code, as is the OLTR of Table 2.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """One row of a table: percent."""

    many: float
    medium: float
    few: float
    overall: float


# Data set -> where its figures stand.
SOURCES = {
    "imagenet_lt": "Table 1",
    "places_lt": "Table 2",
    "inaturalist2018": "Table 2",
}
# Data set -> row of the table -> figures.
PUBLISHED: dict[str, dict[str, Published]] = {
    "imagenet_lt": {
        "plain": Published(52.4, 23.1, 4.5, 31.6),
        "sampling": Published(40.6, 31.5, 14.7, 32.5),
        "lifted_structure": Published(35.8, 30.4, 17.9, 30.8),
        "range": Published(35.8, 30.3, 17.6, 30.7),
        "fslwf": Published(40.9, 22.1, 15.0, 28.4),
        "oltr": Published(43.2, 35.1, 18.5, 35.6),
        "oltr_reproduced": Published(39.5, 32.5, 18.4, 33.1),
        "focal": Published(37.8, 31.2, 15.0, 31.4),
        "class_balanced": Published(29.7, 24.7, 17.4, 25.6),
        "class_balanced_focal": Published(28.0, 23.6, 17.4, 24.4),
        "blt": Published(44.4, 33.5, 25.5, 36.6),
    },
    "places_lt": {
        "plain": Published(37.8, 13.0, 0.8, 19.3),
        "sampling": Published(27.8, 25.3, 7.0, 22.4),
        "oltr_reproduced": Published(29.1, 26.0, 8.3, 23.4),
        "focal": Published(27.6, 25.5, 7.0, 22.3),
        "class_balanced": Published(20.5, 19.0, 12.6, 18.2),
        "class_balanced_focal": Published(18.6, 17.7, 12.8, 17.0),
        "blt": Published(31.0, 27.4, 14.1, 25.9),
    },
    "inaturalist2018": {
        "plain": Published(70.6, 53.0, 40.4, 46.8),
        "sampling": Published(48.8, 53.4, 47.1, 49.0),
        "oltr_reproduced": Published(44.8, 53.7, 52.1, 51.8),
        "focal": Published(28.6, 39.0, 36.9, 36.6),
        "class_balanced": Published(16.6, 25.4, 29.1, 26.8),
        "class_balanced_focal": Published(14.0, 22.1, 27.2, 24.5),
        "blt": Published(53.7, 52.5, 49.9, 51.0),
    },
}


def published(dataset: str, row: str) -> Published | None:
    """The paper's figures; None: it has none for that data set and row."""
    return PUBLISHED.get(dataset, {}).get(row)
