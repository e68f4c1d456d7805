"""``edgekit doctor``: the table, and the exit code when the core is broken."""

import pytest

from edgekit.devices import doctor


@pytest.fixture
def only(monkeypatch):
    """Examine a few back ends instead of all, which takes half a minute."""

    def limit(*names):
        chosen = tuple(b for b in doctor.BACKENDS if b.name in names)
        monkeypatch.setattr(doctor.examine, "__defaults__", (chosen, lambda: None))
        monkeypatch.setattr(doctor, "BACKENDS", chosen)

    return limit


def test_rows_say_what_works(edgekit, only):
    only("onnxruntime", "openvino")
    done = edgekit("doctor", "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in done.document["backends"]}
    assert rows["onnxruntime"]["status"] == "ok"
    assert "openvino" in rows
    assert done.document["host"]["cpu"]


def test_people_read_what_to_install(edgekit, monkeypatch):
    missing = doctor.Backend("magic", "no_such_module_here", "wonders", "pip install magic")
    monkeypatch.setattr(doctor.examine, "__defaults__", ((missing,), lambda: None))
    done = edgekit("doctor")
    assert done.code == 0
    assert "magic: pip install magic" in done.out


def test_a_broken_core_is_code_3(edgekit, only, tmp_path, monkeypatch):
    only("onnxruntime")
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = edgekit("doctor", "--json")
    assert done.code == 3
    assert done.document["backends"][0]["detail"] == "ImportError: GLIBC_2.99 not found"
    assert "onnxruntime: ImportError: GLIBC_2.99 not found" in done.err
