"""A lidar bundle is benchmarked on a made-up sweep where nobody names a real one."""

from edgekit.devices.sample_input import sample_input
from edgekit.manifest import Graph
from edgekit.runtimes.point_clouds import read_points


def test_a_lidar_bundle_is_fed_a_synthetic_sweep(tmp_path):
    made = sample_input("lidar-detection", Graph(name="whole", inputs=(), outputs=()), tmp_path)
    points = read_points(made.path)
    assert points.shape == (103001, 5)
    assert made.what == "a synthetic sweep of 103001 points"
