use dist_core::{Compression, ErrorKind, MediaType};
use proptest::prelude::*;

use super::*;

#[path = "../../tests/support/archive.rs"]
mod support;
use support::{Item, archive, checksum, dir, file, hard_link, item, padded, symlink};

fn read_with(bytes: &[u8], limits: Limits) -> Result<Vec<(Entry, Vec<u8>)>> {
    let stream = Stream::new(&MediaType::Layer(Compression::None), bytes, limits)?;
    let mut tar = Tar::new(stream, limits);
    let (mut entries, mut entry) = (Vec::new(), Entry::default());
    while tar.next(&mut entry)? {
        let mut body = Vec::new();
        loop {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                break;
            }
            body.extend_from_slice(chunk);
            let count = chunk.len();
            tar.consume(count);
        }
        entries.push((entry.clone(), body));
    }
    let (digest, size) = tar.finish()?;
    assert_eq!(digest.0, dist_core::Digest::sha256(bytes));
    assert_eq!(size, bytes.len() as u64);
    Ok(entries)
}

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    read_with(bytes, Limits::default())
}

fn one(bytes: &[u8]) -> (Entry, Vec<u8>) {
    read(bytes).unwrap().into_iter().next().unwrap()
}

fn long(kind: u8, name: &[u8]) -> Vec<u8> {
    Item { body: [name, b"\0"].concat(), ..item("././@LongLink", kind) }.build()
}

/// The message of a refused archive.
fn refused(bytes: &[u8]) -> String {
    let error = read(bytes).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{error:?}");
    format!("{error:?}")
}

#[test]
fn kinds_and_fields() {
    let bytes = archive(&[
        dir("d/").mode(0o1777).owner(1000, 3_000_000),
        file("d/f", "hello").mode(0o4755),
        hard_link("d/h", "d/f"),
        symlink("s", "/x"),
        item("p", b'6'),
        Item { device: (8, 1), ..item("b", b'4') },
        item("v7dir/", 0),
    ]);
    let entries = read(&bytes).unwrap();
    let kinds: Vec<Kind> = entries.iter().map(|(entry, _)| entry.kind).collect();
    let expected =
        [Kind::Dir, Kind::File, Kind::Link, Kind::Symlink, Kind::Fifo, Kind::Block, Kind::Dir];
    assert_eq!(kinds, expected);
    let (entry, body) = &entries[1];
    assert_eq!((entry.mode, body.as_slice(), entry.offset), (0o4755, &b"hello"[..], 512));
    assert_eq!((entries[0].0.uid, entries[0].0.gid, entries[0].0.mode), (1000, 3_000_000, 0o1777));
    assert_eq!(entries[2].0.link, b"d/f");
    assert_eq!(entries[5].0.device, (8, 1));
}

#[test]
fn names() {
    let long_name = vec![b'n'; 3000];
    let mut prefixed = file("name", "").header();
    prefixed[345..352].copy_from_slice(b"pre/fix");
    checksum(&mut prefixed);
    let full = [b'f'; 100];
    for (bytes, path) in [
        ([long(b'L', &long_name), file("short", "x").build()].concat(), long_name.clone()),
        (file("short", "x").pax("path", &long_name).build(), long_name.clone()),
        (prefixed.to_vec(), b"pre/fix/name".to_vec()),
        (file(full, "x").build(), full.to_vec()),
        (file("x", "").pax("path", b"\xff\xfe").build(), b"\xff\xfe".to_vec()),
        (file("x", "").pax("path", "").build(), b"x".to_vec()),
        (file("x", "").pax("path", "a").pax("path", "b").build(), b"b".to_vec()),
    ] {
        assert_eq!(one(&bytes).0.path, path);
    }
    let bytes = [long(b'K', &long_name), symlink("s", "x").build()].concat();
    assert_eq!(one(&bytes).0.link, long_name);
}

