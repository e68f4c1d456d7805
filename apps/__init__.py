"""The apps room: programs that show the product at work, each runnable with ``python -m``."""
