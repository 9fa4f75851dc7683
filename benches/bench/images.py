"""The benchmark's own registry storage: the real images of the tests, shapes that it makes itself, and of each a
second tag `changed`, of which the last layer differs."""
import hashlib, json, os, shutil, subprocess, tarfile

from . import push, shapes
from .registry import Registry

REAL = ["redis:7", "python-sci:1", "node-app:1"]
# Room that a pull needs, by every tool, in MiB.
DISK = {"big:1": 10240, "fat:1": 5120}
ROOM = 3072


def disk_mib(image):
    return DISK.get(image, ROOM)


def changed(image):
    return image.split(":")[0] + ":changed"


class Images:
    """`ensure` makes what is missing; all else reads."""

    def __init__(self, cache, tests):
        self.cache, self.tests = cache, tests
        self.storage = os.path.join(cache, "registry")

    def ensure(self, scenes, work):
        """Makes what these scenes need and isn't there."""
        self.copy_real()
        wanted = dict.fromkeys(scene.image for scene in scenes)
        made = [image for image in wanted if image in shapes.SHAPES and not self.is_there(image)]
        altered = [image for image in wanted if any(s.image == image and s.state == "changed" for s in scenes) and not self.is_there(changed(image))]
        if not made and not altered:
            return
        with Registry(work, self.storage) as registry:
            pusher = push.Pusher(registry.port)
            for image in made:
                print(f"making {image}", flush=True)
                name, tag = image.split(":")
                pusher.image(name, tag, list(shapes.SHAPES[image](work)))
                self.mark(image)
            for image in altered:
                print(f"making {changed(image)}", flush=True)
                self.alter(image, pusher, work)
                self.mark(changed(image))

    def recipe(self):
        """What the images are made from: the storage is made anew where it is another."""
        with open(os.path.join(self.tests, "done")) as f:
            recipe = f.read()
        for module in (shapes, push):
            with open(module.__file__) as f:
                recipe += f.read()
        return hashlib.sha256(recipe.encode()).hexdigest()

    def is_there(self, image):
        return os.path.exists(os.path.join(self.cache, "done", image))

    def mark(self, image):
        open(os.path.join(self.cache, "done", image), "w").close()

    def copy_real(self):
        """Takes over the tests' storage: blobs as hard links, for nothing writes into a blob, and names as copies."""
        stamp, recipe = os.path.join(self.cache, "recipe"), self.recipe()
        if os.path.exists(stamp) and open(stamp).read() == recipe:
            return
        for old in ("registry", "done"):
            shutil.rmtree(os.path.join(self.cache, old), ignore_errors=True)
        os.makedirs(os.path.join(self.cache, "done"))

        def link(source, target):
            if os.path.basename(source) == "data":
                try:
                    return os.link(source, target)
                except OSError:
                    pass
            return shutil.copy2(source, target)
        shutil.copytree(os.path.join(self.tests, "registry"), self.storage, copy_function=link)
        with open(stamp, "w") as f:
            f.write(recipe)

    def alter(self, image, pusher, work):
        """Pushes the image with one more file in its last layer."""
        name, manifest = image.split(":")[0], self.manifest(image)
        with open(self.blob(manifest["config"]["digest"])) as f:
            config = json.load(f)
        layer = push.Tar(work)
        pigz = subprocess.Popen(["pigz", "-dc", self.layers(image)[-1]], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=pigz.stdout, mode="r|") as old:
            for entry in old:
                layer.tar.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
        pigz.stdout.close()
        pigz.wait()
        layer.add("changed", b"this file is new\n")
        file = layer.close()
        config["rootfs"]["diff_ids"][-1] = file.diff_id
        with open(file.path, "rb") as f:
            descriptor = pusher.blob(name, file.digest, file.size, f)
        os.unlink(file.path)
        manifest["layers"][-1] |= descriptor
        manifest["config"] |= pusher.document(name, config, manifest["config"]["mediaType"])
        pusher.manifest(name, "changed", manifest)

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

    def size(self, image):
        """Compressed bytes with the config, and layers."""
        manifest = self.manifest(image)
        return [sum(blob["size"] for blob in [manifest["config"], *manifest["layers"]]), len(manifest["layers"])]

    def warm(self, image):
        """Puts every blob into the page cache."""
        subprocess.run(["cat", *self.layers(image)], stdout=subprocess.DEVNULL, check=True)
