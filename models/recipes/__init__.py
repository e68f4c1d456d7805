"""Training recipes: where a checkpoint comes from that nobody has published.

Leaf programs, run with ``python -m edgekit.models.recipes.NAME``. Nothing imports them, so they
may use what no other module of this room may: the preprocessing of :mod:`edgekit.runtimes`, since
a network must be trained on pictures as a device will show them to it.
"""
