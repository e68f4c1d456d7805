"""The devices room: what a machine is, what works on it and how fast a bundle runs there.

:mod:`~edgekit.devices.profiles` knows devices by name, :mod:`~edgekit.devices.this_machine`
makes a profile of this one. :mod:`~edgekit.devices.host` describes this machine,
:mod:`~edgekit.devices.doctor` tries each back end, and :mod:`~edgekit.devices.bench`
measures a bundle on every runtime. :mod:`~edgekit.devices.kit` packs what a device needs,
:mod:`~edgekit.devices.deploy` puts a bundle on one over SSH, and
:mod:`~edgekit.devices.history` tells what was measured over time.
"""
