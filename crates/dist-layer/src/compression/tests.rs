use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

/// Yields a byte at a time, as a slow connection may.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = out.len().min(1);
        self.0.read(&mut out[..count])
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

fn skippable(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&0x184d_2a53_u32.to_le_bytes()[..], &length.to_le_bytes(), bytes].concat()
}

fn read(compression: Compression, input: impl Read, limits: Limits) -> Result<Vec<u8>> {
    let mut stream = Stream::new(&MediaType::Layer(compression), input, limits)?;
    let mut bytes = Vec::new();
    loop {
        let chunk = stream.fill()?;
        if chunk.is_empty() {
            let (digest, size) = stream.finish()?;
            assert_eq!(digest.0, dist_core::Digest::sha256(&bytes));
            assert_eq!(size, bytes.len() as u64);
            return Ok(bytes);
        }
        bytes.extend_from_slice(chunk);
        let count = chunk.len();
        stream.consume(count);
    }
}

fn kind(result: Result<Vec<u8>>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).to_le_bytes()[0] & 15
    })
    .take(length)
    .collect()
}

#[test]
fn members_and_frames() {
    let bytes = noise(700_000);
    let (a, b) = bytes.split_at(300_001);
    let gz = [gzip(a), gzip(b""), gzip(b)].concat();
    let zst =
        [skippable(b"toc"), zstd(a), skippable(&[0; 9000]), zstd(b""), zstd(b), skippable(b"")];
    for (compression, input) in [
        (Compression::None, bytes.clone()),
        (Compression::Gzip, gz),
        (Compression::Zstd, zst.concat()),
    ] {
        assert_eq!(read(compression, &*input, Limits::default()).unwrap(), bytes);
        assert_eq!(read(compression, Slow(&input), Limits::default()).unwrap(), bytes);
    }
}

#[test]
fn every_cut_is_an_error() {
    let bytes = noise(2000);
    for (compression, input) in
        [(Compression::Gzip, gzip(&bytes)), (Compression::Zstd, zstd(&bytes))]
    {
        for length in 1..input.len() {
            let got = read(compression, &input[..length], Limits::default());
            assert_eq!(kind(got), ErrorKind::Corrupt, "{compression} cut at {length}");
        }
        let tail = [&input[..], b"x"].concat();
        assert_eq!(kind(read(compression, &*tail, Limits::default())), ErrorKind::Corrupt);
        let zeros = [&input[..], &[0; 512]].concat();
        assert_eq!(kind(read(compression, &*zeros, Limits::default())), ErrorKind::Corrupt);
    }
}

#[test]
fn gzip_trailer_and_header() {
    let good = gzip(b"hello");
    for from_end in 1..=8 {
        let mut bad = good.clone();
        let at = bad.len() - from_end;
        bad[at] ^= 1;
        assert_eq!(kind(read(Compression::Gzip, &*bad, Limits::default())), ErrorKind::Corrupt);
    }
    let mut builder = flate2::GzBuilder::new().filename("name").comment("why").extra(vec![7; 300]);
    builder = builder.mtime(5);
    let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"hello").unwrap();
    let named = encoder.finish().unwrap();
    assert_eq!(read(Compression::Gzip, Slow(&named), Limits::default()).unwrap(), b"hello");
    let endless = [&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3][..], &[b'n'; 1 << 20]].concat();
    assert_eq!(kind(read(Compression::Gzip, &*endless, Limits::default())), ErrorKind::Corrupt);
}

