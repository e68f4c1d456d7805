"""Writing and reading bundles, both forms."""

import gc
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from edgekit.bundle import Bundle, BundleWriter, update_report
from edgekit.errors import BundleError, UsageError
from edgekit.manifest import Manifest

from .conftest import FILES, fields

FORMS = ["bundle", "bundle.edgekit"]
ONNX = "graphs/forward/onnx/model.onnx"


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read(write, form):
    path = write(form)
    with Bundle.open(path) as bundle:
        assert bundle.path == path
        assert {name: bundle.read(name) for name in FILES} == FILES
        assert bundle.file(ONNX).read_bytes() == FILES[ONNX]
        assert bundle.read("report.html") == b"<p>1</p>"
        package = bundle.folder("graphs/forward/coreml/model.mlpackage")
        assert contents(package).keys() == {"Data/weights.bin", "Manifest.json"}
        assert bundle.graph().name == "forward"
        assert bundle.manifest.edgekit == "1.2.3"
        bundle.check_all()


@pytest.mark.parametrize("form", FORMS)
def test_the_same_content_gives_the_same_bytes(write, form, tmp_path):
    first = write(form)
    kept = tmp_path / "kept"
    first.rename(kept)
    os.utime(kept, (0, 0))
    second = write(form, dict(reversed(FILES.items())))
    if form.endswith(".edgekit"):
        assert kept.read_bytes() == second.read_bytes()
    else:
        assert contents(kept) == contents(second)


def test_both_forms_have_one_digest_that_leaves_the_report_out(write):
    digests = []
    for form in FORMS:
        path = write(form)
        update_report(path, "<p>another</p>")
        with Bundle.open(path) as bundle:
            assert bundle.read("report.html") == b"<p>another</p>"
            bundle.check_all()
            digests.append(bundle.digest)
    with Bundle.open(write("without", report=None)) as bundle:
        assert [bundle.digest] * 2 == digests
    with Bundle.open(write("other", {**FILES, ONNX: b"other"})) as bundle:
        assert bundle.digest not in digests


def test_the_report_of_a_damaged_report_can_be_replaced(write):
    path = write("bundle")
    (path / "report.html").write_text("half")
    with pytest.raises(BundleError, match=r"report\.html"):
        Bundle.open(path)
    update_report(path, "<p>2</p>")
    Bundle.open(path).check_all()


def test_a_zip_is_unpacked_privately_and_removed(write):
    path = write("bundle.edgekit")
    bundle = Bundle.open(path)
    assert stat.S_IMODE(bundle.root.stat().st_mode) == 0o700
    bundle.close()
    assert not bundle.root.exists()
    assert path.exists()
    forgotten = Bundle.open(path)
    root = forgotten.root
    del forgotten
    gc.collect()
    assert not root.exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("old", FORMS)
def test_a_bundle_may_be_replaced_by_a_bundle(write, tmp_path, form, old):
    """Also a folder that somebody named like a zip, and the other way round."""
    place = tmp_path / form
    write(old).rename(place)
    with BundleWriter(place) as writer:
        writer.add(ONNX, b"new")
        manifest = fields()
        graph = manifest["graphs"][0]
        graph = graph.model_copy(update={"artifacts": graph.artifacts[:1]})
        writer.finish({**manifest, "graphs": (graph,)})
    with Bundle.open(place) as bundle:
        assert bundle.read(ONNX) == b"new"
    assert [p.name for p in tmp_path.iterdir()] == [form]


def _foreign_file(place: Path) -> None:
    place.write_text("my thesis")


