"""The training recipe on small made-up data: it learns, resumes exactly, and its file exports."""

import gzip
import itertools
import json
import struct

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from edgekit.errors import InputError  # noqa: E402
from edgekit.models import load  # noqa: E402
from edgekit.models.recipes import fashion_mnist, training, training_pictures  # noqa: E402
from edgekit.models.recipes.fashion_mnist import main  # noqa: E402
from edgekit.models.recipes.training import Hyperparameters, Trainer  # noqa: E402
from edgekit.models.recipes.training_state import load_state, save_state  # noqa: E402
from edgekit.runtimes.labelled_pictures import open_labelled  # noqa: E402

CLASSES = 3
SIDE = 12


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bars(count, seed):
    """Pictures of a bright bar that lies, stands, or is not there, in noise."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 90, (count, SIDE, SIDE), np.uint8)
    classes = np.arange(count, dtype=np.uint8) % CLASSES
    for picture, kind, place in zip(pictures, classes, rng.integers(3, 8, count), strict=True):
        if kind == 0:
            picture[place : place + 3] += 150
        elif kind == 1:
            picture[:, place : place + 3] += 150
    return pictures, classes


def idx(array):
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder ``bars`` with 96 pictures to train on and 30 to test on."""
    folder = tmp_path_factory.mktemp("data") / "bars"
    folder.mkdir()
    for prefix, count in (("train", 96), ("t10k", 30)):
        pictures, classes = bars(count, count)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(pictures))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(classes))
    return folder


