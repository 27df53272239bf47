# SPDX-License-Identifier: Apache-2.0
"""Attenuation as a function of Hounsfield units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError

Mapping = Callable[[NDArray[np.float64]], ArrayLike] | NDArray[np.floating[Any]]
"""Attenuation of HU: a vectorized function, or its values at HU -32768 to 32767 (65536,)."""

HU_VALUES = np.arange(-32768, 32768, dtype=np.float64)
MOST_MATERIALS = 8


def water_equivalent(hu: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the attenuation relative to water, ``1 + HU / 1000``; 0 below -950 HU: air and the noise in it."""
    return np.where(hu < -950, 0.0, 1 + hu / 1000)


def tabulate(mu_of_hu: Mapping | Sequence[Mapping], hu_range: tuple[int, int]) -> NDArray[np.float64]:
    """Tabulate one or several mappings.

    Args:
        mu_of_hu: The mapping, or a sequence of them.
        hu_range: Lowest and highest HU that occur.

    Returns:
        Values at HU -32768 to 32767 (mappings, 65536); 0 where no voxel is.

    Raises:
        ConfigurationError: There are too many mappings, or one has values that are negative, not finite, or not 65536.
    """
    mappings: list[Any] = list(mu_of_hu) if isinstance(mu_of_hu, Sequence) else [mu_of_hu]
    if not 1 <= len(mappings) <= MOST_MATERIALS:
        raise ConfigurationError(f"expected 1 to {MOST_MATERIALS} materials, got {len(mappings)}")
    low, high = (value + 32768 for value in hu_range)
    tables = []
    for mapping in mappings:
        table = np.asarray(mapping(HU_VALUES) if callable(mapping) else mapping, dtype=np.float64)
        if table.shape != HU_VALUES.shape:
            raise ConfigurationError(f"mapping must give 65536 values, for HU -32768 to 32767, not {table.shape}")
        used = table[low : high + 1]
        if not np.isfinite(used).all() or used.min() < 0:
            raise ConfigurationError("attenuation must be finite and not negative")
        clean = np.zeros_like(table)
        clean[low : high + 1] = used
        tables.append(clean)
    return np.stack(tables)