def _foreign_folder(place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("my thesis")


def _foreign_manifest(place: Path) -> None:
    place.mkdir()
    (place / "manifest.json").write_text('{"name": "a web application"}')


def _link(place: Path) -> None:
    place.symlink_to(place.parent)


@pytest.mark.parametrize("plant", [_foreign_file, _foreign_folder, _foreign_manifest, _link])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_else_is_overwritten(tmp_path, plant, form):
    place = tmp_path / form
    plant(place)
    with pytest.raises(UsageError, match="would be overwritten"):
        BundleWriter(place)
    assert os.path.lexists(place)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_bundle_with_a_file_of_the_users_is_not_overwritten(write):
    path = write("bundle")
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        BundleWriter(path)


def test_an_empty_folder_may_be_replaced(write, tmp_path):
    (tmp_path / "bundle").mkdir()
    Bundle.open(write("bundle")).check_all()


@pytest.mark.parametrize("form", FORMS)
def test_after_an_error_the_old_bundle_stands_alone(write, tmp_path, form):
    path = write(form)
    with Bundle.open(path) as before:
        digest = before.digest
    with pytest.raises(TypeError), BundleWriter(path) as writer:
        writer.add(ONNX, "an exporter's mistake")
    with pytest.raises(BundleError, match="not in the bundle"), BundleWriter(path) as writer:
        writer.finish(fields())
    with Bundle.open(path) as after:
        assert after.digest == digest
    assert [p.name for p in tmp_path.iterdir()] == [form]


def test_a_failed_rename_brings_the_old_bundle_back(write, tmp_path, monkeypatch):
    path = write("bundle")
    rename = os.rename

    def fail_to_place(source, target):
        if Path(target) == path and ".part-" in str(source) and (Path(source) / ONNX).exists():
            monkeypatch.setattr(os, "rename", rename)
            raise OSError("disk gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_to_place)
    with pytest.raises(OSError, match="disk gone"):
        write("bundle", {**FILES, "extra.bin": b"new"})
    Bundle.open(path).check_all()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_what_a_writer_refuses(tmp_path):
    with BundleWriter(tmp_path / "b") as writer:
        writer.add("a.bin", b"1")
        for name in ("a.bin", "manifest.json", "report.html"):
            with pytest.raises(BundleError, match="taken"):
                writer.add(name, b"2")
        with pytest.raises(BundleError, match="leaves"):
            writer.add("../b", b"2")
        (writer.root / "link").symlink_to("a.bin")
        with pytest.raises(BundleError, match="link"):
            writer.finish(fields())


def test_a_copied_file_and_a_manifest_object_are_taken(tmp_path):
    (tmp_path / "graph").write_bytes(b"g")
    manifest = fields()
    graph = manifest["graphs"][0].model_copy(update={"artifacts": ()})
    with BundleWriter(tmp_path / "b") as writer:
        assert writer.add("graph.bin", tmp_path / "graph") == writer.file("graph.bin")
        (writer.root / "empty/folder").mkdir(parents=True)
        writer.finish(Manifest(**{**manifest, "graphs": (graph,)}, files=()))
    assert contents(tmp_path / "b").keys() == {"graph.bin", "manifest.json"}
    assert not (tmp_path / "b/empty").exists()


def test_the_manifest_is_written_for_reading_and_comparing(write):
    text = (write("bundle") / "manifest.json").read_text()
    document = json.loads(text)
    assert text == json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    assert [f["path"] for f in document["files"]] == sorted(FILES)


class TestDamage:
    """Folders that were changed after they were written."""

    @pytest.mark.parametrize("name", [*FILES, "report.html"])
    def test_a_missing_file(self, write, name):
        path = write("bundle")
        (path / name).unlink()
        with pytest.raises(BundleError, match="truncated"):
            Bundle.open(path)

    def test_an_added_file(self, write):
        path = write("bundle")
        (path / "graphs/forward/plugin.so").write_bytes(b"")
        with pytest.raises(BundleError, match=r"plugin\.so"):
            Bundle.open(path)

    @pytest.mark.parametrize("name", [*FILES, "report.html"])
    def test_another_size(self, write, name):
        path = write("bundle")
        with open(path / name, "ab") as stream:
            stream.write(b"x")
        with pytest.raises(BundleError, match="bytes instead of"):
            Bundle.open(path)

    def test_a_changed_byte_is_found_when_it_is_used(self, write):
        path = write("bundle")
        data = bytearray(FILES[ONNX])
        data[3] ^= 1
        (path / ONNX).write_bytes(data)
        bundle = Bundle.open(path)
        assert bundle.read("assets/labels.txt") == FILES["assets/labels.txt"]
        for use in (bundle.file, bundle.read, lambda _: bundle.check_all()):
            with pytest.raises(BundleError, match="checksum"):
                use(ONNX)

    def test_a_changed_part_of_a_package(self, write):
        path = write("bundle")
        (path / "graphs/forward/coreml/model.mlpackage/Manifest.json").write_bytes(b"[]")
        with pytest.raises(BundleError, match="checksum"):
            Bundle.open(path).folder("graphs/forward/coreml/model.mlpackage")

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_a_link_in_place_of_a_file(self, write, tmp_path, link):
        path = write("bundle")
        shutil.move(path / ONNX, tmp_path / "moved")
        link(tmp_path / "moved", path / ONNX)
        with pytest.raises(BundleError, match="link"):
            Bundle.open(path)

    def test_a_link_put_in_place_after_opening(self, write, tmp_path):
        path = write("bundle")
        bundle = Bundle.open(path)
        shutil.move(path / "graphs/forward", tmp_path / "moved")
        os.symlink(tmp_path / "moved", path / "graphs/forward")
        with pytest.raises(BundleError, match="cannot be read"):
            bundle.file(ONNX)

    def test_a_manifest_that_is_a_pipe_does_not_block(self, write):
        path = write("bundle")
        (path / "manifest.json").unlink()
        os.mkfifo(path / "manifest.json")
        with pytest.raises(BundleError, match="not a plain file"):
            Bundle.open(path)


class TestManifest:
    """Manifests that are valid JSON and do not make sense."""

    def edit(self, path: Path, change) -> Path:
        document = json.loads((path / "manifest.json").read_text())
        change(document)
        (path / "manifest.json").write_text(json.dumps(document))
        return path

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda m: m.update(schema_version=2), "schema 1 only"),
            (lambda m: m.update(surprise=1), "surprise: Extra inputs"),
            (lambda m: m.pop("model"), "model: Field required"),
            (lambda m: m["files"][0].update(path="../x"), "leaves"),
            (lambda m: m["files"][0].update(path="manifest.json"), "twice"),
            (lambda m: m["files"][0].update(path="Report.html"), "collide"),
            (lambda m: m["files"].append(m["files"][0]), "twice"),
            (lambda m: m["files"][0].update(bytes=-1), r"files\.0\.bytes"),
            (lambda m: m["files"][0].update(sha256="0"), r"files\.0\.sha256"),
            (lambda m: m["report"].update(path="assets/labels.txt"), "report of the bundle"),
            (lambda m: m["graphs"].append(m["graphs"][0]), "'forward' occurs 2 times"),
            (lambda m: m["graphs"][0]["inputs"][0].update(dtype="object"), "unknown dtype"),
            (lambda m: m["graphs"][0]["inputs"][0].update(shape=[-1]), "impossible shape"),
            (lambda m: m["graphs"][0].update(name="../x"), "leaves"),
            (lambda m: m["graphs"][0].update(dynamic={"n": {"min": 3, "max": 1}}), "3 to 1"),
            (lambda m: m["graphs"][0].update(states=[{"input": "x", "output": "z"}]), "not fit"),
            (lambda m: m["graphs"][0].update(reference="no"), "reference"),
            (lambda m: m["graphs"][0]["artifacts"][0].update(file="no"), "not in the bundle"),
            (lambda m: m["graphs"][0]["artifacts"][0].update(extra=["no"]), "not in the bundle"),
            (lambda m: m["graphs"][0]["artifacts"][0].update(file=None), "no file"),
            (lambda m: m["graphs"][0]["artifacts"][0].update(target="coreml"), "occurs 2"),
        ],
    )
    def test_is_refused_with_one_reason(self, write, change, reason):
        path = self.edit(write("bundle"), change)
        with pytest.raises(BundleError, match=reason) as caught:
            Bundle.open(path)
        assert "\n" not in str(caught.value)
        assert "pydantic" not in str(caught.value)

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": 1' + "0" * 5000])
    def test_text_that_is_no_manifest(self, write, text):
        path = write("bundle")
        (path / "manifest.json").write_text(text)
        with pytest.raises(BundleError, match="is not valid"):
            Bundle.open(path)

    def test_state_pairs_that_fit_are_accepted(self, write):
        def add_states(m):
            m["graphs"][0]["states"] = [{"input": "x", "output": "y"}]

        Bundle.open(self.edit(write("bundle"), add_states))

    def test_infinite_figures_survive(self, write, tmp_path):
        manifest = fields()
        first = manifest["graphs"][0].artifacts[0]
        first = first.model_copy(update={"details": {"worst": float("inf")}})
        graph = manifest["graphs"][0].model_copy(update={"artifacts": (first,)})
        with BundleWriter(tmp_path / "b") as writer:
            writer.add(ONNX, b"g")
            writer.finish({**manifest, "graphs": (graph,)})
        text = (tmp_path / "b/manifest.json").read_text()
        assert '"Infinity"' in text
        assert Bundle.open(tmp_path / "b").digest == Bundle.open(tmp_path / "b").digest


