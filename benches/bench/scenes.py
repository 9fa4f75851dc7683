"""What is pulled, over which network, onto what: the cases that every tool is run on."""
from dataclasses import dataclass

from .images import REAL
from .network import NAMES
from .shapes import SHAPES

IMAGES = [*REAL, *SHAPES]
NETWORKS = list(NAMES)
STATES = ["cold", "there", "changed"]


@dataclass(frozen=True)
class Scene:
    image: str
    network: str
    state: str

    def __str__(self):
        return f"{self.image}, {NAMES[self.network]}, {self.state}"


def usual():
    """What `make bench` runs: every image cold over loopback, and each other thing once."""
    scenes = [Scene(image, "loopback", "cold") for image in IMAGES if image != "big:1"]
    scenes += [Scene("redis:7", "loopback", state) for state in STATES if state != "cold"]
    scenes += [Scene("redis:7", network, "cold") for network in NETWORKS if network != "loopback"]
    return scenes


def chosen(images, networks, states, everything):
    """The scenes of a choice: what isn't chosen is what `usual` has, or all of it."""
    scenes = [Scene(i, n, s) for i in IMAGES for n in NETWORKS for s in STATES]
    asked = images or networks or states
    if not everything and not asked:
        return usual()
    if not everything:
        networks, states = networks or ["loopback"], states or ["cold"]
        images = images or IMAGES
    for name, wanted, there in (("image", images, IMAGES), ("network", networks, NETWORKS), ("state", states, STATES)):
        unknown = set(wanted or []) - set(there)
        if unknown:
            raise SystemExit(f"compare: no {name} {', '.join(sorted(unknown))}: there are {', '.join(there)}")
    keep = lambda wanted, value: not wanted or value in wanted
    return [s for s in scenes if keep(images, s.image) and keep(networks, s.network) and keep(states, s.state)]
