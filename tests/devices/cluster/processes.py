"""A cluster on this machine: the hub in this process, each worker in one of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from edgekit.devices.cluster.formation import FormSettings
from edgekit.devices.cluster.hub import Hub, HubSettings
from edgekit.devices.cluster.split import split
from edgekit.devices.cluster.transfer import open_split

WORKER = """
import sys
from pathlib import Path
from edgekit.devices.cluster.join_code import JoinCode
from edgekit.devices.cluster.worker import Worker, WorkerSettings
from edgekit.errors import EdgekitError

host, port, state, name, code, patience, engine = sys.argv[1:]
settings = WorkerSettings(
    (host, int(port)), Path(state), name, threads=1, patience=float(patience),
    mesh_host=host, engine={"kernel": engine or None},
)
try:
    say = lambda line: print(line, flush=True)
    Worker(settings, JoinCode.parse(code) if code else None, say).run()
except EdgekitError as error:
    print(f"error: {error}", flush=True)
    raise SystemExit(error.exit_code)
"""


class Cluster:
    """Starts workers and ends them, in all the ways that happen.

    Args:
        model: a folder. nodes: sizes of the splits that the hub has.
    """

    def __init__(self, folder: Path, model: Path, nodes=(3,), kernel="numpy", **form):
        self.folder, self.kernel = folder, kernel
        for count in nodes:
            if not (folder / f"split-{count}").exists():
                split(model, folder / f"split-{count}", [1] * count)
        splits = [open_split(folder / f"split-{count}") for count in nodes]
        form = {"seconds": 3.0, "context": 128, "patience": 60.0, "collective": "star"} | form
        settings = HubSettings(
            folder / "hub",
            address=("127.0.0.1", 0),
            threads=1,
            form=FormSettings(**form),
            engine={"kernel": kernel},
        )
        self.hub = Hub(settings, splits)
        self.workers: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.hub.close()
        for worker in self.workers.values():
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()

    def start(self, name: str, patience: float = 30.0, address=None) -> None:
        """Start a worker, again or for the first time."""
        state = self.folder / name
        known = (state / "hubs.json").exists()
        code = "" if known else str(self.hub.codes.issue())
        host, port = address or self.hub.door.address
        arguments = [host, port, state, name, code, patience, self.kernel or ""]
        log = open(self.folder / f"{name}.log", "a")  # noqa: SIM115 - the process has it
        self.workers[name] = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, arguments)],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        log.close()

    def log(self, name: str) -> str:
        """What a worker said."""
        return (self.folder / f"{name}.log").read_text()

    def signal(self, name: str, number: int) -> None:
        """Send a worker a signal."""
        self.workers[name].send_signal(number)

    def generate(self, prompt, count, at=None) -> list[int]:
        """Greedy tokens; ``at[i]`` is called before the i-th is decided."""
        hub = self.hub
        hub.truncate(0)
        logits, made = hub.prefill(prompt), []
        for place in range(count):
            if at and place in at:
                at[place]()
            made.append(int(logits.argmax()))
            if place + 1 < count:
                logits = hub.decode(made[-1])
        hub.rest()
        return made


class Relay:
    """A link that can be cut: bytes go on, or are held back without a word."""

    def __init__(self, to):
        self._to, self.open = to, threading.Event()
        self.open.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            ours, _ = self._server.accept()
            theirs = socket.create_connection(self._to)
            for a, b in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.open.wait()
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def wait(true, seconds: float = 20.0) -> None:
    """Until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def tiny_model(folder: Path, heads: int = 6, kv_heads: int = 3, layers: int = 3) -> Path:
    """A seeded Llama with a tokenizer of bytes, written without PyTorch."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(11)
    hidden, size, inner, vocabulary = 96, 16, 160, 260
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}{name}.weight"] = (hidden,)
        shapes[f"{at}self_attn.q_proj.weight"] = (heads * size, hidden)
        for name in "kv":
            shapes[f"{at}self_attn.{name}_proj.weight"] = (kv_heads * size, hidden)
        shapes[f"{at}self_attn.o_proj.weight"] = (hidden, heads * size)
        for name in ("gate", "up"):
            shapes[f"{at}mlp.{name}_proj.weight"] = (inner, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, inner)
    scale = 0.15
    weights = {
        name: (random.standard_normal(shape) * scale + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "eos_token_id": 257,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = ("<s>", "</s>", "<user>", "<assistant>")
    made.add_special_tokens([AddedToken(name, special=True) for name in names])
    made.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}<user>{{ m['role'] }}: {{ m['content'] }}{% endfor %}<assistant>"
    )
    about = {"chat_template": template, "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
