"""Puts blobs and manifests into a registry, and makes layers as files on the way there."""
import hashlib, http.client, io, json, os, subprocess, tarfile, tempfile

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Pusher:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def ask(self, method, path, body=None, **headers):
        self.connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = self.connection.getresponse()
        text = response.read()
        if response.status not in (200, 201, 202, 404):
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]}")
        return response

    def blob(self, name, digest, size, body):
        if self.ask("HEAD", f"/v2/library/{name}/blobs/{digest}").status == 404:
            upload = self.ask("POST", f"/v2/library/{name}/blobs/uploads/", Content_Length="0").headers["Location"]
            path = upload.split("/", 3)[3] if "://" in upload else upload.lstrip("/")
            self.ask("PUT", f"/{path}{'&' if '?' in path else '?'}digest={digest}", body, Content_Length=str(size), Content_Type="application/octet-stream")
        return {"digest": digest, "size": size}

    def document(self, name, document, media_type):
        body = json.dumps(document).encode()
        return self.blob(name, "sha256:" + hashlib.sha256(body).hexdigest(), len(body), body) | {"mediaType": media_type}

    def manifest(self, name, tag, manifest):
        self.ask("PUT", f"/v2/library/{name}/manifests/{tag}", json.dumps(manifest).encode(), Content_Type=manifest["mediaType"])

    def image(self, name, tag, layers):
        """Pushes layers, each a LayerFile, as an image that anybody takes."""
        descriptors = []
        for layer in layers:
            with open(layer.path, "rb") as f:
                descriptors.append(self.blob(name, layer.digest, layer.size, f) | {"mediaType": LAYER})
            os.unlink(layer.path)
        config = {"architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z",
                  "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/true"], "WorkingDir": "/"},
                  "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                  "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(layers))]}
        self.manifest(name, tag, {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.document(name, config, CONFIG), "layers": descriptors})


class LayerFile:
    """A layer on its way into a file: write a tar into it, then `close`. Compressed as by `gzip -6`, by all cores."""

    def __init__(self, directory):
        handle, self.path = tempfile.mkstemp(dir=directory)
        self.pigz = subprocess.Popen(["pigz", "-6", "-n", "-c"], stdin=subprocess.PIPE, stdout=handle)
        os.close(handle)
        self.plain = hashlib.sha256()

    def write(self, data):
        self.plain.update(data)
        return self.pigz.stdin.write(data)

    def close(self):
        self.pigz.stdin.close()
        if self.pigz.wait():
            raise RuntimeError("pigz failed")
        self.diff_id = f"sha256:{self.plain.hexdigest()}"
        self.size, digest = os.path.getsize(self.path), hashlib.sha256()
        with open(self.path, "rb") as f:
            while chunk := f.read(1 << 20):
                digest.update(chunk)
        self.digest = f"sha256:{digest.hexdigest()}"
        return self


class Tar:
    """Writes the entries of a layer, all by root and of one date."""

    def __init__(self, directory):
        self.file = LayerFile(directory)
        self.tar = tarfile.open(fileobj=self.file, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20)

    def add(self, path, data=b"", kind=tarfile.REGTYPE, link="", mode=0o644):
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.mode, entry.mtime, entry.size = kind, link, mode, 1704067200, len(data)
        self.tar.addfile(entry, io.BytesIO(data) if data else None)

    def dir(self, path):
        self.add(path, kind=tarfile.DIRTYPE, mode=0o755)

    def close(self):
        self.tar.close()
        return self.file.close()