def test_graphs_are_found_by_name(write, tmp_path):
    def named(*names: str) -> Bundle:
        place = tmp_path / "-".join(names)
        graph = fields()["graphs"][0].model_copy(update={"artifacts": ()})
        graphs = tuple(graph.model_copy(update={"name": name}) for name in names)
        with BundleWriter(place) as writer:
            writer.finish({**fields(), "graphs": graphs})
        return Bundle.open(place)

    assert named("encoder").graph().name == "encoder"
    assert named("encoder", "forward").graph().name == "forward"
    assert named("encoder", "forward").graph("encoder").name == "encoder"
    with pytest.raises(UsageError, match="encoder, decoder"):
        named("encoder", "decoder").graph()
    with pytest.raises(UsageError, match=r"no graph 'nothing'.*encoder"):
        named("encoder").graph("nothing")


def test_no_bundle_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match="no edgekit bundle"):
        Bundle.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="neither"):
        Bundle.open(tmp_path / "pipe")
    with BundleWriter(tmp_path / "b") as writer:
        writer.finish({**fields(), "graphs": ()})
    bundle = Bundle.open(tmp_path / "b")
    for use in (bundle.file, bundle.read):
        with pytest.raises(BundleError, match="lists no file"):
            use("x")
    with pytest.raises(BundleError, match="no folder"):
        bundle.folder("x")
