//! Small images with everything a layer can carry, pushed to a real registry
//! over HTTP or written as an OCI layout.

use std::io::Write;
use std::path::{Path, PathBuf};

use dist_core::{ChainId, DiffId, Digest, chain_ids};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::http::request;
use crate::registry::Registry;

/// How a layer's tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// One entry of a layer, with values that tests like to look at.
#[derive(Debug, Clone)]
pub struct Entry {
    path: String,
    kind: EntryType,
    mode: u32,
    owner: (u64, u64),
    mtime: (u64, u32),
    contents: Vec<u8>,
    target: String,
    device: (u32, u32),
    attributes: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(path: &str, kind: EntryType, mode: u32) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            mode,
            owner: (0, 0),
            mtime: (1_600_000_000, 0),
            contents: Vec::new(),
            target: String::new(),
            device: (0, 0),
            attributes: Vec::new(),
        }
    }

    /// A directory.
    pub fn dir(path: &str) -> Self {
        Self::new(path, EntryType::Directory, 0o755)
    }

    /// A file.
    pub fn file(path: &str, contents: impl Into<Vec<u8>>) -> Self {
        Self { contents: contents.into(), ..Self::new(path, EntryType::Regular, 0o644) }
    }

    /// A symbolic link.
    pub fn symlink(path: &str, target: &str) -> Self {
        Self { target: target.to_owned(), ..Self::new(path, EntryType::Symlink, 0o777) }
    }

    /// A hard link to an earlier path.
    pub fn link(path: &str, target: &str) -> Self {
        Self { target: target.to_owned(), ..Self::new(path, EntryType::Link, 0o644) }
    }

    /// A named pipe.
    pub fn fifo(path: &str) -> Self {
        Self::new(path, EntryType::Fifo, 0o600)
    }

    /// A character device.
    pub fn device(path: &str, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(path, EntryType::Char, 0o666) }
    }

    /// The whiteout of `path`.
    pub fn whiteout(path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        Self::file(&format!("{dir}.wh.{name}"), "")
    }

    /// The mark that hides everything below `dir`.
    pub fn opaque(dir: &str) -> Self {
        Self::file(&format!("{dir}/.wh..wh..opq"), "")
    }

    /// Sets permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets user and group.
    #[must_use]
    pub fn owner(mut self, user: u64, group: u64) -> Self {
        self.owner = (user, group);
        self
    }

    /// Sets the time of modification, in seconds and nanoseconds.
    #[must_use]
    pub fn mtime(mut self, seconds: u64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        self.attributes.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    fn write(&self, tar: &mut tar::Builder<Vec<u8>>) {
        let mut extensions: Vec<(&str, &[u8])> = Vec::new();
        let precise = format!("{}.{:09}", self.mtime.0, self.mtime.1);
        if self.mtime.1 != 0 {
            extensions.push(("mtime", precise.as_bytes()));
        }
        extensions.extend(self.attributes.iter().map(|(k, v)| (k.as_str(), v.as_slice())));
        if !extensions.is_empty() {
            tar.append_pax_extensions(extensions).expect("write the extensions");
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.mtime.0);
        header.set_size(self.contents.len() as u64);
        if self.kind == EntryType::Char {
            header.set_device_major(self.device.0).expect("a GNU header");
            header.set_device_minor(self.device.1).expect("a GNU header");
        }
        let result = if self.target.is_empty() {
            tar.append_data(&mut header, &self.path, self.contents.as_slice())
        } else {
            tar.append_link(&mut header, &self.path, &self.target)
        };
        result.expect("write the entry");
    }
}

/// Bytes under their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// The media type in the descriptor.
    pub media_type: String,
    /// The digest.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Names `bytes`.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.to_owned(), digest: Digest::sha256(&bytes), bytes }
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type,
            "digest": self.digest.to_string(),
            "size": self.bytes.len(),
        })
    }
}

