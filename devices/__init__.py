"""The devices room: what a machine is, what works on it and how fast a bundle runs there.

:mod:`~edgekit.devices.host` describes this machine, :mod:`~edgekit.devices.doctor` tries
each back end, and :mod:`~edgekit.devices.bench` measures a bundle on every runtime.
"""