#[test]
fn extended_headers() {
    let item = file("x", "0123456789")
        .pax("uid", "4000000000")
        .pax("gid", "7")
        .pax("mtime", "-1.5")
        .pax("comment", "any = thing\n")
        .pax("SCHILY.xattr.user.a", b"\0\xff=\n")
        .pax("LIBARCHIVE.xattr.user.b%20c", "YWI")
        .pax("SCHILY.xattr.user.a", "later");
    let (entry, _) = one(&item.build());
    assert_eq!((entry.uid, entry.gid), (4_000_000_000, 7));
    assert_eq!(entry.mtime, Time { seconds: -2, nanos: 500_000_000 });
    assert_eq!(
        entry.xattrs,
        [(b"user.a".to_vec(), b"later".to_vec()), (b"user.b c".to_vec(), b"ab".to_vec())]
    );
    // What a global header says holds until another says otherwise; its own header's fields give
    // way to it, those of the entry's extended header do not.
    let global = Item { body: b"8 uid=5\n13 comment=x\n".to_vec(), ..item_named("g") };
    let bytes = [
        global.build(),
        file("a", "").build(),
        file("b", "").pax("uid", "6").build(),
        file("c", "").build(),
    ];
    let uids: Vec<u32> =
        read(&bytes.concat()).unwrap().iter().map(|(entry, _)| entry.uid).collect();
    assert_eq!(uids, [5, 6, 5]);
}

fn item_named(kind: &str) -> Item {
    item("pax_global_header", kind.as_bytes()[0])
}

#[test]
fn the_size_of_an_extended_header_wins() {
    let inner = file("smuggled", "evil").build();
    for claimed in [0usize, 512] {
        let mut outer = file("outer", "").pax("size", inner.len().to_string());
        outer.body = vec![0; claimed];
        let mut bytes = outer.build();
        bytes.truncate(bytes.len() - claimed);
        let bytes = [bytes, padded(&inner), archive(&[file("after", "1")])].concat();
        let entries = read(&bytes).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].1, inner);
        assert_eq!(entries[1].0.path, b"after");
    }
}

#[test]
fn sparse_files() {
    let region = |start, length| Region { start, length };
    let old = {
        let mut block = Item { body: b"headtail".to_vec(), ..item("sp", b'S') }.header();
        block[257..265].copy_from_slice(b"ustar  \0");
        block[386..398].copy_from_slice(b"00000000000\0");
        block[398..410].copy_from_slice(b"00000000004\0");
        block[410..422].copy_from_slice(b"00003641074\0");
        block[422..434].copy_from_slice(b"00000000004\0");
        block[483..495].copy_from_slice(b"00003641100\0");
        checksum(&mut block);
        [block.to_vec(), padded(b"headtail")].concat()
    };
    let body = |map: &str| [padded(map.as_bytes()), b"headtail".to_vec()].concat();
    let v1 = |body: Vec<u8>| {
        Item { body, ..file("GNUSparseFile.0/sp", "") }
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "sp")
            .pax("GNU.sparse.realsize", "1000000")
    };
    let v01 = file("GNUSparseFile.0/sp", "headtail")
        .pax("GNU.sparse.name", "sp")
        .pax("GNU.sparse.size", "1000000")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.map", "0,4,999996,4");
    let v00 = file("sp", "headtail")
        .pax("GNU.sparse.size", "1000000")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.offset", "0")
        .pax("GNU.sparse.numbytes", "4")
        .pax("GNU.sparse.offset", "999996")
        .pax("GNU.sparse.numbytes", "4");
    for bytes in [old, v1(body("2\n0\n4\n999996\n4\n")).build(), v01.build(), v00.build()] {
        let (entry, body) = one(&bytes);
        assert_eq!((entry.path.as_slice(), body.as_slice()), (&b"sp"[..], &b"headtail"[..]));
        assert_eq!(entry.size, 1_000_000);
        assert_eq!(entry.regions.unwrap(), [region(0, 4), region(999_996, 4)]);
    }
    for map in ["2\n50\n10\n0\n60\n", "1\n999999\n8\n", "1\n0\n7\n", "x\n", "", "1\n0\n-8\n"] {
        refused(&v1(body(map)).build());
    }
    let many = body(&format!("2000000\n{}", "0\n0\n".repeat(200)));
    let error = read(&v1(many).build()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
}

