"""A reference interpreter of Core ML's ML programs: judges a package where no Mac is."""

from .interpreter import Interpreter
from .operators import UnknownOperatorError
from .reader import read_package
from .session import InterpretedSession, values_inside

__all__ = [
    "InterpretedSession",
    "Interpreter",
    "UnknownOperatorError",
    "read_package",
    "values_inside",
]
