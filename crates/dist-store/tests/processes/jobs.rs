//! What the child does.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use dist_core::{
    Cancel, Descriptor, Digest, Error, ErrorKind, Expected, ImageName, Ingest, Ingester as _,
    Labels, MediaType, Namespace, Provider as _, Result, SnapshotKey, SnapshotKind,
};
use dist_store::{Registration, SettleMode, Store, StoreOptions};

use crate::{content, expect, key, open, say, write};

pub(crate) fn ingest(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    say(write(&open(root)?, name, bytes)?);
    Ok(())
}

/// Writes the first `count` bytes and then waits to be killed.
pub(crate) fn partial(root: &Path, name: &str, bytes: &[u8], count: usize) -> Result<()> {
    let Ingest::Writer(mut writer) =
        open(root)?.ingest(&key(name), expect(bytes), &Cancel::default())?
    else {
        panic!("exists")
    };
    for chunk in bytes[..count].chunks(64 << 10) {
        writer.write_all(chunk).unwrap();
    }
    say("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    Ok(())
}

pub(crate) fn register(root: &Path, bytes: &[u8]) -> Result<()> {
    let content = open(root)?.settling_later();
    write(&content, "k", bytes)?;
    let labels = [(Digest::sha256(bytes), Labels::new())].into();
    let registration = Registration { labels, ..Registration::default() };
    Store::open(root, StoreOptions::default())?.register(Namespace::default(), &registration)?;
    say("registered");
    Ok(())
}

pub(crate) fn settle(root: &Path) -> Result<()> {
    let settled = Store::open(root, StoreOptions::default())?.settle(SettleMode::Now)?;
    say(&format!("flipped {}", settled.flipped));
    Ok(())
}

pub(crate) fn read(root: &Path, bytes: &[u8]) -> Result<()> {
    let store = Store::open(root, StoreOptions::default())?;
    assert!(store.is_read_only());
    let content = store.content(Namespace::default());
    let digest = Digest::sha256(bytes);
    assert_eq!(content.list()?.len(), 1);
    assert_eq!(store.images(Namespace::default()).list()?.len(), 1);
    let mut got = Vec::new();
    content.open(&digest)?.file.read_to_end(&mut got).unwrap();
    assert_eq!(got, bytes);
    assert!(content.path(&digest)?.is_file());
    assert!(matches!(
        content.ingest(&key("k"), expect(bytes), &Cancel::default())?,
        Ingest::Exists(_)
    ));
    assert_eq!(content.ingests()?.len(), 1);
    assert_eq!(store.settle(SettleMode::Now)?.flipped, 0);
    let other = expect(b"other");
    for error in [
        content.ingest(&key("k"), other, &Cancel::default()).err().unwrap(),
        content.delete(&digest).unwrap_err(),
        content.abort(&key("left")).unwrap_err(),
        store.lock("x", &Cancel::default()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
        assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    }
    say("read");
    Ok(())
}

/// Fills a file system of 6 MiB, which `root` lies on.
pub(crate) fn fill(root: &Path) -> Result<()> {
    let content = open(root)?;
    let bytes = self::content("9,3000000");
    let too_big = Expected { digest: None, size: Some(64 << 20) };
    let error = content.ingest(&key("big"), too_big, &Cancel::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("67108864 bytes are needed, "), "{error}");

    let ballast = root.join("trash/ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let blob = Expected { size: None, ..expect(&bytes) };
    let Ingest::Writer(mut writer) = content.ingest(&key("k"), blob, &Cancel::default())? else {
        panic!("exists")
    };
    let error = loop {
        let at = usize::try_from(writer.offset()).unwrap();
        if let Err(error) = writer.write_all(&bytes[at..(at + 4096).min(bytes.len())]) {
            break error.downcast::<Error>().unwrap();
        }
        if writer.offset() == bytes.len() as u64 {
            break Error::new(ErrorKind::Internal, "it all went in");
        }
    };
    assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    assert!(error.to_string().contains(" are free"), "{error}");
    let offset = writer.offset();
    assert!(offset > 100_000, "{offset}");
    drop(writer);
    std::fs::remove_file(ballast).unwrap();
    let Ingest::Writer(mut writer) =
        content.ingest(&key("k"), expect(&bytes), &Cancel::default())?
    else {
        panic!("exists")
    };
    assert_eq!(writer.offset(), offset);
    writer.write_all(&bytes[usize::try_from(offset).unwrap()..]).unwrap();
    writer.commit(expect(&bytes))?;
    say("filled");
    Ok(())
}

/// Fills a file system of 8 MiB to its last byte and frees it by each of the ways there are.
pub(crate) fn starve(root: &Path) -> Result<()> {
    let namespace = Namespace::default();
    let reserve = root.join("reserve");
    let ballast = root.join("trash/ballast");
    let no_space = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
        assert!(format!("{error:?}").contains("No space left"), "{error:?}");
    };
    let is_full = || rustix::fs::statvfs(root).unwrap().f_bfree == 0;
    let snapshot: SnapshotKey = "s".parse().unwrap();
    let image: ImageName = "i".parse().unwrap();
    let bytes = self::content("1,100000");
    let target = Descriptor::new(MediaType::Manifest, Digest::sha256(&bytes), 100_000);
    for way in ["delete", "image", "snapshot", "forget", "abort", "open before"] {
        let store = Store::open(root, StoreOptions::default())?;
        assert_eq!(std::fs::metadata(&reserve).unwrap().blocks(), 4096, "{way}");
        let (content, images) = (store.content(&namespace), store.images(&namespace));
        let snapshots = store.snapshots(&namespace, "overlayfs");
        write(&content, "k", &bytes)?;
        images.put(&image, &target, &Labels::new())?;
        let id = snapshots.insert(&snapshot, None, SnapshotKind::Active, &Labels::new())?.id;
        drop(content.ingest(&key("left"), Expected::default(), &Cancel::default())?);
        // With the store closed there is no room for the files of the log, else none in the log.
        let open = (way == "open before").then(|| store.clone());
        let keeps_the_log = match open {
            Some(_) => Some(Store::open(root, StoreOptions::default())?),
            None => None,
        };
        drop((content, images, snapshots, store));
        let mut file = std::fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        assert!(is_full(), "{way}");

        let store = match open {
            Some(store) => {
                // The log has some room left; use it up.
                loop {
                    if let Err(error) =
                        store.images(&namespace).put(&image, &target, &Labels::new())
                    {
                        no_space(error);
                        break;
                    }
                }
                assert!(reserve.exists());
                store
            }
            None => Store::open(root, StoreOptions::default())?,
        };
        let (content, images) = (store.content(&namespace), store.images(&namespace));
        let snapshots = store.snapshots(&namespace, "overlayfs");
        match way {
            "delete" => content.delete(&target.digest)?,
            "image" => images.delete(&image, None)?,
            "forget" => snapshots.forget(id)?,
            "abort" => content.abort(&key("left"))?,
            "snapshot" => drop(snapshots.remove(&snapshot)?),
            _ => {
                snapshots.remove(&snapshot)?;
                images.delete(&image, None)?;
                content.delete(&target.digest)?;
            }
        }
        if way != "open before" {
            assert!(!reserve.exists(), "{way}");
        }
        if way != "delete" && way != "open before" {
            // What is free now is for those who free more.
            let other = Expected { digest: None, size: Some(1) };
            no_space(content.ingest(&key("new"), other, &Cancel::default()).err().unwrap());
            let new = "new".parse().unwrap();
            let refused = snapshots.insert(&new, None, SnapshotKind::Active, &Labels::new());
            no_space(refused.unwrap_err());
        }
        std::fs::remove_file(&ballast).unwrap();
        drop(content.ingest(&key("left"), Expected::default(), &Cancel::default())?);
        assert!(reserve.exists(), "{way}");
        std::fs::remove_file(&reserve).unwrap(); // made again when the store is closed
        let _ = (content.abort(&key("left")), content.delete(&target.digest), snapshots.forget(id));
        drop((content, images, snapshots, store, keeps_the_log));
        assert!(reserve.exists(), "{way}");
    }
    say("freed");
    Ok(())
}
