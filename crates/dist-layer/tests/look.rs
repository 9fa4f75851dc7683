//! Paths looked up in layers that are not unpacked.

#[path = "support/archive.rs"]
mod archive;

use std::io::{self, Write};

use archive::{Item, archive, dir, file, hard_link, item, symlink};
use dist_core::{Compression, ErrorKind, MediaType, Result};
use dist_layer::{Limits, Said, Spool, look_up};

#[derive(Default)]
struct Bytes(Vec<u8>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Spool for Bytes {
    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

fn look(entries: &[Item], path: &str, dirs: usize) -> Result<(Said, Vec<u8>)> {
    let tar = archive(entries);
    let mut bytes = Bytes::default();
    let media_type = MediaType::Layer(Compression::None);
    let input = (&media_type, tar.as_slice());
    let said = look_up(input, Limits::default(), path.as_bytes(), dirs, &mut bytes)?;
    Ok((said, bytes.0))
}

#[test]
fn a_layer_says_what_it_knows() {
    let leads = |target: &str| Said::Symlink(target.as_bytes().to_vec());
    for (entries, path, dirs, said) in [
        (vec![file("a/b", "x")], "a/b", 0, Said::File),
        (vec![file("./a/b", "x")], "/a//b", 0, Said::File),
        (vec![file("a/b", "y"), file("a/b", "x")], "a/b", 0, Said::File),
        (vec![file("a/bc", "y")], "a/b", 0, Said::Nothing(0)),
        (vec![dir("a"), dir("a/b")], "a/b/c", 0, Said::Nothing(2)),
        (vec![dir("a")], "a", 0, Said::NoFile),
        (vec![item("a", b'6')], "a", 0, Said::NoFile),
        (vec![file(".wh.a", "")], "a", 0, Said::Gone),
        (vec![file(".wh.a", "")], "a/b", 0, Said::Gone),
        (vec![file(".wh.a", ""), file("a/b", "x")], "a/b", 0, Said::File),
        (vec![file("a/.wh..wh..opq", "")], "a/b", 0, Said::Gone),
        (vec![file("a/.wh..wh..opq", "")], "a", 0, Said::Nothing(0)),
        (vec![file("a", "y")], "a/b", 0, Said::Gone),
        (vec![file("a", "y")], "a/b", 1, Said::Nothing(1)),
        (vec![symlink("a/l", "../c")], "a/l", 0, leads("c")),
        (vec![symlink("a/l", "/../../c/./d")], "a/l", 0, leads("c/d")),
        (vec![symlink("bin", "usr/bin")], "bin/sh", 0, leads("usr/bin/sh")),
        (vec![symlink("bin", "usr/bin")], "bin/sh", 1, Said::Nothing(1)),
        (vec![symlink("bin", "x"), dir("bin")], "bin/sh", 0, Said::Nothing(1)),
        (vec![file("x", "x"), hard_link("y", "x")], "y", 0, Said::Link(b"x".to_vec())),
    ] {
        let (got, bytes) = look(&entries, path, dirs).unwrap();
        assert_eq!(got, said, "{path}, {dirs}");
        assert_eq!(bytes, if said == Said::File { &b"x"[..] } else { b"" }, "{path}");
    }
}

#[test]
fn a_path_stays_beneath_the_root() {
    assert_eq!(look(&[], "../x", 0).unwrap_err().kind(), ErrorKind::UnsafeLayer);
}
