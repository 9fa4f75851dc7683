//! Blobs, each read once: digest, size, and what layers hold.

use std::sync::Arc;

use dist_core::{
    ContentMismatch, Descriptor, DiffId, Error, ErrorKind, Event, Fetcher, Progress, Result,
};
use dist_layer::{LayerFlaw, Limits, Severity, audit_layer};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::Flaw;
use crate::blocking::{Alive, Downloads, blocking};
use crate::input::Input;
use crate::servers::Servers;

/// The most flaws that are kept of one layer.
const MOST: usize = 1000;

/// What a blob turned out to be.
pub(super) struct Outcome {
    pub(super) desc: Descriptor,
    pub(super) flaws: Vec<Flaw>,
    /// Whether it could be read.
    pub(super) there: bool,
    /// Of a layer that could be inflated.
    pub(super) diff_id: Option<DiffId>,
}

pub(super) struct Blobs {
    pub(super) fetcher: Arc<dyn Fetcher>,
    pub(super) limits: Limits,
    pub(super) progress: Arc<dyn Progress>,
}

impl Blobs {
    /// Reads all of them, `jobs` at a time; what comes is in their order.
    pub(super) async fn read(&self, blobs: Vec<Descriptor>, jobs: usize) -> Result<Vec<Outcome>> {
        let alive = Alive::new();
        let downloads = alive.downloads(&Servers::new(1), Arc::clone(&self.fetcher));
        let reading = blobs.into_iter().map(|desc| {
            let (downloads, limits) = (downloads.clone(), self.limits);
            let progress = Arc::clone(&self.progress);
            // Work begins when the future is made, so it is made when its turn has come.
            async move { blocking(move || one(desc, &downloads, limits, progress)).await }
        });
        futures_util::stream::iter(reading).buffered(jobs.max(1)).try_collect().await
    }
}

/// The flaw for content that can't be read; fails with what is not about the content.
pub(super) fn unreadable(desc: &Descriptor, error: Error) -> Result<Flaw> {
    let (severity, what) = match error.kind() {
        ErrorKind::NotFound if desc.media_type.is_foreign() => {
            (Severity::Warning, "it is not there; it may only be got elsewhere")
        }
        ErrorKind::NotFound => (Severity::Error, "it is not there"),
        ErrorKind::ResourceExhausted => (Severity::Error, "it is larger than a document may be"),
        ErrorKind::Corrupt if error.find::<ContentMismatch>().is_some() => {
            (Severity::Error, "it is not what its descriptor says")
        }
        ErrorKind::Corrupt => (Severity::Error, "it can't be read"),
        _ => return Err(error),
    };
    let (digest, noun, what) = (desc.digest, desc.media_type.noun(), what.to_owned());
    let (place, spec) = (String::new(), "descriptor.md#digests");
    Ok(Flaw { severity, digest, noun, place, what, spec, cause: Some(error) })
}

fn one(
    desc: Descriptor,
    downloads: &Downloads,
    limits: Limits,
    progress: Arc<dyn Progress>,
) -> Result<Outcome> {
    progress.event(Event::Started { desc: &desc, offset: 0 });
    let mut input = Input::new(downloads.start(&desc, 0), desc.digest, &*progress);
    let (mut found, mut more) = (Vec::new(), 0);
    let is_layer = desc.media_type.layer_compression().is_some();
    let audited = if is_layer {
        audit_layer((&desc.media_type, &mut input), limits, &mut |flaw: LayerFlaw| {
            if found.len() < MOST { found.push(flaw) } else { more += 1 }
        })
    } else {
        Ok(None)
    };
    // What the place says of its blob is not about the layer's bytes.
    let failure = if input.failed { found.pop().and_then(|flaw| flaw.cause) } else { None };
    let audited = failure.map_or(audited, Err);
    // That it is not the blob that was meant explains what is wrong in it.
    let read = audited.and_then(|diff_id| input.verify(&desc).map(|()| diff_id));
    let diff_id = match read {
        Ok(diff_id) => diff_id,
        Err(error) => {
            let flaws = vec![unreadable(&desc, error)?];
            return Ok(Outcome { desc, flaws, there: false, diff_id: None });
        }
    };
    progress.event(Event::Committed { digest: desc.digest });
    let digest = desc.digest;
    let mut flaws: Vec<Flaw> = found
        .into_iter()
        .map(|LayerFlaw { severity, path, what, cause, spec }| Flaw {
            severity,
            digest,
            noun: "layer",
            place: path,
            what,
            spec,
            cause,
        })
        .collect();
    if more > 0 {
        let (place, what) = (String::new(), format!("{more} more were found in this layer"));
        let (severity, spec) = (Severity::Error, "layer.md");
        flaws.push(Flaw { severity, digest, noun: "layer", place, what, spec, cause: None });
    }
    Ok(Outcome { desc, flaws, there: true, diff_id })
}