#[test]
fn refusals_name_the_offset() {
    let good = file("a", "1").build();
    let mut sum = file("b", "2").header();
    sum[0] ^= 1;
    let at_1024 = |bytes: &[u8]| [&good, bytes].concat();
    for bytes in [
        at_1024(&sum),
        at_1024(&Item { body: b"100 path=x\n".to_vec(), ..item("x", b'x') }.build()),
        at_1024(&item("q", b'Z').build()),
        at_1024(&Item { body: vec![1; 512], ..symlink("l", "t") }.build()),
        at_1024(&Item { body: vec![1; 512], ..dir("l") }.build()),
        at_1024(&[vec![0; 512], good.clone()].concat()),
        at_1024(&Item { body: b"9 path=x\n".to_vec(), ..item("g", b'g') }.build()),
        at_1024(&Item { body: b"9 size=1\n".to_vec(), ..item("g", b'g') }.build()),
        at_1024(&item("", b'0').build()),
    ] {
        let message = refused(&bytes);
        assert!(message.contains("at byte 1024"), "{message}");
    }
    for bytes in [
        at_1024(&file("b", "").pax("path", "x").build()[..1024]), // nothing follows
        [long(b'L', b"a"), file("b", "").pax("path", "x").build()].concat(),
        [long(b'L', b"a"), long(b'L', b"b"), good.clone()].concat(),
        [&file("b", "").pax("path", "x").build()[..1024], &file("b", "").pax("uid", "1").build()]
            .concat(),
        long(b'L', b"a\0b"),
        file("b", "").pax("path", b"a\0b").build(),
        file("b", "").pax("SCHILY.xattr.", "x").build(),
        file("b", "").pax("size", "9223372036854775807").build(),
        file("b", "").pax("uid", "4294967295").build(),
        good[..700].to_vec(),
        good[..300].to_vec(),
    ] {
        refused(&bytes);
    }
}

#[test]
fn ends() {
    let good = file("a", "1").build();
    for bytes in [
        good.clone(),
        archive(&[file("a", "1")]),
        [&good[..], &[0; 512]].concat(),
        [&archive(&[file("a", "1")])[..], &[0x55; 4000], &good[..]].concat(),
    ] {
        assert_eq!(read(&bytes).unwrap().len(), 1);
    }
    assert!(read(&[0; 1024]).unwrap().is_empty());
}

#[test]
fn limits() {
    let name = |result: Result<Vec<(Entry, Vec<u8>)>>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error:?}");
        error.find::<dist_core::Limit>().unwrap().name
    };
    let mut claim = item("x", b'x');
    claim.body = vec![b'c'; (1 << 20) + 1];
    assert_eq!(name(read(&claim.build())), "tar-header");
    let bytes = archive(&[file("a", "1"), file("b", "22")]);
    let few = Limits { entries: 1, ..Limits::default() };
    assert_eq!(name(read_with(&bytes, few)), "entries");
    let small = Limits { file_bytes: 1, ..Limits::default() };
    assert_eq!(name(read_with(&bytes, small)), "file-size");
    let holes = file("a", "")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", i64::MAX.to_string());
    assert_eq!(name(read(&holes.build())), "file-size");
    let huge = file("a", "").pax("size", (1u64 << 39).to_string()).build();
    assert_eq!(name(read(&huge)), "layer-size");
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 1..3000)) {
        let _ = read(&bytes);
    }

    #[test]
    fn damage_never_panics(at in 0usize..5000, value in any::<u8>(), fix in any::<bool>()) {
        let mut bytes = archive(&[
            dir("d"),
            file("d/f", "hello").pax("path", "d/g").pax("GNU.sparse.map", "0,5").pax("GNU.sparse.size", "9"),
            symlink("s", "t").pax("SCHILY.xattr.user.a", "b"),
        ]);
        let at = at % bytes.len();
        bytes[at] = value;
        if fix && let Some(block) = bytes[at / 512 * 512..].first_chunk_mut::<512>() {
            checksum(block);
        }
        let _ = read(&bytes);
    }
}
