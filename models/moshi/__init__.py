"""Mimi and Moshi: a streaming speech codec, and speech-to-speech dialogue on top of it.

Défossez et al.: "Moshi: a speech-text foundation model for real-time dialogue",
arXiv:2410.00037. Every module here takes its past as tensors and gives it back as tensors, so
that each graph is a plain function of one 80 ms frame. Keys of the state dict are the official
ones.
"""
