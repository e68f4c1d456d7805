"""A language model in llama.cpp's file format.

Its names are other ones, its stored blocks of few bits become the numbers they stand for, and the
rows of Llama's queries and keys are in another order: llama.cpp turns neighbouring pairs of a
head, transformers the two halves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import InputError, MissingBackendError, UnsupportedError

from .checkpoint import EMBEDDING, FINAL_NORM, HEAD
from .language import FAMILIES, Language, rotary

_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
} | {
    f"self_attn.{letter}_proj.{kind}": f"attn_{letter}.{kind}"
    for letter in "qkv"
    for kind in ("weight", "bias")
}
_WHOLE = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
_TURNED = ("self_attn.q_proj", "self_attn.k_proj")


class GgufCheckpoint:
    """The tensors and the description in one ``.gguf`` file."""

    def __init__(self, path: Path) -> None:
        try:
            import gguf
        except ImportError as error:
            raise MissingBackendError(
                "what reads GGUF files is not installed",
                str(error),
                'pip install "edgekit-toolkit[cluster]"',
            ) from error
        try:
            reader = gguf.GGUFReader(str(path))
        except Exception as error:  # the package raises many kinds
            raise InputError(f"cannot read {path}", str(error)) from error
        self.path, self._gguf = path, gguf
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        try:
            self.language = self._language()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} lacks a part of its description", repr(error)) from error

    def field(self, name: str, default: Any = None) -> Any:
        """One entry of the file's description."""
        found = self._fields.get(name)
        return default if found is None else found.contents()

    def _language(self) -> Language:
        family = self.field("general.architecture")
        if family not in FAMILIES:
            raise UnsupportedError(
                f"a cluster does not run models of type {family!r}",
                f"it runs {', '.join(FAMILIES)}",
            )
        if self.field(f"{family}.expert_count"):
            raise UnsupportedError("a cluster runs no mixture of experts")

        def of(name: str, default: Any = None) -> Any:
            return self.field(f"{family}.{name}", default)

        heads, hidden = of("attention.head_count"), of("embedding_length")
        size = of("attention.key_length") or hidden // heads
        stop = [self.field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
        return Language(
            family=family,
            layers=of("block_count"),
            hidden=hidden,
            feed_forward=of("feed_forward_length"),
            heads=heads,
            kv_heads=of("attention.head_count_kv") or heads,
            head_size=size,
            vocabulary=int(self._tensors["token_embd.weight"].shape[1]),
            epsilon=float(of("attention.layer_norm_rms_epsilon")),
            positions=of("context_length", 2048),
            inverse_frequencies=self._frequencies(size, of),
            tied="output.weight" not in self._tensors,
            qkv_bias="blk.0.attn_q.bias" in self._tensors,
            qk_norm="blk.0.attn_q_norm.weight" in self._tensors,
            window=of("attention.sliding_window") or None,
            start=self.field("tokenizer.ggml.bos_token_id"),
            stop=tuple(dict.fromkeys(one for one in stop if one is not None)),
        )

    def _frequencies(self, size: int, of: Any) -> tuple[float, ...]:
        if of("rope.dimension_count", size) != size:
            raise UnsupportedError("a cluster runs no model that turns a part of its heads")
        kind = of("rope.scaling.type", "none")
        scaling = {} if kind == "none" else {"rope_type": kind, "factor": of("rope.scaling.factor")}
        inverse = rotary(size, float(of("rope.freq_base", 10000.0)), scaling)
        if "rope_freqs.weight" not in self._tensors:
            return inverse
        factors = self.read("rope_freqs.weight")  # Llama 3's scaling, worked out beforehand
        return tuple(float(one / factor) for one, factor in zip(inverse, factors, strict=True))

    def read(self, name: str, rows: Any = slice(None), columns: Any = slice(None)) -> np.ndarray:
        if name == HEAD and "output.weight" not in self._tensors:
            name = EMBEDDING
        stored = self._stored_name(name)
        if stored not in self._tensors:
            raise InputError(f"{self.path} lacks the tensor {stored}")
        tensor = self._tensors[stored]
        if self.language_turns(name):
            return self._turned(tensor, rows, columns)
        return self._part(tensor, rows, columns)

    def language_turns(self, name: str) -> bool:
        """Whether a tensor's rows are in llama.cpp's order of pairs."""
        turned = any(part in name for part in _TURNED)
        return turned and self.language.family in ("llama", "mistral")

    def _stored_name(self, name: str) -> str:
        if not name.startswith("model.layers."):
            return _WHOLE.get(name, name)
        _, _, index, rest = name.split(".", 3)
        return f"blk.{index}.{_LAYER.get(rest, rest)}"

    def _turned(self, tensor: Any, rows: slice, columns: Any) -> np.ndarray:
        """Rows in transformers' order, out of the heads they are in."""
        size, count = self.language.head_size, int(tensor.shape[-1])
        start, stop, _ = rows.indices(count)
        first, last = start // size * size, -(-stop // size) * size
        whole = self._part(tensor, slice(first, last), columns)
        wanted = np.arange(start, stop)
        place = wanted % size
        source = wanted // size * size + place % (size // 2) * 2 + place // (size // 2)
        return whole[source - first]

    def _part(self, tensor: Any, rows: Any, columns: Any) -> np.ndarray:
        data = tensor.data[rows]
        try:
            values = self._gguf.quants.dequantize(data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"cannot read {tensor.name} of {self.path}", str(error)
            ) from error
        if len(tensor.shape) > 1:
            values = values[:, columns]
        return np.ascontiguousarray(values, np.float32)

    def tokenizer(self) -> dict[str, str]:
        from .gguf_tokenizer import tokenizer_files

        return tokenizer_files(self)
