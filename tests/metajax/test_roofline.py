"""What a device is measured to do."""

import metajax as mj
from metajax import roofline


def test_rates_are_of_all_devices(monkeypatch):
    monkeypatch.setattr(roofline, "_seconds", lambda *_: 2.0)
    for rate in (roofline.matrix_rate, roofline.copy_rate):
        assert rate(mj.task_mesh(2)) == 2 * rate(None) > 0
