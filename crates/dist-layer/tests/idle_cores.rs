//! A large layer of a real image, on few cores and on many: the same bytes, and threads and memory
//! only where cores would be idle. The one test of its process, as it looks at that.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use dist_core::{Cancel, Compression, Descriptor, Digest, Hasher, MediaType};
use dist_layer::{Cores, ErofsOptions, erofs_tar, write_erofs};
use flate2::read::MultiGzDecoder;

/// A layer as it is read, and the most threads that helped meanwhile.
struct Watched<'a> {
    file: File,
    helpers: &'a mut usize,
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let tasks = std::fs::read_dir("/proc/self/task")?.flatten();
        // A thread may end before its name is read.
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        let helpers = names.filter(|name| name.trim_end() == "help").count();
        *self.helpers = helpers.max(*self.helpers);
        self.file.read(out)
    }
}

/// The smallest layer of the test images with more than 50 MB in gzip.
fn layer() -> PathBuf {
    let images = std::env::var_os("DIST_IMAGES").unwrap_or_else(|| "/var/tmp/dist-images".into());
    let blobs = Path::new(&images).join("registry/docker/registry/v2/blobs/sha256");
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).expect("images; tests/images/build-images makes them");
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let blobs = list(&blobs).into_iter().flat_map(|dir| list(&dir)).map(|dir| dir.join("data"));
    let large = blobs.filter_map(|path| {
        let size = path.metadata().ok()?.len();
        let mut start = [0; 2];
        File::open(&path).ok()?.read_exact(&mut start).ok()?;
        (size > 50_000_000 && start == [0x1f, 0x8b]).then_some((size, path))
    });
    large.min().expect("a large layer").1
}

/// The digest and length of all bytes.
fn hash(mut bytes: impl Read) -> (Digest, u64) {
    let (mut hasher, mut size, mut buffer) = (Hasher::sha256(), 0, vec![0; 1 << 18]);
    loop {
        match bytes.read(&mut buffer).unwrap() {
            0 => return (hasher.finish(), size),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// KiB of memory that this process had at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn only_idle_cores_help_with_a_large_layer() {
    let path = layer();
    let expected = hash(MultiGzDecoder::new(File::open(&path).unwrap()));
    let descriptor = Descriptor::new(
        MediaType::Layer(Compression::Gzip),
        Digest::sha256(b"unchecked"),
        path.metadata().unwrap().len(),
    );
    let before = peak();
    for (cores, most, mib) in [(1, 0, 8), (2, 0, 8), (3, 1, 20), (4, 2, 28), (8, 2, 28)] {
        let mut helpers = 0;
        let file = tempfile::tempfile().unwrap();
        let input = Watched { file: File::open(&path).unwrap(), helpers: &mut helpers };
        let options = ErofsOptions { cores: Cores::new(cores), ..ErofsOptions::default() };
        let applied = write_erofs(&descriptor, input, &file, &options, &Cancel::default()).unwrap();
        assert_eq!((applied.diff_id.0, applied.size), expected, "{cores} cores");
        assert!(hash(erofs_tar(file).unwrap()) == expected, "{cores} cores");
        assert_eq!(helpers, most, "{cores} cores");
        let held = peak() - before;
        assert!(held < mib << 10, "{cores} cores: {held} KiB");
    }
}
