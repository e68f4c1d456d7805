"""A cluster of two processes with a tiny model, a chat served in front of it, and its endpoint."""

from edgekit.apps import chat, chat_hub
from edgekit.devices.cluster.local import LocalCluster, LocalSettings
from edgekit.devices.cluster.serving import Client
from edgekit.devices.cluster.split import split

from ..devices.cluster.processes import tiny_model
from .browser import Serving

BUDGET = 256 << 20
SYSTEM, HELLO = "You rhyme.", "Hello"


def cut(folder):
    """A model, cut into two parts."""
    split(tiny_model(folder / "model", layers=4), folder / "parts", [1, 1])
    return folder / "parts"


def started(parts, folder):
    """A cluster that is not complete yet; a context manager."""
    # Half of the weights are read anew for each token, so that there is something to wait for.
    engine = {"kernel": "numpy", "weights_budget": 500_000}
    settings = LocalSettings("tiny", BUDGET, 1, 400, 3.0, "doubling", engine)
    return LocalCluster(parts, folder, settings)


def served(cluster):
    """A chat in front of it; a context manager."""
    return Serving(chat.ChatDemo(chat_hub.HubClient(cluster.url, cluster.key)))


def due(cluster, count, *messages):
    """What the hub's own endpoint says, greedily."""
    roles = [{"role": role, "content": content} for role, content in messages]
    hub = Client(cluster.url, cluster.key)
    return "".join(hub.chat(roles, temperature=0, max_tokens=count))


def requests(cluster):
    """The hub's counts of requests."""
    return Client(cluster.url, cluster.key).get("/cluster")["requests"]
