"""Make the graph functional, keeping the operators that runtimes know by name."""

from __future__ import annotations

import warnings

from torch.export import ExportedProgram

from .base import Pass, in_place_operators


class Decompose(Pass):
    """From what torch.export captured to functional inference operators.

    Rules:
        1. An operator that writes to its argument becomes its functional form.
        2. Batch normalisation becomes its inference form, with the running statistics as
           inputs (what :class:`~.fold_batchnorm.FoldBatchNorm` looks for).
        3. Convolution, linear, layer norm, attention, activations stay whole: every target
           has a kernel for them, and decomposes further only where it has none.

    Requires nothing. Ensures that no operator writes to its arguments.
    """

    name = "decompose"

    def rewrite(self, program: ExportedProgram) -> ExportedProgram:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            return program.run_decompositions({})

    def ensures(self, program: ExportedProgram) -> str:
        found = in_place_operators(program)
        return f"{', '.join(found)} still writes in place" if found else ""
