//! Names and content, with nothing in the way.

use dist_core::{Digest, ErrorKind, MediaType};
use dist_testutil::{Image, Registry, index_of};

use super::{client, descriptor, fetch, resolve};

#[tokio::test]
async fn names_become_descriptors() {
    let registry = Registry::start();
    let image = Image::random(1, &[1000]);
    image.push(&registry, "a/b", "1");
    let client = client();
    let expected = descriptor(&image.manifest);

    let name = registry.reference("a/b");
    let by_tag = resolve(&client, &format!("{name}:1")).await.unwrap();
    assert_eq!((by_tag.name, &by_tag.target), (format!("{name}:1"), &expected));
    let pinned = format!("{name}@{}", image.digest());
    assert_eq!(resolve(&client, &pinned).await.unwrap().target, expected);
    let both = format!("{name}:absent@{}", image.digest());
    assert_eq!(resolve(&client, &both).await.unwrap().target, expected);

    let blob = &image.blobs[1];
    let found = resolve(&client, &format!("{name}@{}", blob.digest)).await.unwrap().target;
    assert_eq!((found.digest, found.size), (blob.digest, blob.bytes.len() as u64));
    assert_eq!(found.media_type, MediaType::parse("application/octet-stream"));

    for absent in [
        format!("{name}:2"),
        registry.reference("nobody/nothing:1"),
        format!("{name}@{}", Digest::sha256(b"absent")),
    ] {
        let error = resolve(&client, &absent).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        let failure = error.find::<dist_registry::Failure>().unwrap();
        assert_eq!(failure.status, Some(404));
    }
}

#[tokio::test]
async fn content_comes_whole_or_from_an_offset() {
    let registry = Registry::start();
    let image = index_of(&[("amd64", None, Image::random(2, &[300_000, 10]))]);
    image.push(&registry, "x", "1");
    let (client, name) = (client(), registry.reference("x:1"));
    let all = image.blobs.iter().chain(&image.children).chain([&image.manifest]);
    for blob in all {
        let desc = descriptor(blob);
        assert_eq!(fetch(&client, &name, &desc, 0).await.unwrap(), blob.bytes);
        for offset in [1, desc.size / 2, desc.size - 1, desc.size] {
            let rest = fetch(&client, &name, &desc, offset).await.unwrap();
            assert_eq!(rest, blob.bytes[usize::try_from(offset).unwrap()..]);
        }
        let error = fetch(&client, &name, &desc, desc.size + 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
}

#[tokio::test]
async fn a_descriptor_that_lies_is_found_out() {
    let registry = Registry::start();
    let image = Image::random(3, &[100_000]);
    image.push(&registry, "x", "1");
    let (client, name) = (client(), registry.reference("x:1"));
    let honest = descriptor(&image.blobs[1]);
    for size in [0, 1, honest.size - 1, honest.size + 1, 1 << 50] {
        let mut desc = honest.clone();
        desc.size = size;
        let error = fetch(&client, &name, &desc, 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{size}: {error:?}");
        assert!(error.find::<dist_core::ContentMismatch>().is_some());
    }
    let mut manifest = descriptor(&image.manifest);
    manifest.size = 5 << 20;
    let error = fetch(&client, &name, &manifest, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    let mut absent = honest.clone();
    absent.digest = Digest::sha256(b"absent");
    let error = fetch(&client, &name, &absent, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    absent.media_type =
        MediaType::parse("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let error = fetch(&client, &name, &absent, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("URLs are never followed"));
}
