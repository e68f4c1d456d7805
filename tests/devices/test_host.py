"""What is said of this machine is what the system says."""

import json
import os

from edgekit.devices import host


def test_the_description_is_plain_json():
    described = host.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["tools"]["numpy"]
    assert described["memory_mb"] > 100


def test_no_more_cores_than_this_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert host.usable_cores() == host.physical_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert host.usable_cores() == len(before)


def test_load_average_is_that_of_the_system():
    assert host.load_average() >= 0
