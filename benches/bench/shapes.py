"""The synthetic images: shapes that real ones have in part, each from a seed, so that every machine has the same."""
import random, tarfile

from .push import Tar

MIB = 1 << 20


class Content:
    """Bytes that compress as those of real images do, to two fifths or so: text, tables of numbers and noise, in
    pieces that come again only beyond the reach of a match."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        words = ["".join(self.random.choices("etaoinshrdlucmfwyp_", k=self.random.randint(2, 9))) for _ in range(6000)]
        weights = [1 / (rank + 4) for rank in range(len(words))]
        phrases = [" ".join(self.random.choices(words, weights, k=self.random.randint(1, 8))) for _ in range(4000)]
        text = "\n".join(self.random.choices(phrases, weights[:4000], k=300_000)).encode()[:6 * MIB]
        table = b"".join(self.random.randint(0, 60_000).to_bytes(2, "little") + b"\0\0" + self.random.choice((b"\x48\x8b", b"\x0f\x1f", b"\xe8\0"))
                         for _ in range(6 * MIB // 8))
        noise = self.random.randbytes(2 * MIB)
        self.pools = [text, table, noise]

    def take(self, size):
        parts = []
        while size > 0:
            pool = self.random.choices(self.pools, (55, 35, 10))[0]
            length = min(size, self.random.randint(8 << 10, 64 << 10))
            at = self.random.randrange(len(pool) - length)
            parts.append(pool[at:at + length])
            size -= length
        return b"".join(parts)


def fat(directory):
    """Four layers of 160 MiB, few files."""
    content = Content("fat")
    for number in range(4):
        tar = Tar(directory)
        tar.dir(f"fat{number}")
        for file in range(10):
            tar.add(f"fat{number}/file{file}", content.take(16 * MIB))
        yield tar.close()


def thin(directory):
    """A hundred layers of some files each."""
    content = Content("thin")
    for number in range(100):
        tar = Tar(directory)
        tar.dir("srv")
        tar.dir(f"srv/step{number}")
        for file in range(10):
            tar.add(f"srv/step{number}/file{file}", content.take(content.random.randint(500, 40_000)))
        tar.add("srv/log", content.take(3000))
        yield tar.close()


def small(directory):
    """One layer, 50,000 files, most of them under 4 KiB."""
    content = Content("small")
    tar = Tar(directory)
    for number in range(1000):
        tar.dir(f"d{number % 40}") if number < 40 else None
        tar.dir(f"d{number % 40}/p{number}")
        for file in range(50):
            tar.add(f"d{number % 40}/p{number}/f{file}.js", content.take(min(60_000, int(content.random.lognormvariate(7, 1.2)))))
    yield tar.close()


def links(directory):
    """A layer with 5,000 files that have two more names each, and one that takes half of the names away again,
    some one by one and some by opaque directories."""
    content = Content("links")
    tar = Tar(directory)
    for number in range(100):
        for kind in ("file", "link", "name"):
            tar.dir(f"{kind}{number}")
        for file in range(50):
            path = f"file{number}/{file}"
            tar.add(path, content.take(content.random.randint(200, 12_000)))
            tar.add(f"link{number}/{file}", kind=tarfile.LNKTYPE, link=path)
            tar.add(f"name{number}/{file}", kind=tarfile.LNKTYPE, link=path)
    yield tar.close()
    tar = Tar(directory)
    for number in range(100):
        tar.dir(f"link{number}")
        for file in range(0, 50, 2):
            tar.add(f"link{number}/.wh.{file}")
        if number % 2:
            tar.dir(f"name{number}")
            tar.add(f"name{number}/.wh..wh..opq")
            tar.add(f"name{number}/new", content.take(2000))
    yield tar.close()


def big(directory):
    """One layer of 2 GiB."""
    content = Content("big")
    tar = Tar(directory)
    tar.dir("data")
    for file in range(64):
        tar.add(f"data/part{file}", content.take(32 * MIB))
    yield tar.close()


SHAPES = {"fat:1": fat, "thin:1": thin, "small:1": small, "links:1": links, "big:1": big}
