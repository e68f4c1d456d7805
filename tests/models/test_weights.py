"""Checkpoints that must load, and those that must be refused without a trace."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit import models
from edgekit.errors import InputError
from edgekit.models.weights import apply_checkpoint, load_checkpoint


def _network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return _network().state_dict()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth"])
def test_bare_state_dict(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    path = tmp_path / name
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    loaded = load_checkpoint(path)
    assert list(sorted(loaded)) == sorted(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_state_dict_wins_over_ema(tmp_path: Path, state: dict[str, Tensor]) -> None:
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    path = tmp_path / "a.pt"
    torch.save({"state_dict": state, "ema": other, "epoch": -1, "scaler": {}}, path)
    assert torch.equal(load_checkpoint(path)["0.weight"], state["0.weight"])
    torch.save({"ema": other, "epoch": -1}, path)
    assert not load_checkpoint(path)["0.weight"].any()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated(tmp_path: Path, state: dict[str, Tensor], suffix: str, share: float) -> None:
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
    content = whole.read_bytes()
    part.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="cannot read checkpoint") as caught:
        load_checkpoint(part)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".txt"])
def test_text_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"notes{suffix}"
    path.write_text("These are not weights.\n" * 20)
    with pytest.raises(InputError, match="notes"):
        load_checkpoint(path)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            load_checkpoint(path)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_code_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "a.pt", tmp_path / "ran"
    torch.save({"weight": _Hostile(marker)}, path)
    with pytest.raises(InputError, match="code beside tensors"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.zeros(1)],
        torch.zeros(1),
        {"state_dict": {}},
        {"epoch": 3, "weight": torch.zeros(1)},
        {3: torch.zeros(1)},
        {"weight": torch.zeros(2, 2).to_sparse()},
    ],
)
def test_other_content(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match="no dict of tensors"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_not_finite(tmp_path: Path, state: dict[str, Tensor], value: float, suffix: str) -> None:
    state["1.running_var"][2] = value
    path = tmp_path / f"a{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(InputError, match=r"NaN or infinite.*1\.running_var"):
        load_checkpoint(path)


def _drop(state: dict[str, Tensor]) -> None:
    del state["0.bias"], state["1.num_batches_tracked"]


def _add(state: dict[str, Tensor]) -> None:
    state.update({f"head.{index}": torch.zeros(1) for index in range(5)})


def _reshape(state: dict[str, Tensor]) -> None:
    state["0.weight"] = state["0.weight"][:, :1]


def _quantise(state: dict[str, Tensor]) -> None:
    state["0.weight"] = (state["0.weight"] * 100).to(torch.int8)


def _all_wrong(state: dict[str, Tensor]) -> None:
    _drop(state), _add(state), _reshape(state)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (_drop, ["2 missing (0.bias, 1.num_batches_tracked)"]),
        (_add, ["5 unexpected (head.0, head.1, head.2, …)"]),
        (_reshape, ["1 mismatched (0.weight is float32[4, 1, 3, 3] instead of float32[4, 3, 3"]),
        (_quantise, ["0.weight is int8[4, 3, 3, 3] instead of float32"]),
        (_all_wrong, ["2 missing", "5 unexpected", "1 mismatched"]),
    ],
)
def test_misfit_is_refused_whole(state: dict[str, Tensor], spoil, expected: list[str]) -> None:
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    wrong = {key: value + 1 for key, value in state.items()}
    spoil(wrong)
    with pytest.raises(InputError) as caught:
        apply_checkpoint(network, wrong, "wrong.pt")
    for part in ["wrong.pt", *expected]:
        assert part in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_half_precision_checkpoint_is_widened(state: dict[str, Tensor]) -> None:
    network = _network()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    apply_checkpoint(network, half, "half.pt")
    assert network.state_dict()["0.weight"].dtype == torch.float32
    torch.testing.assert_close(network[0].weight, state["0.weight"], atol=1e-3, rtol=1e-3)


def test_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evalmodel.pt"
    torch.save({"state_dict": models.build("cpubone-nano").state_dict()}, path)
    assert models.load("cpubone-nano", path).weights == "evalmodel.pt"
    with pytest.raises(InputError, match=r"CPUBone: \d+ missing \(.*; \d+ mismatched"):
        models.build("cpubone-s0", path)


def test_old_and_new_name_of_one_key() -> None:
    network = models.build("cpubone-nano")
    state = network.state_dict()
    key = next(key for key in state if ".conv_proj.norm." in key)
    state[key.replace(".norm.", ".1.")] = state[key]
    with pytest.raises(InputError, match="ambiguous"):
        apply_checkpoint(network, state, "a.pt")
