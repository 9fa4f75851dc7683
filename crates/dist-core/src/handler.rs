//! Walking trees of descriptors.
//!
//! A [`Handler`] does something with one descriptor and says what comes below it; [`walk`] and
//! [`dispatch`] visit the whole tree. Equal descriptors are visited once, however many paths lead
//! to them.

use std::collections::HashSet;
use std::io::Read as _;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::{
    ContentMismatch, Context, Descriptor, Digest, Document, Error, ErrorKind, Limit,
    MAX_DOCUMENT_BYTES, Platform, Provider, Result, ResultExt,
};

/// How many levels of descriptors may lie below one another.
pub const MAX_DEPTH: usize = 8;

/// Does something with a descriptor.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles one descriptor and returns what to visit below it.
    ///
    /// # Errors
    /// Any; the walk ends with it.
    async fn handle(&self, desc: &Descriptor) -> Result<Visit>;
}

/// What follows a handled descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visit {
    /// These are visited next.
    Children(Vec<Descriptor>),
    /// Nothing below it is visited; its siblings are.
    Skip,
}

struct Pending {
    stack: Vec<(Descriptor, usize)>,
    seen: HashSet<(Digest, String)>,
}

impl Pending {
    fn new(root: Descriptor) -> Self {
        Self { stack: vec![(root, 0)], seen: HashSet::new() }
    }

    /// The next descriptor that was not visited, first sibling first.
    fn pop(&mut self) -> Option<(Descriptor, usize)> {
        loop {
            let (desc, depth) = self.stack.pop()?;
            if self.seen.insert((desc.digest, desc.media_type.as_str().to_owned())) {
                return Some((desc, depth));
            }
        }
    }

    fn push(&mut self, visit: Visit, depth: usize) -> Result<()> {
        let Visit::Children(children) = visit else { return Ok(()) };
        if depth + 1 >= MAX_DEPTH && !children.is_empty() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "walk the image: its indexes are nested too deep",
            )
            .with_source(Limit { name: "index-depth", limit: MAX_DEPTH as u64 }));
        }
        self.stack.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
        Ok(())
    }
}

/// Visits the tree below `root` one descriptor at a time, parents first, siblings in order.
///
/// # Errors
/// The first one that the handler returns; `Corrupt` for a tree deeper than [`MAX_DEPTH`].
pub async fn walk(handler: &dyn Handler, root: Descriptor) -> Result<()> {
    let mut pending = Pending::new(root);
    while let Some((desc, depth)) = pending.pop() {
        let visit = handler.handle(&desc).await?;
        pending.push(visit, depth)?;
    }
    Ok(())
}

/// Visits the tree below `root` with up to `limit` descriptors at once, parents before children.
///
/// # Errors
/// The first one that a handler returns: the others that run are dropped. `Corrupt` for a tree
/// deeper than [`MAX_DEPTH`].
pub async fn dispatch(handler: &dyn Handler, root: Descriptor, limit: usize) -> Result<()> {
    let mut pending = Pending::new(root);
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < limit.max(1)
            && let Some((desc, depth)) = pending.pop()
        {
            running.push(async move { handler.handle(&desc).await.map(|visit| (visit, depth)) });
        }
        match running.next().await {
            None => return Ok(()),
            Some(Ok((visit, depth))) => pending.push(visit, depth)?,
            Some(Err(error)) => return Err(error),
        }
    }
}

/// Returns what `desc` names, from committed content: an index's manifests, a manifest's config and
/// layers, nothing for anything else.
///
/// # Errors
/// Those of [`read_verified`] and of [`Document::parse`].
pub fn children(provider: &dyn Provider, desc: &Descriptor) -> Result<Vec<Descriptor>> {
    let media_type = &desc.media_type;
    let document = media_type.is_index()
        || media_type.is_manifest()
        || *media_type == crate::MediaType::DockerSchema1;
    if !document {
        return Ok(Vec::new());
    }
    let bytes = read_verified(provider, &desc.digest)?;
    let document = Document::parse(media_type, &bytes)
        .during(|| format!("parse {} {}", media_type.noun(), desc.digest))?;
    Ok(document.children())
}

/// Reads committed content of at most [`MAX_DOCUMENT_BYTES`], and compares it with its digest: what
/// other content is found by is not believed because it once was right.
///
/// Of more than that, one byte more is read and nothing compared: no document is that long.
///
/// # Errors
/// `NotFound` where the content is not there; `Storage` where it can't be read; `Corrupt` with a
/// [`ContentMismatch`] where it is damaged.
pub fn read_verified(provider: &dyn Provider, digest: &Digest) -> Result<Vec<u8>> {
    let blob = provider.open(digest)?;
    let mut bytes = Vec::new();
    blob.take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .context(ErrorKind::Storage, || format!("read {digest}"))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Ok(bytes);
    }
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    let got = hasher.finish();
    if got != *digest {
        let mismatch = ContentMismatch::Digest { expected: *digest, got };
        let message = format!("verify {digest}, as it is here");
        return Err(Error::new(ErrorKind::Corrupt, message).with_source(mismatch));
    }
    Ok(bytes)
}

