"""Every head and column is on some rank, cut as the ratio says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgekit.devices.cluster.language import Language, rotary
from edgekit.devices.cluster.partition import partition
from edgekit.errors import UsageError


def language(heads: int = 9, kv_heads: int = 3, columns: int = 1536) -> Language:
    return Language(
        "llama", 2, 64 * heads, columns, heads, kv_heads, 64, 100, 1e-5, 512, rotary(64, 1e4)
    )


@pytest.mark.parametrize("ratio", [[1], [1, 1], [1, 1, 1], [1] * 4, [5, 1, 1], [1] * 9, [1, 7, 2]])
def test_nothing_is_lost_or_twice(ratio):
    model = language()
    shares = partition(model, ratio)
    for name, whole in (("heads", 9), ("feed_forward", 1536)):
        parts = [getattr(share, name) for share in shares]
        assert parts[0][0] == 0
        assert parts[-1][1] == whole
        assert all(a[1] == b[0] for a, b in pairwise(parts))
        assert all(a < b for a, b in parts)
    for share in shares:
        needed = {head // model.group for head in range(*share.heads)}
        assert needed == set(range(*share.kv_heads))


def test_nine_heads_on_four_ranks_replicate_key_value_heads():
    shares = partition(language(), [1, 1, 1, 1])
    assert sum(share.sizes[1] for share in shares) == 4
    # Nobody has more rows than the one that holds a whole group: 3 query and 1 key-value head.
    assert max(share.sizes[0] + share.sizes[1] for share in shares) == 4


def test_a_ratio_is_followed():
    shares = partition(language(32, 8, 8192), [2, 1, 1])
    assert [share.sizes for share in shares] == [(16, 4, 4096), (8, 2, 2048), (8, 2, 2048)]


def test_columns_that_are_no_whole_units_are_kept():
    shares = partition(language(columns=100), [1, 1])
    assert shares[-1].feed_forward[1] == 100


@pytest.mark.parametrize("ratio", [[], [1, 0], [1, -1], [1] * 10])
def test_what_cannot_be_cut_is_refused(ratio):
    with pytest.raises(UsageError):
        partition(language(), ratio)
