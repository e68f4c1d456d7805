from pathlib import Path

from edgekit.paths import cache_dir, state_dir


def test_edgekit_home_holds_both(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_dir() == tmp_path / "cache"
    assert state_dir() == tmp_path / "state"


def test_xdg_variables_are_honoured_and_relative_ones_ignored(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGEKIT_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert cache_dir() == Path("/var/cache/edgekit")
    assert state_dir() == tmp_path / ".local/state/edgekit"
