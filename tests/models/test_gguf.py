"""Language models in GGUF files: small ones, written here, against transformers' own network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")

from edgekit.bundle import Bundle  # noqa: E402
from edgekit.errors import InputError, MissingBackendError, UnsupportedError, UsageError  # noqa: E402
from edgekit.export import export  # noqa: E402
from edgekit.models.sources import SourceOptions, load_model  # noqa: E402
from edgekit.models.sources.vision_operators import declare_vision_operators  # noqa: E402
from edgekit.models.spec import InputSpec  # noqa: E402
from edgekit.runtimes import load  # noqa: E402

WORDS, WIDTH, INNER, HEADS, GROUPS, LAYERS, LONGEST = 96, 64, 96, 4, 2, 2, 40
STORED = gguf.GGMLQuantizationType


def network(tied=True):
    """Llama as transformers has it, with seeded weights of a trained network's size."""
    declare_vision_operators()
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        max_position_embeddings=LONGEST,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = LlamaForCausalLM(config).eval()
        for name, tensor in module.named_parameters():
            tensor.normal_(1 if "norm" in name else 0, 0.1)
    return module


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}


def interleaved(array, heads):
    """llama.cpp turns pairs of neighbours, transformers turns halves."""
    rows = array.shape[0] // heads // 2
    return array.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(array.shape)


def write(path, module, kind=STORED.F32, leave=(), architecture="llama"):
    """The network as llama.cpp writes it; returns its weights as they can be read back."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("small")
    writer.add_vocab_size(WORDS)
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    stored = {}
    for name, tensor in module.named_parameters():
        theirs = name.replace("model.layers.", "blk.").removesuffix(".weight")
        for ours, short in NAMES.items():
            theirs = theirs.replace(ours, short)
        theirs += ".weight"
        if theirs in leave:
            continue
        array = tensor.detach().numpy()
        if "attn_q" in theirs or "attn_k" in theirs:
            array = interleaved(array, HEADS if "attn_q" in theirs else GROUPS)
        held = kind if array.ndim == 2 else STORED.F32
        data = gguf.quants.quantize(np.ascontiguousarray(array), held)
        stored[name] = gguf.quants.dequantize(data, held)
        writer.add_tensor(theirs, data, raw_dtype=held)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def answer(module, words):
    with torch.no_grad():
        return module(input_ids=words, attention_mask=torch.ones_like(words)).logits


@pytest.fixture(scope="module")
def words():
    return torch.randint(0, WORDS, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [True, False])
def test_the_network_is_the_one_that_was_written(tmp_path, words, tied):
    original = network(tied)
    write(tmp_path / "small.gguf", original)
    model = load_model(str(tmp_path / "small.gguf"))
    assert (model.name, model.weights) == ("small", "small.gguf (GGUF)")
    assert torch.equal(answer(model.module, words), answer(original, words))
    shared = model.module.lm_head.weight is model.module.model.embed_tokens.weight
    assert shared == tied
    assert not model.module.training


@pytest.mark.parametrize("kind", [STORED.Q8_0, STORED.Q4_1, STORED.Q4_0, STORED.F16])
def test_blocks_of_few_bits_become_the_numbers_that_they_stand_for(tmp_path, kind):
    original = network()
    stored = write(tmp_path / "small.gguf", original, kind)
    module = load_model(str(tmp_path / "small.gguf")).module
    name = "model.layers.1.mlp.down_proj.weight"
    found = module.get_parameter(name)
    assert found.dtype is torch.float32
    assert np.array_equal(found.detach().numpy(), stored[name])
    assert not torch.equal(found, original.get_parameter(name))


def test_sequences_and_tokens_are_dynamic_and_run_without_torch(tmp_path, words):
    original = network()
    write(tmp_path / "small.gguf", original)
    out = tmp_path / "bundle"
    result = export(str(tmp_path / "small.gguf"), ["onnx"], out, report=False)
    assert result.exit_code == 0
    session = load(str(out))
    for count, length in ((1, 1), (2, 9), (8, LONGEST)):
        some = torch.randint(0, WORDS, (count, length))
        mask = np.ones((count, length), np.int64)
        found = session.run({"input_ids": some.numpy(), "attention_mask": mask})["logits"]
        wanted = answer(original, some).numpy()
        assert found.shape == (count, length, WORDS)
        assert ((found - wanted) ** 2).sum() < 1e-9 * (wanted**2).sum()


def test_every_runtime_computes_it_and_core_mls_program_is_interpreted(tmp_path):
    for package in ("openvino", "executorch", "coremltools"):
        pytest.importorskip(package)
    write(tmp_path / "small.gguf", network())
    targets = ["openvino", "executorch", "coreml"]
    out = tmp_path / "bundle"
    export(str(tmp_path / "small.gguf"), targets, out, report=False).raise_for_status()
    with Bundle.open(out) as bundle:
        found = {artifact.target: artifact.verify for artifact in bundle.graph().artifacts}
    assert found.keys() == set(targets)
    assert all(check.passed and check.metrics.nmse < 1e-9 for check in found.values())
    assert found["coreml"].level in ("interpreted", "ran")


def test_inputs_may_be_stated(tmp_path):
    write(tmp_path / "small.gguf", network())
    inputs = (InputSpec("input_ids", "int64", (1, 5), high=WORDS),)
    model = load_model(str(tmp_path / "small.gguf"), SourceOptions(inputs=inputs))
    assert model.graphs[0].inputs == inputs
    assert not model.graphs[0].dynamic


class TestRefusals:
    """One line each, with the code that the kind of fault has."""

    def test_no_file(self, tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            load_model(str(tmp_path / "none.gguf"))

    def test_another_kind_of_file(self, tmp_path):
        (tmp_path / "net.gguf").write_bytes(b"PK\x03\x04 not this")
        with pytest.raises(InputError, match="no GGUF file"):
            load_model(str(tmp_path / "net.gguf"))

    @pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.99])
    def test_a_file_that_was_cut_off(self, tmp_path, share):
        path = tmp_path / "small.gguf"
        write(path, network())
        content = path.read_bytes()
        path.write_bytes(content[: max(4, int(len(content) * share))])
        with pytest.raises(InputError, match="cannot read"):
            load_model(str(path))

    def test_a_tensor_that_is_missing(self, tmp_path):
        write(tmp_path / "small.gguf", network(), leave=("blk.1.ffn_up.weight",))
        with pytest.raises(InputError, match=r"lacks 1 .*layers\.1\.mlp\.up_proj"):
            load_model(str(tmp_path / "small.gguf"))

    def test_an_architecture_that_is_not_known(self, tmp_path):
        write(tmp_path / "small.gguf", network(), architecture="hyena")
        with pytest.raises(UnsupportedError, match="hyena"):
            load_model(str(tmp_path / "small.gguf"))

    def test_options_of_other_sources(self, tmp_path):
        write(tmp_path / "small.gguf", network())
        for options in (
            SourceOptions(weights="random"),
            SourceOptions(resolution=(32, 32)),
            SourceOptions(classes=3),
        ):
            with pytest.raises(UsageError):
                load_model(str(tmp_path / "small.gguf"), options)

    def test_the_reader_is_not_installed(self, tmp_path, monkeypatch):
        import sys

        write(tmp_path / "small.gguf", network())
        monkeypatch.setitem(sys.modules, "gguf", None)
        with pytest.raises(MissingBackendError, match="gguf"):
            load_model(str(tmp_path / "small.gguf"))