/// A member of these flags, what its header has after the first ten bytes, and its raw stream.
fn member(flags: u8, fields: &[u8], stream: &[u8], bytes: &[u8]) -> Vec<u8> {
    let header = [0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
    let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    [&header, fields, stream, &crc32fast::hash(bytes).to_le_bytes(), &length].concat()
}

#[test]
fn gzip_header_checksums_are_checked() {
    // Text, header checksum, extra field, name and comment, an empty stream.
    let fields = [&[2, 0, 7, 7][..], b"name\0why\0"].concat();
    let start = [&[0x1f, 0x8b, 8, 31, 0, 0, 0, 0, 0, 3][..], &fields].concat();
    let sum = crc32fast::hash(&start).to_le_bytes();
    let good = member(31, &[&fields, &sum[..2]].concat(), &[3, 0], b"");
    assert_eq!(read(Compression::Gzip, &*good, Limits::default()).unwrap(), b"");
    let bad = member(31, &[&fields[..], &[sum[0], !sum[1]]].concat(), &[3, 0], b"");
    assert_eq!(kind(read(Compression::Gzip, &*bad, Limits::default())), ErrorKind::Corrupt);
    let reserved = member(32, b"", &[3, 0], b"");
    assert_eq!(kind(read(Compression::Gzip, &*reserved, Limits::default())), ErrorKind::Corrupt);
}

#[test]
fn matches_do_not_reach_into_the_member_before() {
    // Three bytes from one before the first.
    let reaching = member(0, b"", &[3, 2, 0], b"ooo");
    for after in [vec![], gzip(&noise(1000))] {
        let input = [gzip(b"hello"), reaching.clone(), after].concat();
        assert_eq!(kind(read(Compression::Gzip, &*input, Limits::default())), ErrorKind::Corrupt);
        assert_eq!(
            kind(read(Compression::Gzip, Slow(&input), Limits::default())),
            ErrorKind::Corrupt
        );
    }
}

#[test]
fn media_type_and_bytes_must_agree() {
    let inputs = [
        (Compression::None, vec![0; 1024]),
        (Compression::Gzip, gzip(b"x")),
        (Compression::Zstd, zstd(b"x")),
    ];
    for (declared, _) in &inputs {
        for (found, input) in &inputs {
            let got = read(*declared, &**input, Limits::default());
            assert_eq!(got.is_ok(), declared == found, "{declared} {found}");
        }
    }
    let unsupported = [&b"\xfd7zXZ\0"[..], b"BZh91AY", &[0x04, 0x22, 0x4d, 0x18, 0, 0]];
    for input in unsupported {
        assert_eq!(kind(read(Compression::Gzip, input, Limits::default())), ErrorKind::Unsupported);
    }
    assert_eq!(kind(read(Compression::Gzip, &b""[..], Limits::default())), ErrorKind::Corrupt);
    let other = Stream::new(&MediaType::parse("text/plain"), &b"x"[..], Limits::default());
    assert_eq!(other.err().unwrap().kind(), ErrorKind::Unsupported);
}

fn limit(result: Result<Vec<u8>>) -> &'static str {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    error.find::<dist_core::Limit>().unwrap().name
}

#[test]
fn limits() {
    let zeros = vec![0; 4 << 20];
    let strict = Limits { ratio_floor: 1 << 20, ratio: 10, ..Limits::default() };
    assert_eq!(limit(read(Compression::Gzip, &*gzip(&zeros), strict)), "layer-ratio");
    assert_eq!(limit(read(Compression::Zstd, &*zstd(&zeros), strict)), "layer-ratio");
    let dense = noise(4 << 20);
    assert_eq!(read(Compression::Gzip, &*gzip(&dense), strict).unwrap(), dense);
    let small = Limits { layer_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(limit(read(Compression::None, &*zeros, small)), "layer-size");
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(&zeros).unwrap();
    let wide = encoder.finish().unwrap();
    assert_eq!(limit(read(Compression::Zstd, &*wide, Limits::default())), "zstd-window");
    let more = Limits { zstd_window: 16 << 20, ..Limits::default() };
    assert_eq!(read(Compression::Zstd, &*wide, more).unwrap(), zeros);
    // Headers alone: a window of 3.75 TiB, and contents of 2^40 bytes that are one segment.
    let declared = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xff][..], &[0; 20]].concat();
    let segment = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 40).to_le_bytes(), &[0; 9]];
    for header in [declared, segment.concat()] {
        assert_eq!(limit(read(Compression::Zstd, &*header, Limits::default())), "zstd-window");
    }
}

#[test]
fn an_input_error_keeps_its_kind() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(Error::new(ErrorKind::Unavailable, "connection lost").into_io())
        }
    }
    let input = gzip(&noise(1000));
    let input = input[..100].chain(Broken);
    assert_eq!(kind(read(Compression::Gzip, input, Limits::default())), ErrorKind::Unavailable);
}

proptest! {
    #[test]
    fn garbage_never_panics(
        start in prop_oneof![
            Just(vec![0x1f, 0x8b, 8]), Just(vec![0x28, 0xb5, 0x2f, 0xfd]), Just(vec![0x50, 0x2a, 0x4d, 0x18])
        ],
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let input = [start, rest].concat();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let _ = read(compression, &*input, Limits::default());
        }
    }

    #[test]
    fn flipped_bits_never_pass_gzip(bytes in prop::collection::vec(any::<u8>(), 1..200), bit in 80usize..400) {
        let mut input = gzip(&bytes);
        let bit = bit % (input.len() * 8 - 80) + 80; // beyond the header
        input[bit / 8] ^= 1 << (bit % 8);
        if let Ok(got) = read(Compression::Gzip, &*input, Limits::default()) {
            prop_assert_eq!(got, bytes); // another encoding of the same bytes
        }
    }
}
