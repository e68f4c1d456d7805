"""A language model larger than one device's memory, on a cluster of small ones.

Tensor parallelism over home devices with a sliding-window memory scheduler and a star
all-reduce, after TPI-LLM (arXiv:2410.00531).
"""
