"""PhysioSER: speech emotion from what the voice does, beside what a speech network hears.

Zhang, Cao, Yang, Wu: "Learning Physiology-Informed Vocal Spectrotemporal Representations for
Speech Emotion Recognition", arXiv:2602.13259. The paper's text and code were not at hand beyond its
abstract; what the abstract leaves open is decided in :mod:`.config` and named there.
"""
