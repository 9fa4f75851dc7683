//! Damaged blobs are set aside and fetched again.

use std::collections::HashMap;
use std::sync::Arc;

use dist_core::{
    ContentMismatch, Descriptor, Digest, Error, ErrorKind, Event, Expected, IngestKey, Labels,
    MediaType, Progress, Reference, Resolver as _, Result, ResultExt as _,
};
use dist_store::{ContentStore, Finding, Sharing, Subject};

use super::{Done, Outcome, each_below, images, note_moved};
use crate::blocking::{Alive, Downloads, blocking};
use crate::{Engine, sources};

/// What an image's documents say of a blob.
struct Known {
    desc: Descriptor,
    images: Vec<String>,
}

/// Brings blobs again.
pub(super) struct Healer<'a> {
    pub(super) engine: &'a Engine,
    pub(super) alive: &'a Alive,
    pub(super) progress: Arc<dyn Progress>,
}

impl Healer<'_> {
    pub(super) async fn heal(&self, findings: Vec<Finding>) -> Result<Done> {
        let mut left = findings;
        let mut done = Vec::new();
        // A document that came again tells of what lies below it.
        loop {
            let known = self.known()?;
            let (mut healed, mut failed) = (Vec::new(), Vec::new());
            for mut finding in left {
                match self.heal_one(&mut finding, &known).await {
                    Ok(()) => healed.push((finding, Outcome::Repaired)),
                    Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                    Err(error) => failed.push((finding, Outcome::Failed(error))),
                }
            }
            let progress = !healed.is_empty();
            done.extend(healed);
            if !progress || failed.is_empty() {
                done.extend(failed);
                return Ok(done);
            }
            left = failed.into_iter().map(|(finding, _)| finding).collect();
        }
    }

    async fn heal_one(&self, finding: &mut Finding, known: &HashMap<Digest, Known>) -> Result<()> {
        let Subject::Blob(digest) = finding.subject else { return Ok(()) };
        let store = self.engine.store();
        let owners = store.blob_owners(&digest)?;
        let Some(owner) = owners.first() else { return Ok(()) };
        let mut desc = Descriptor::new(MediaType::Other("".into()), digest, owner.size);
        let mut names: Vec<String> = Vec::new();
        names.extend(owners.iter().flat_map(|owner| sources::references(&owner.labels, &digest)));
        if let Some(known) = known.get(&digest) {
            desc = known.desc.clone();
            names.extend(known.images.iter().map(|name| pinned(name, &digest)));
        }
        let what = || format!("fetch blob {digest} again");
        let mut failure = Error::new(ErrorKind::NotFound, "nothing says where it came from");
        if let Some(moved) = store.quarantine_blob(&digest)? {
            note_moved(finding, &moved);
        }
        let engine = self.engine.in_namespace(owner.namespace.clone());
        for name in names {
            let fetched = match self.engine.remotes().fetcher(&name) {
                Ok(fetcher) => {
                    let downloads = self.alive.downloads(self.engine.remotes().servers(), fetcher);
                    let (content, desc) = (engine.content(), desc.clone());
                    blocking(move || bring(&content, &downloads, &desc)).await
                }
                Err(error) => Err(error),
            };
            match fetched {
                Ok(()) => {
                    self.progress.event(Event::Committed { digest });
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure).during(what)
    }

    /// What the images that are there lead to.
    fn known(&self) -> Result<HashMap<Digest, Known>> {
        let mut known: HashMap<Digest, Known> = HashMap::new();
        for (engine, image) in images(self.engine)? {
            each_below(&engine, &image.target, &mut |desc| {
                let known = known
                    .entry(desc.digest)
                    .or_insert_with(|| Known { desc: desc.clone(), images: Vec::new() });
                known.images.push(image.name.as_str().to_owned());
            });
        }
        Ok(known)
    }
}

/// Downloads a blob whose rows are there. They stay: an ingest that says what it expects would drop
/// those whose file is lost, and labels with them.
fn bring(content: &ContentStore, downloads: &Downloads, desc: &Descriptor) -> Result<()> {
    let key = IngestKey::for_content("fsck", &desc.digest);
    let mut writer = content.open_writer(&key, Expected::default(), Sharing::Isolated)?;
    let mut write = || {
        writer.truncate()?;
        let mut body = downloads.start(desc, 0);
        while let Some(chunk) = body.next_chunk()? {
            writer.write(&chunk)?;
        }
        Ok(())
    };
    if let Err(error) = write() {
        writer.abort()?;
        return Err(error);
    }
    match writer.commit(Expected::from(desc), &Labels::new()) {
        Err(error) if error.find::<ContentMismatch>().is_some() => {
            content.abort(&key)?;
            Err(Error::new(ErrorKind::Corrupt, "verify what came").with_source(error))
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The reference of a blob in the repository of an image.
fn pinned(image: &str, digest: &Digest) -> String {
    match Reference::parse(image) {
        Ok(reference) => reference.pinned(*digest).to_string(),
        Err(_) => image.to_owned(),
    }
}