def arguments(data, out, *more):
    return ["--data", str(data), "-o", str(out), "--threads", "1", "--batch", "16", *more]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """What five epochs print, and the checkpoint."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("trained") / "nano.safetensors"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(arguments(data, out, "--epochs", "5")) == 0
    return out, said.getvalue()


@pytest.fixture
def pictures(data):
    params = {"resolution": 16, "resize": 16, "interpolation": "bilinear"}
    return training_pictures.read_pictures(open_labelled(data, split="train"), params)


def test_the_loss_falls_and_the_test_pictures_are_told(trained):
    out, said = trained
    losses = [
        float(line.split("loss ")[1].split(",")[0])
        for line in said.splitlines()
        if line.startswith("Epoch")
    ]
    assert len(losses) == 5
    assert losses[-1] < 0.6 * losses[0]
    accuracy = float(said.split("test accuracy: ")[1].split()[0])
    assert accuracy >= 80
    assert f"next: edgekit export cpubone-nano --weights {out} --eval" in said
    assert list(out.parent.iterdir()) == [out]  # the state is gone


def test_the_checkpoint_deploys_as_it_was_trained(trained, data, tmp_path):
    pytest.importorskip("onnxscript")
    from edgekit.export import export

    out, said = trained
    model = load("cpubone-nano", out)
    assert model.graphs[0].inputs[0].shape == (1, 3, 32, 32)
    params = model.task.params
    assert (params["resize"], params["interpolation"]) == (32, "bilinear")
    assert params["mean"] != [0.485, 0.456, 0.406]
    assert model.assets[params["labels"]] == b"0\n1\n2\n"
    result = export(
        "cpubone-nano",
        ["onnx"],
        tmp_path / "b",
        weights=str(out),
        evaluation=data,
        report=False,
    )
    assert result.ok
    eager, onnxruntime = result.evaluation["rows"]
    assert f"test accuracy: {eager['top1']:.2f} % of 30 pictures" in said
    assert (onnxruntime["top1"], onnxruntime["disagreements"]) == (eager["top1"], 0)


def test_the_same_seed_gives_the_same_checkpoint(data, tmp_path, capsys):
    for name in ("a", "b", "c"):
        seed = "7" if name == "c" else "0"
        options = ("--epochs", "1", "--seed", seed)
        assert main(arguments(data, tmp_path / f"{name}.safetensors", *options)) == 0
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_a_resumed_run_gives_what_an_uninterrupted_one_gives(data, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert main(arguments(data, whole, "--epochs", "3")) == 0

    def save_and_stop(path, tensors, values):
        save_state(path, tensors, values)
        if values["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fashion_mnist, "save_state", save_and_stop)
        assert main(arguments(data, broken, "--epochs", "3")) == 130
    assert not broken.exists()
    assert broken.with_suffix(".training.safetensors").is_file()
    capsys.readouterr()
    assert main(arguments(data, broken, "--epochs", "3", "--resume")) == 0
    said = capsys.readouterr().out
    assert "resumed after epoch 2 of 3" in said
    assert [line[:9] for line in said.splitlines() if line.startswith("Epoch")] == ["Epoch 3/3"]
    assert broken.read_bytes() == whole.read_bytes()


def test_the_state_of_another_run_is_not_taken_up(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "x.safetensors"
    state = out.with_suffix(".training.safetensors")

    def stop(path, tensors, values):
        save_state(path, tensors, values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fashion_mnist, "save_state", stop)
        assert main(arguments(data, out, "--epochs", "2")) == 130
    assert main(arguments(data, out, "--epochs", "2", "--seed", "1", "--resume")) == 2
    assert "is the state of another run: it differs in chosen" in capsys.readouterr().err
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    assert main(arguments(data, out, "--epochs", "2", "--resume")) == 8
    assert capsys.readouterr().err.count("\n") == 1
    save_state(state, {"network/x": torch.zeros(1)}, {"epoch": 1})
    assert main(arguments(data, out, "--epochs", "2", "--resume")) == 2


def test_a_state_is_tensors_and_json(tmp_path):
    tensors = {"network/w": torch.arange(6.0).view(2, 3).t(), "optimizer/0/step": torch.tensor(3.0)}
    save_state(tmp_path / "s.safetensors", tensors, {"epoch": 2})
    again, values = load_state(tmp_path / "s.safetensors")
    assert values == {"epoch": 2}
    assert all(torch.equal(again[key], tensor) for key, tensor in tensors.items())
    (tmp_path / "other.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(InputError, match="holds no training state"):
        load_state(tmp_path / "other.safetensors")


def test_class_folders_can_be_trained_on(data, tmp_path, capsys):
    for split, count in (("train", 24), ("test", 6)):
        for number, (grey, kind) in enumerate(zip(*bars(count, count), strict=True)):
            folder = tmp_path / "x" / split / f"kind {kind}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey).save(folder / f"{number:02}.png")
    out = tmp_path / "x.safetensors"
    assert main(arguments(tmp_path / "x", out, "--epochs", "1", "--resolution", "24")) == 0
    model = load("cpubone-nano", out)
    assert model.assets[model.task.params["labels"]] == b"kind 0\nkind 1\nkind 2\n"
    assert model.graphs[0].inputs[0].shape == (1, 3, 24, 24)


def test_pictures_that_are_not_split_are_refused(data, tmp_path, capsys):
    (tmp_path / "x" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "x" / "a" / "0.png")
    assert main(arguments(tmp_path / "x", tmp_path / "o.safetensors")) == 2
    assert "has no pictures set apart for testing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--epochs", "0"), 2, "--epochs 0 is not above 0"),
        (("--model", "cpubone-nan"), 2, "the nearest names are"),
        (("--seed", "-1"), 2, "--seed -1 is below 0"),
        (("--rate", "1e9", "--epochs", "1"), 8, "the loss became"),
    ],
)
def test_bad_options_end_in_one_line(data, tmp_path, capsys, options, code, said):
    assert main(arguments(data, tmp_path / "o.safetensors", *options)) == code
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "o.safetensors").exists()


def test_the_checkpoint_must_be_named_safetensors(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "o.pt")) == 2
    assert "is no .safetensors file" in capsys.readouterr().err


def test_as_many_epochs_as_fit_into_the_time(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "epochs_in", lambda self, seconds: int(seconds / 27))
    out = tmp_path / "o.safetensors"
    assert main(arguments(data, out, "--minutes", "1", "--epochs", "9")) == 0
    said = capsys.readouterr().out
    assert "2 epochs fit into 1 minutes here; 2 are made" in said
    assert "Epoch 2/2" in said


def test_timing_steps_changes_nothing(pictures):
    trainers = []
    for probe in (False, True):
        network = load("cpubone-nano", "random", classes=CLASSES).module
        normalise = training_pictures.measure_normalisation(pictures)
        trainer = Trainer(network, pictures, normalise, Hyperparameters(epochs=1, batch=16))
        if probe:
            assert trainer.epochs_in(3600) > 10
        trainer.run_epoch()
        trainers.append(trainer)
    first, second = (trainer.state() for trainer in trainers)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_sees_pictures_as_a_device_does(data, pictures):
    """Bit by bit: the same resize, the same arithmetic."""
    normalise = training_pictures.measure_normalisation(pictures)
    params = {"resolution": 16, "resize": 16, "interpolation": "bilinear"}
    deployed = training_pictures.task_alone(
        {**params, "mean": normalise.mean, "std": normalise.std}
    )
    for (source, _), pixels in zip(
        open_labelled(data, split="train"), pictures.pixels, strict=True
    ):
        (wanted,) = deployed.prepare(source).values()
        assert np.array_equal(normalise(pixels[None]).numpy(), wanted)


def test_normalisation_is_that_of_the_training_pictures(pictures):
    found = training_pictures.measure_normalisation(pictures)
    values = pictures.pixels.double() / 255
    assert found.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=5e-5)
    assert found.std == pytest.approx(values.std((0, 2, 3), correction=0).tolist(), abs=6e-5)
    blank = training_pictures.PictureSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2))
    assert min(training_pictures.measure_normalisation(blank).std) > 0


def test_varied_pictures_are_moved_or_mirrored():
    picture = torch.arange(3 * 6 * 5, dtype=torch.uint8).view(1, 3, 6, 5)
    many = picture.expand(200, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    varied = training_pictures.vary(many, generator, shift=1, flip=True)
    assert varied.shape == many.shape
    padded = torch.nn.functional.pad(picture.float(), (1, 1, 1, 1), "replicate").to(torch.uint8)
    moved = [padded[..., y : y + 6, x : x + 5] for y in range(3) for x in range(3)]
    possible = {bytes(p.contiguous().numpy().tobytes()) for m in moved for p in (m, m.flip(-1))}
    found = {p.contiguous().numpy().tobytes() for p in varied}
    assert found <= possible
    assert len(found) == len(possible) == 18
    still = training_pictures.vary(many, generator, shift=0, flip=False)
    assert torch.equal(still, many)


def test_the_rate_rises_and_falls_to_zero():
    chosen = Hyperparameters(peak_rate=1.0, warm_up=0.2)
    rates = [training.learning_rate(step, 100, chosen) for step in range(101)]
    assert rates[19] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.05)
    assert all(before > after for before, after in itertools.pairwise(rates[20:]))
    assert rates[100] == pytest.approx(0)


def test_pictures_that_do_not_fit_into_memory_are_refused(data, monkeypatch):
    monkeypatch.setattr(training_pictures, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="choose a lower --resolution"):
        training_pictures.read_pictures(open_labelled(data), {"resolution": 16})


def test_one_picture_is_too_few():
    one = training_pictures.PictureSet(
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    )
    normalise = training_pictures.measure_normalisation(one)
    with pytest.raises(InputError, match="too few"):
        Trainer(torch.nn.Linear(1, 1), one, normalise, Hyperparameters())


def test_the_header_says_what_was_trained(trained):
    from safetensors import safe_open

    with safe_open(trained[0], framework="numpy") as file:
        said = json.loads(file.metadata()["edgekit"])
    assert (said["model"], said["classes"], said["labels"]) == ("cpubone-nano", 3, ["0", "1", "2"])
    with pytest.raises(InputError, match="is of cpubone-nano, not of lowformer-e1"):
        load("lowformer-e1", trained[0])