/// A layer: what is stored and what it unpacks to.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The stored form.
    pub blob: Blob,
    /// The digest of the plain tar.
    pub diff_id: DiffId,
}

impl Layer {
    /// Packs `entries`.
    ///
    /// # Panics
    /// When an entry cannot be written.
    pub fn new(entries: &[Entry], form: Form) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in entries {
            entry.write(&mut tar);
        }
        Self::of_tar(&tar.into_inner().expect("finish the tar"), form)
    }

    /// Packs a tar as it is.
    ///
    /// # Panics
    /// Never, as writing to memory does not fail.
    pub fn of_tar(tar: &[u8], form: Form) -> Self {
        let diff_id = DiffId(Digest::sha256(tar));
        let (kind, bytes) = match form {
            Form::Plain => ("tar", tar.to_vec()),
            Form::Gzip => {
                let level = flate2::Compression::new(1);
                let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
                out.write_all(tar).expect("deflate");
                ("tar+gzip", out.finish().expect("deflate"))
            }
            Form::Zstd => ("tar+zstd", zstd::encode_all(tar, 1).expect("compress")),
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.{kind}");
        Self { blob: Blob::new(&media_type, bytes), diff_id }
    }

    /// One file of `size` bytes that do not compress, different for each seed.
    pub fn random(seed: u64, size: usize) -> Self {
        let name = format!("random-{seed}");
        Self::new(&[Entry::file(&name, noise(seed, size)).mtime(1_500_000_000, 0)], Form::Gzip)
    }
}

/// Bytes that look random and are the same every time (xorshift64*).
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// What may be told otherwise than it is; the default is an honest amd64 image.
#[derive(Debug, Clone, Default)]
pub struct ImageOptions {
    /// Architecture and variant, `amd64` when not given.
    pub platform: Option<(&'static str, Option<&'static str>)>,
    /// Written into the config instead of the layers' own.
    pub diff_ids: Option<Vec<DiffId>>,
    /// The config's `config`, a shell when not given.
    pub settings: Option<Value>,
}

/// An image, whole, in memory.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its manifest or index.
    pub manifest: Blob,
    /// Config and layers, in the manifest's order; what an index names as well.
    pub blobs: Vec<Blob>,
    /// The manifests that an index names.
    pub children: Vec<Blob>,
    /// The layers' diff IDs.
    pub diff_ids: Vec<DiffId>,
}

