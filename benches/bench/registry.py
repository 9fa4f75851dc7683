"""A docker-registry on loopback, with the benchmark's own storage."""
import os, subprocess, urllib.request

from . import machine, processes


class Registry:
    """Serves a storage directory; with a log, writes a line for each request into it."""

    def __init__(self, work, storage, log=None):
        self.port = machine.free_port()
        self.log = log
        config = os.path.join(work, f"registry-{self.port}.yml")
        with open(config, "w") as f:
            f.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: {'false' if log else 'true'}}}}}\n"
                    f"storage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: 127.0.0.1:{self.port}}}\n")
        output = open(log, "w") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=subprocess.STDOUT)
        processes.others.add(self.process.pid)
        machine.wait_for(self.up)

    def up(self):
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{self.port}/v2/", timeout=1)
            return True
        except OSError:
            return False

    def requests(self):
        """How many requests the log has so far."""
        with open(self.log) as f:
            return sum(1 for line in f if " HTTP/1." in line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
