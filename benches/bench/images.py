"""The benchmark's own registry storage: the real images of the tests, and shapes that it makes itself."""
import json, os, shutil, subprocess

REAL = ["redis:7", "python-sci:1", "node-app:1"]
# Room that a pull needs, by every tool, in MiB.
DISK = {"big:1": 10240, "fat:1": 4096}
ROOM = 3072
LAYERS = {"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"}


class Images:
    def __init__(self, cache, tests):
        self.cache, self.tests = cache, tests
        self.storage = os.path.join(cache, "registry")

    def copy_real(self):
        """Takes over the tests' storage: blobs as hard links, for nothing writes into a blob, and names as copies."""
        with open(os.path.join(self.tests, "done")) as f:
            recipe = f.read()
        done = os.path.join(self.cache, "real")
        if os.path.exists(done) and open(done).read() == recipe:
            return
        shutil.rmtree(self.storage, ignore_errors=True)
        os.makedirs(self.cache, exist_ok=True)

        def link(source, target):
            if os.path.basename(source) == "data":
                try:
                    return os.link(source, target)
                except OSError:
                    pass
            return shutil.copy2(source, target)
        shutil.copytree(os.path.join(self.tests, "registry"), self.storage, copy_function=link)
        with open(done, "w") as f:
            f.write(recipe)

    def blob(self, digest):
        return os.path.join(self.storage, "docker/registry/v2/blobs/sha256", digest[7:9], digest[7:], "data")

    def manifest(self, image):
        name, tag = image.split(":")
        link = os.path.join(self.storage, "docker/registry/v2/repositories/library", name, "_manifests/tags", tag, "current/link")
        with open(link) as f:
            digest = f.read()
        with open(self.blob(digest)) as f:
            return json.load(f)

    def layers(self, image):
        """Paths of the layers' blobs."""
        return [self.blob(layer["digest"]) for layer in self.manifest(image)["layers"]]

    def bytes_of(self, image):
        manifest = self.manifest(image)
        return sum(blob["size"] for blob in [manifest["config"], *manifest["layers"]])

    def warm(self, image):
        """Puts every blob into the page cache."""
        subprocess.run(["cat", *self.layers(image)], stdout=subprocess.DEVNULL, check=True)


def disk_mib(image):
    return DISK.get(image, ROOM)
