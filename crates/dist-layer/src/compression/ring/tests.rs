use super::*;
use crate::Limits;
use crate::compression::{CHUNK, Stream};
use dist_core::{Compression, MediaType};

fn ring_of(data: &[u8], use_up_to: usize) -> Result<(Vec<u8>, dist_core::DiffId)> {
    let media_type = MediaType::Layer(Compression::None);
    let inflater = Inflater::new(&media_type, data, Limits::default())?;
    inflating(inflater, &Cores::new(2), |chunks| {
        let mut stream = Stream::over(chunks);
        let mut read = Vec::new();
        stream.by_ref().take(use_up_to as u64).read_to_end(&mut read).unwrap();
        let (diff_id, size) = stream.finish()?;
        assert_eq!(size, data.len() as u64);
        Ok((read, diff_id))
    })
}

#[test]
fn same_bytes_and_digest() {
    for length in [1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * CHUNK + 7] {
        let data: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
        let mut hasher = Hasher::sha256();
        hasher.update(&data);
        let (read, diff_id) = ring_of(&data, length).unwrap();
        assert_eq!(read, data);
        assert_eq!(diff_id.0, hasher.finish());
        ring_of(&data, length / 2).unwrap();
    }
}

#[test]
fn only_an_idle_core_takes_the_inflating_over() {
    let cores = Cores::new(2);
    let other = cores.enter();
    let data = vec![1; 8 * CHUNK];
    let media_type = MediaType::Layer(Compression::None);
    let inflater = Inflater::new(&media_type, &data[..], Limits::default()).unwrap();
    inflating(inflater, &cores, |mut chunks| {
        chunks.next(&mut chunk()).unwrap();
        assert!(matches!(chunks.made, Made::Here(_)));
        drop(other);
        chunks.next(&mut chunk()).unwrap();
        assert!(matches!(chunks.made, Made::Elsewhere(_)));
    });
    assert!(cores.idle().is_some() && cores.idle().is_some(), "both are given back");
}

#[test]
fn a_dropped_ring_ends_the_pump() {
    let data = vec![1; 40 * CHUNK];
    std::thread::scope(|scope| {
        let media_type = MediaType::Layer(Compression::None);
        let inflater = Inflater::new(&media_type, &data[..], Limits::default()).unwrap();
        let (pump, hash, mut ring) = ring();
        scope.spawn(|| pump.run(inflater));
        scope.spawn(|| hash.run(Hasher::sha256()));
        ring.next(&mut chunk()).unwrap();
        drop(ring); // the scope ends only if both threads do
    });
}
