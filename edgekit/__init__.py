"""edgekit: a PyTorch model on every edge runtime, proved to be still the same model.

The rooms of the house are sub-packages: :mod:`edgekit.models` (networks and their
registry), :mod:`edgekit.quant` (precision), :mod:`edgekit.export` (the graph
pipeline), :mod:`edgekit.runtimes` (the torch-free on-device library),
:mod:`edgekit.devices` (profiles and benchmarks) and :mod:`edgekit.apps`.
Importing :mod:`edgekit` loads none of them.
"""

from typing import Final

__version__: Final = "0.1.0"