/// Keeps of an index's entries those that run on `wanted`, best first; entries equally good keep
/// their order.
///
/// An entry without a platform is kept last: nothing says that it does not run here.
///
/// # Errors
/// `NotFound` listing the platforms there are, where none fits.
pub fn select_platform(children: Vec<Descriptor>, wanted: &Platform) -> Result<Vec<Descriptor>> {
    let mut offered: Vec<String> = Vec::new();
    let mut ranked: Vec<(u32, Descriptor)> = Vec::new();
    for child in children {
        let rank = match &child.platform {
            None => Some(u32::MAX),
            Some(platform) => {
                let text = platform.to_string();
                if platform.os != "unknown" && !offered.contains(&text) {
                    offered.push(text);
                }
                wanted.rank(platform)
            }
        };
        if let Some(rank) = rank {
            ranked.push((rank, child));
        }
    }
    if ranked.is_empty() {
        let most = offered.len().min(32);
        let offered = if offered.is_empty() { "none".into() } else { offered[..most].join(", ") };
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "no image for platform {wanted} in the index; there is {}",
                offered.escape_debug()
            ),
        ));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, child)| child).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaType;
    use futures_util::FutureExt as _;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn desc(name: &str) -> Descriptor {
        Descriptor::new(MediaType::Other(name.into()), Digest::sha256(name.as_bytes()), 0)
    }

    /// A real tree: each name's children are its name with one more letter, three levels deep.
    #[derive(Default)]
    struct Letters {
        visited: Mutex<Vec<String>>,
        running: AtomicUsize,
        most: AtomicUsize,
        fail_at: Option<&'static str>,
    }

    #[async_trait]
    impl Handler for Letters {
        async fn handle(&self, desc: &Descriptor) -> Result<Visit> {
            let name = desc.media_type.as_str().to_owned();
            let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            for _ in 0..3 {
                yield_once().await;
            }
            self.running.fetch_sub(1, Ordering::SeqCst);
            self.visited.lock().unwrap().push(name.clone());
            if self.fail_at == Some(&name) {
                return Err(Error::new(ErrorKind::Corrupt, name));
            }
            if name == "rb" {
                return Ok(Visit::Skip);
            }
            let next = |c: &str| desc_of(&name, c);
            Ok(Visit::Children(if name.len() < 3 {
                vec![next("a"), next("b"), next("a")]
            } else {
                vec![]
            }))
        }
    }

    fn desc_of(name: &str, c: &str) -> Descriptor {
        desc(&format!("{name}{c}"))
    }

    async fn yield_once() {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if yielded {
                return std::task::Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = Box::pin(future);
        loop {
            if let Some(output) = future.as_mut().now_or_never() {
                return output;
            }
        }
    }

    #[test]
    fn walk_is_in_order_and_skips_only_below() {
        let letters = Letters::default();
        block_on(walk(&letters, desc("r"))).unwrap();
        assert_eq!(*letters.visited.lock().unwrap(), ["r", "ra", "raa", "rab", "rb"]);
        assert_eq!(letters.most.into_inner(), 1);
    }

    #[test]
    fn dispatch_keeps_its_limit_and_visits_once() {
        let letters = Letters::default();
        block_on(dispatch(&letters, desc("r"), 2)).unwrap();
        let mut visited = letters.visited.into_inner().unwrap();
        visited.sort();
        assert_eq!(visited, ["r", "ra", "raa", "rab", "rb"]);
        assert_eq!(letters.most.into_inner(), 2);
    }

    #[test]
    fn dispatch_stops_at_the_first_error() {
        let letters = Letters { fail_at: Some("ra"), ..Letters::default() };
        let error = block_on(dispatch(&letters, desc("r"), 8)).unwrap_err();
        assert_eq!(error.to_string(), "ra");
        assert!(!letters.visited.lock().unwrap().iter().any(|name| name.len() == 3));
    }

    #[test]
    fn platforms_best_first() {
        let entry = |name: &str, platform: Option<&str>| Descriptor {
            platform: platform.map(|p| p.parse().unwrap()),
            ..desc(name)
        };
        let entries = vec![
            entry("v1", Some("linux/amd64")),
            entry("arm", Some("linux/arm64")),
            entry("v3", Some("linux/amd64/v3")),
            entry("any", None),
        ];
        let names = |wanted: &str| {
            select_platform(entries.clone(), &wanted.parse().unwrap())
                .unwrap()
                .iter()
                .map(|d| d.media_type.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("linux/amd64/v3"), ["v3", "v1", "any"]);
        assert_eq!(names("linux/amd64"), ["v1", "any"]);
        let error =
            select_platform(entries[..3].to_vec(), &"linux/s390x".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("linux/amd64, linux/arm64, linux/amd64/v3"), "{error}");
    }
}
