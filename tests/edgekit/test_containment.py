import os
from pathlib import Path

import pytest

from edgekit.containment import check_name, check_names, open_beneath, scan
from edgekit.errors import BundleError


@pytest.mark.parametrize("name", ["a", "a/b.txt", "graphs/f/m.mlpackage/Data/x y.bin", "ü/é", ".x"])
def test_plain_names_pass(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "/a", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "C:a", "a:b"),
        *("a\0b", "a\nb", "a./b", "a /b", "x" * 2000, "a/" * 40 + "b", "\u202ea"),
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(BundleError, match="not allowed"):
        check_name(name)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a", "a"], "twice"),
        (["a/X", "a/x"], "collide"),
        (["A/x", "a/y"], "collide"),
        (["stra\u00dfe", "STRASSE"], "collide"),
        (["e\u0301", "\u00e9"], "collide"),
        (["a", "a/b"], "both a file and a folder"),
        (["a/b", "a"], "both a file and a folder"),
    ],
)
def test_names_that_cannot_stand_together(names, reason):
    with pytest.raises(BundleError, match=reason):
        check_names(names)


def test_scan_finds_files_with_sizes(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(b"123")
    (tmp_path / "d").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert scan(tmp_path) == {"a/b/c": 3, "d": 0}


def _symlink(folder: Path) -> None:
    (folder / "x").symlink_to("/etc/hostname")


def _folder_link(folder: Path) -> None:
    (folder / "x").symlink_to(folder.parent, target_is_directory=True)


def _hard_link(folder: Path) -> None:
    other = folder.parent.parent / "other"
    other.write_bytes(b"1")
    os.link(other, folder / "x")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "x")


@pytest.mark.parametrize("plant", [_symlink, _folder_link, _hard_link, _pipe])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, plant):
    root = tmp_path / "outside/root"
    (root / "sub").mkdir(parents=True)
    plant(root / "sub")
    with pytest.raises(BundleError, match="'sub/x'"):
        scan(root)
    with pytest.raises((BundleError, OSError)):
        open_beneath(root, "sub/x").close()


def test_a_link_on_the_way_is_not_followed(tmp_path: Path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "sub").symlink_to(outside)
    with pytest.raises(OSError, match=r"(?i)not a directory|symbolic"):
        open_beneath(root, "sub/secret")
    with pytest.raises(BundleError, match="leaves"):
        open_beneath(root, "../outside/secret")
