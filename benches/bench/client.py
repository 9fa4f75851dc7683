"""The Go client (`benches/client`): built once for a benchmark."""
import os

from .machine import sh

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "client")


def build(work):
    client = os.path.join(work, "client")
    environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPATH": f"{work}/gopath:/usr/share/gocode", "GOCACHE": f"{work}/gocache"}
    sh("go", "build", "-o", client, ".", cwd=SOURCE, env=environment)
    return client