/// The three files of an OCI layout, found again by tag.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// `oci:path:tag`.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path.display())
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl Image {
    /// Puts layers together.
    pub fn new(layers: &[Layer], options: &ImageOptions) -> Self {
        let own: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        let told = options.diff_ids.clone().unwrap_or_else(|| own.clone());
        let told: Vec<String> = told.iter().map(|id| id.0.to_string()).collect();
        let (architecture, variant) = options.platform.unwrap_or(("amd64", None));
        let mut config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": options.settings.clone().unwrap_or_else(|| json!({ "Cmd": ["/bin/sh"] })),
            "rootfs": { "type": "layers", "diff_ids": told },
        });
        if let Some(variant) = variant {
            config["variant"] = variant.into();
        }
        let config = Blob::new(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": layers.iter().map(|layer| layer.blob.descriptor()).collect::<Vec<_>>(),
        });
        let mut blobs = vec![config];
        blobs.extend(layers.iter().map(|layer| layer.blob.clone()));
        Self {
            manifest: Blob::new(MANIFEST, manifest.to_string().into_bytes()),
            blobs,
            children: Vec::new(),
            diff_ids: own,
        }
    }

    /// Three small layers in three forms, with every kind of entry, whiteouts
    /// and an opaque directory.
    pub fn varied() -> Self {
        Self::varied_in(Form::Zstd)
    }

    /// The same with its middle layer in `form`, for tools that know no zstd.
    pub fn varied_in(form: Form) -> Self {
        let base = [
            Entry::dir("bin").mtime(1_500_000_001, 123_456_789),
            Entry::file("bin/su", "#!/bin/sh\n").mode(0o4755).mtime(1_500_000_000, 999_999_999),
            Entry::file("bin/tool", noise(7, 70_000)).mode(0o755).owner(1000, 100),
            Entry::link("bin/tool-too", "bin/tool").mode(0o755).owner(1000, 100),
            Entry::symlink("sbin", "bin"),
            Entry::dir("etc").mode(0o750),
            Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            Entry::file("etc/gone", "deleted by the next layer\n"),
            Entry::dir("tmp").mode(0o1777),
            Entry::dir("hidden"),
            Entry::file("hidden/below", "hidden by the next layer\n"),
            Entry::dir("dev"),
            Entry::device("dev/null", 1, 3),
            Entry::fifo("run-pipe").owner(4_000_000, 4_000_001),
            Entry::file("attributes", "x")
                .attribute("user.note", b"some\0bytes")
                .attribute("security.capability", &CAPABILITY),
        ];
        let deep: Vec<String> =
            (1..9).map(|depth| ["directory-with-a-long-name"].repeat(depth).join("/")).collect();
        let mut second: Vec<Entry> = deep.iter().map(|path| Entry::dir(path)).collect();
        second.extend([
            Entry::dir("etc").mode(0o750),
            Entry::whiteout("etc/gone"),
            Entry::dir("hidden"),
            Entry::opaque("hidden"),
            Entry::file("hidden/new", "seen\n"),
            Entry::file("etc/passwd", "root:x:0:0::/root:/bin/sh\n").mode(0o600),
            Entry::file(&format!("{}/file", deep[7]), "deep\n"),
        ]);
        let third = [Entry::dir("etc").mode(0o755), Entry::file("etc/new", noise(9, 30_000))];
        let layers = [
            Layer::new(&base, Form::Gzip),
            Layer::new(&second, form),
            Layer::new(&third, Form::Plain),
        ];
        Self::new(&layers, &ImageOptions::default())
    }

    /// One layer of incompressible bytes for each size; the same seed and size
    /// make the same layer.
    pub fn random(seed: u64, sizes: &[usize]) -> Self {
        let layers: Vec<Layer> =
            (seed..).zip(sizes).map(|(seed, size)| Layer::random(seed, *size)).collect();
        Self::new(&layers, &ImageOptions::default())
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> String {
        self.manifest.digest.to_string()
    }

    /// The digest of the layer at `at`.
    pub fn layer(&self, at: usize) -> String {
        self.blobs[at + 1].digest.to_string()
    }

    /// The chain ID of the whole stack.
    ///
    /// # Panics
    /// When there is no layer.
    pub fn chain_id(&self) -> ChainId {
        *chain_ids(&self.diff_ids).last().expect("at least one layer")
    }

    /// How many blobs a store has that holds nothing but this image.
    pub fn blob_count(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> Vec<&Blob> {
        let mut all: Vec<&Blob> =
            self.blobs.iter().chain(&self.children).chain([&self.manifest]).collect();
        all.sort_unstable_by_key(|blob| blob.digest);
        all.dedup_by_key(|blob| blob.digest);
        all
    }

    /// Pushes it as `name:tag`.
    ///
    /// # Panics
    /// When the registry refuses it.
    pub fn push(&self, registry: &Registry, name: &str, tag: &str) {
        let address = registry.address();
        for blob in &self.blobs {
            let start = request(address, "POST", &format!("/v2/{name}/blobs/uploads/"), &[], b"");
            let place = start.header("location").expect("an upload location").to_owned();
            let path = place.split_once(address).map_or(place.as_str(), |(_, path)| path);
            let sign = if path.contains('?') { '&' } else { '?' };
            let done = request(
                address,
                "PUT",
                &format!("{path}{sign}digest={}", blob.digest),
                &[("Content-Type", "application/octet-stream")],
                &blob.bytes,
            );
            assert_eq!(done.status, 201, "push a blob: {}", String::from_utf8_lossy(&done.body));
        }
        let manifests = self.children.iter().map(|child| (child, child.digest.to_string()));
        for (manifest, at) in manifests.chain([(&self.manifest, tag.to_owned())]) {
            let done = request(
                address,
                "PUT",
                &format!("/v2/{name}/manifests/{at}"),
                &[("Content-Type", &manifest.media_type)],
                &manifest.bytes,
            );
            assert_eq!(done.status, 201, "push {at}: {}", String::from_utf8_lossy(&done.body));
        }
    }

    /// Writes it as an OCI layout with one tag.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_layout(&self, path: &Path, tag: &str) -> Layout {
        let blobs = path.join("blobs/sha256");
        fs_err::create_dir_all(&blobs).expect("make the layout");
        for blob in self.all() {
            fs_err::write(blobs.join(blob.digest.hex()), &blob.bytes).expect("write a blob");
        }
        let mut target = self.manifest.descriptor();
        target["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [target] });
        fs_err::write(path.join("index.json"), index.to_string()).expect("write the index");
        fs_err::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("write the marker");
        Layout { path: path.to_owned() }
    }
}

/// A version 2 capability set with `cap_net_raw` in it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One index over images of several platforms, given as architecture and variant.
pub fn index_of(images: &[(&'static str, Option<&'static str>, Image)]) -> Image {
    let mut manifests = Vec::new();
    let mut whole = Image {
        manifest: Blob::new(INDEX, Vec::new()),
        blobs: Vec::new(),
        children: Vec::new(),
        diff_ids: Vec::new(),
    };
    for (architecture, variant, image) in images {
        let mut target = image.manifest.descriptor();
        target["platform"] = json!({ "os": "linux", "architecture": architecture });
        if let Some(variant) = variant {
            target["platform"]["variant"] = (*variant).into();
        }
        manifests.push(target);
        whole.blobs.extend(image.blobs.iter().cloned());
        whole.children.push(image.manifest.clone());
        if whole.diff_ids.is_empty() {
            whole.diff_ids.clone_from(&image.diff_ids);
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    whole.manifest = Blob::new(INDEX, index.to_string().into_bytes());
    whole
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::process::{run, scratch};
    use crate::tree::Tree;

    #[test]
    fn other_tools_read_the_images() {
        let dir = scratch();
        let image = Image::varied_in(Form::Gzip);
        let layout = image.write_layout(&dir.path().join("layout"), "t");
        let bundle = dir.path().join("bundle");
        let from = format!("{}:t", layout.path().display());
        run(
            "umoci",
            &["unpack", "--image", &from]
                .map(OsStr::new)
                .iter()
                .copied()
                .chain([bundle.as_os_str()])
                .collect::<Vec<_>>(),
        );
        let tree = Tree::read(&bundle.join("rootfs"));
        assert!(tree.0.contains_key(Path::new("etc/new")));
        assert!(!tree.0.contains_key(Path::new("etc/gone")));
        assert_eq!(tree.0[Path::new("bin/su")].mode, 0o4755);
        assert_eq!(tree.0[Path::new("bin/su")].mtime, 1_500_000_000_999_999_999);
        assert_eq!(tree.differences(&tree), Vec::<String>::new());

        let registry = Registry::start();
        let both = index_of(&[
            ("amd64", None, image.clone()),
            ("arm64", Some("v8"), Image::random(1, &[10])),
        ]);
        both.push(&registry, "test/both", "1");
        let name = format!("docker://{}", registry.reference("test/both:1"));
        let said =
            run("skopeo", &["inspect", "--raw", "--tls-verify=false", &name].map(OsStr::new));
        assert_eq!(said.as_bytes(), both.manifest.bytes);
    }
}
