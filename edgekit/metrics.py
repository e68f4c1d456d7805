"""Scale-free distances between an output and its reference, apart from any threshold.

A fixed absolute tolerance fits no model: logits of one network are in the hundreds, of
another in the thousandths. Each figure here is relative to the reference's own size.
"""

import numpy as np

from edgekit.manifest import Metrics


def compare(actual: np.ndarray, reference: np.ndarray) -> Metrics:
    """Compare one output with its reference, both of the same shape, in float64.

    Returns:
        ``max_abs``: the largest absolute difference; ``rel_range``: ``max_abs`` over the
        reference's range (max - min, or its largest magnitude if constant); ``nmse``: the
        squared error's sum over the reference's sum of squares; ``cosine``: of the two
        as vectors. Where the reference is all zero, an exact match gives 0, 0, 0, 1 and
        anything else infinities. A NaN or infinity that the reference does not have at
        the same place makes all of them infinite.

    Raises:
        ValueError: the shapes differ.
    """
    if actual.shape != reference.shape:
        raise ValueError(f"shape {actual.shape} is not the reference's {reference.shape}")
    a, r = (np.asarray(x, dtype=np.float64).ravel() for x in (actual, reference))
    strange = ~(np.isfinite(a) & np.isfinite(r))
    if strange.any():
        if not np.array_equal(a[strange], r[strange], equal_nan=True):
            return Metrics(max_abs=np.inf, rel_range=np.inf, nmse=np.inf, cosine=0.0)
        a, r = a[~strange], r[~strange]
    if a.size == 0 or np.array_equal(a, r):
        return Metrics(max_abs=0.0, rel_range=0.0, nmse=0.0, cosine=1.0)
    difference = np.abs(a - r)
    spread = float(r.max() - r.min()) or float(np.abs(r).max())
    power = float(r @ r)
    norms = float(np.linalg.norm(a) * np.linalg.norm(r))
    return Metrics(
        max_abs=float(difference.max()),
        rel_range=float(difference.max()) / spread if spread else np.inf,
        nmse=float(difference @ difference) / power if power else np.inf,
        cosine=float(a @ r) / norms if norms else 0.0,
    )


def worst(metrics: list[Metrics]) -> Metrics:
    """The worst of each figure over several outputs or samples."""
    return Metrics(
        max_abs=max(m.max_abs for m in metrics),
        rel_range=max(m.rel_range for m in metrics),
        nmse=max(m.nmse for m in metrics),
        cosine=min(m.cosine for m in metrics),
    )
