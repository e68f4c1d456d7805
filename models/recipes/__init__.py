"""Training recipes: where a checkpoint comes from that nobody has published.

Leaf programs, run with ``python -m edgekit.models.recipes.NAME``. Nothing imports them, so they
may use what no other module of this room may: the preprocessing of :mod:`edgekit.runtimes`, since
a network must be trained on pictures as a device will show them to it.
"""

import os

# PyTorch's threads wait for each other by spinning, for a long time by default. Where another
# program wants one of two cores, a step then takes ten to thirty times as long; with a short spin
# it takes four times as long, and on an idle machine no longer than before (measured). This is
# read once, when torch is loaded, which is after this.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
