//! Layers of one image, unpacked from streams at the same time, give the trees that they give one
//! after another.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/tree.rs"]
mod tree;

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use archive::{archive, device, dir, file, hard_link, item, symlink};
use dist_core::{Applied, Applier, Cancel, Compression, Digest};
use dist_layer::{ApplyOptions, Cores, LayerApplier};
use tree::{STACKED, assert_same, bind, descriptor, require_root};

/// A body as it arrives from a connection: in chunks, when they come.
struct Arriving {
    chunks: Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Arriving {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.current.read(out)?;
            if count > 0 {
                return Ok(count);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.current = io::Cursor::new(chunk),
                Err(_) => return Ok(0),
            }
        }
    }
}

fn channel() -> (SyncSender<Vec<u8>>, Arriving) {
    let (sender, chunks) = sync_channel(1);
    (sender, Arriving { chunks, current: io::Cursor::default() })
}

fn lower() -> Vec<u8> {
    let mut items = vec![
        dir("./").mode(0o755).mtime(11),
        dir("etc").mtime(12),
        file("etc/passwd", "root").mode(0o600).owner(0, 42),
        dir("usr"),
        dir("usr/bin").mode(0o2755).owner(0, 50).mtime(13),
        file("usr/bin/su", "suid").mode(0o4755).pax("mtime", "1700000000.5"),
        hard_link("usr/bin/su2", "usr/bin/su"),
        symlink("bin", "usr/bin"),
        device("null", b'3', (1, 3)).mode(0o666),
        item("fifo", b'6'),
        dir("opt/q").mode(0o700),
    ];
    for number in 0..300u32 {
        let body: Vec<u8> = (0..number * 37).map(|at| (at * number % 251) as u8).collect();
        items.push(file(format!("opt/q/{number}"), body).mtime(number.into()));
    }
    archive(&items)
}

fn upper() -> Vec<u8> {
    let mut items = vec![
        file("etc/.wh.passwd", ""),
        file("opt/q/.wh..wh..opq", ""),
        file("usr/bin/new", "x").owner(1000, 1000),
        file("etc/deep/er/implicit", "1"),
        file(".wh.bin", ""),
        dir("bin").mode(0o711),
    ];
    items.extend((0..300u32).map(|number| file(format!("srv/{number}"), vec![7; 9000])));
    archive(&items)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Two members, as a parallel compressor makes them.
    let (a, b) = bytes.split_at(bytes.len() / 3);
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    [member(a), member(b)].concat()
}

fn unpack(
    applier: &dyn Applier,
    compression: Compression,
    mut input: impl Read + Send,
    dir: &Path,
) -> Applied {
    std::fs::create_dir_all(dir).unwrap();
    applier.apply(&descriptor(compression), &mut input, &[bind(dir)], &Cancel::default()).unwrap()
}

#[test]
fn parallel_equals_serial() {
    parallel_as_serial(Cores::default());
}

#[test]
fn parallel_equals_serial_with_threads_that_inflate() {
    parallel_as_serial(Cores::new(4));
}

fn parallel_as_serial(cores: Cores) {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let applier = LayerApplier::new(ApplyOptions::new(STACKED));
    let tars = [lower(), upper()];
    let blobs = [
        (Compression::Gzip, gzip(&tars[0])),
        (Compression::Zstd, zstd::encode_all(&*tars[1], 3).unwrap()),
    ];

    let serial = blobs.each_ref().map(|(compression, blob)| {
        unpack(&applier, *compression, &**blob, &temp.path().join(format!("serial-{compression}")))
    });

    let applier = LayerApplier::new(ApplyOptions { cores, ..ApplyOptions::new(STACKED) });
    // Each layer gets its next chunk only when the other has got one too, so that neither can be
    // done before the other has begun.
    let parallel = std::thread::scope(|scope| {
        let mut senders = Vec::new();
        let workers = blobs.each_ref().map(|(compression, _)| {
            let (sender, input) = channel();
            senders.push(Some(sender));
            let dir = temp.path().join(format!("parallel-{compression}"));
            let applier = &applier;
            scope.spawn(move || unpack(applier, *compression, input, &dir))
        });
        let mut chunks = blobs.each_ref().map(|(_, blob)| blob.chunks(777));
        while senders.iter().any(Option::is_some) {
            for (sender, chunks) in senders.iter_mut().zip(&mut chunks) {
                match (chunks.next(), sender.as_ref()) {
                    (Some(chunk), Some(open)) => open.send(chunk.to_vec()).unwrap(),
                    _ => *sender = None,
                }
            }
        }
        workers.map(|worker| worker.join().unwrap())
    });

    assert_eq!(serial, parallel);
    for ((applied, tar), (compression, _)) in parallel.iter().zip(&tars).zip(&blobs) {
        assert_eq!(applied.diff_id.0, Digest::sha256(tar));
        assert_eq!(applied.size, tar.len() as u64);
        assert_eq!(applied.warnings, []);
        let trees = ["serial", "parallel"]
            .map(|how| tree::read(&temp.path().join(format!("{how}-{compression}"))));
        assert!(trees[0].len() > 300);
        assert_same(&trees[0], &trees[1]);
    }
    let implicit: Vec<&[u8]> = parallel[1].implicit_dirs.iter().map(Vec::as_slice).collect();
    assert_eq!(
        implicit,
        [
            &b""[..],
            b"etc",
            b"etc/deep",
            b"etc/deep/er",
            b"opt",
            b"opt/q",
            b"srv",
            b"usr",
            b"usr/bin"
        ]
    );

    // The stack of the two means what the layers say, whichever was unpacked first.
    let dirs = blobs
        .each_ref()
        .map(|(compression, _)| temp.path().join(format!("parallel-{compression}")));
    dist_layer::inherit_dirs(&dirs[1], &dirs[..1], &parallel[1].implicit_dirs).unwrap();
    let [low, up] = dirs.each_ref().map(|dir| tree::read(dir));
    for path in ["", "etc", "opt/q", "usr/bin"] {
        let (low, up) = (&low[Path::new(path)], &up[Path::new(path)]);
        assert_eq!((low.mode, low.owner, low.mtime), (up.mode, up.owner, up.mtime), "{path}");
    }
}
