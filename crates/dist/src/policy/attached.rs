//! The signatures of an image, as its remote keeps them.
//!
//! What can't be read counts as a signature that verifies nothing; a remote that does not answer is
//! an error. No more than [`MOST_SIGNATURES`] are fetched, nor any of more than [`MOST_BYTES`].

use dist_core::{
    Descriptor, Digest, Document, Fetcher, Manifest, Referrer, Resolver as _, Result,
    ResultExt as _,
};
use dist_policy::{
    Envelope, MOST_BYTES, MOST_SIGNATURES, NOTATION_ENVELOPE_TYPE, NOTATION_TYPE,
    SIGNATURE_ANNOTATION, SIMPLE_TYPE, Signature, Wants, signature_tag,
};

use super::is_unreadable;
use crate::Remotes;
use crate::plain::fetch_document;

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) signatures: Vec<Signature>,
    /// The image's manifest or index, where a signature may be over its bytes.
    pub(super) document: Option<Vec<u8>>,
}

pub(super) async fn gather(
    remotes: &Remotes,
    name: &str,
    target: &Descriptor,
    wants: Wants,
) -> Result<Found> {
    let mut found = Found::default();
    if wants == Wants::default() {
        return Ok(found);
    }
    let what = || format!("look for signatures of {}", target.digest);
    let fetcher = remotes.fetcher(name)?;
    if wants.cosign {
        tagged(remotes, name, &target.digest, &mut found).await.during(what)?;
    }
    for referrer in referrers(remotes, name, &target.digest).await.during(what)? {
        let kind = referrer.artifact_type.as_deref().unwrap_or_default();
        let (is_bundle, is_notation) =
            (is_bundle(kind) && wants.cosign, kind == NOTATION_TYPE && wants.notation);
        if !is_bundle && !is_notation || found.signatures.len() >= MOST_SIGNATURES {
            continue;
        }
        let envelope = match envelope(&*fetcher, &referrer.desc).await {
            Err(error) if is_unreadable(&error) => Envelope::Unreadable("manifest"),
            envelope => envelope.during(what)?,
        };
        if matches!(envelope, Envelope::Bundle(_)) && found.document.is_none() {
            found.document = match fetch_document(&*fetcher, target).await {
                Err(error) if is_unreadable(&error) => None,
                document => Some(document.during(what)?),
            };
        }
        found.signatures.push(Signature { digest: referrer.desc.digest, envelope });
    }
    Ok(found)
}

fn is_bundle(kind: &str) -> bool {
    // Later versions are refused by their media type, not passed over.
    kind.starts_with("application/vnd.dev.sigstore.bundle")
}

/// Adds what lies below cosign's tag.
async fn tagged(remotes: &Remotes, name: &str, digest: &Digest, found: &mut Found) -> Result<()> {
    let beside = remotes.beside(name, &signature_tag(digest))?;
    let Some(resolved) = remotes.look_up(&beside).await? else { return Ok(()) };
    let fetcher = remotes.fetcher(&beside)?;
    let unreadable = |digest, part| Signature { digest, envelope: Envelope::Unreadable(part) };
    let manifest = match manifest(&*fetcher, &resolved.target).await {
        Err(error) if is_unreadable(&error) => {
            found.signatures.push(unreadable(resolved.target.digest, "manifest"));
            return Ok(());
        }
        manifest => manifest?,
    };
    for layer in manifest.layers.into_iter().take(MOST_SIGNATURES) {
        let signature = layer.annotations.get(SIGNATURE_ANNOTATION).cloned();
        let is_simple = layer.media_type.as_str() == SIMPLE_TYPE;
        let Some(signature) = signature.filter(|_| is_simple) else {
            found.signatures.push(unreadable(layer.digest, "media type or annotation"));
            continue;
        };
        let envelope = match blob(&*fetcher, &layer).await {
            Err(error) if is_unreadable(&error) => Envelope::Unreadable("payload"),
            payload => Envelope::Simple { payload: payload?, signature },
        };
        found.signatures.push(Signature { digest: layer.digest, envelope });
    }
    Ok(())
}

/// What refers to `subject`: the remote's list, or the one under a tag.
async fn referrers(remotes: &Remotes, name: &str, subject: &Digest) -> Result<Vec<Referrer>> {
    let listed = match remotes.fetcher(name)?.referrers(subject).await {
        Err(error) if is_unreadable(&error) => return Ok(Vec::new()),
        listed => listed?,
    };
    if let Some(listed) = listed {
        return Ok(listed);
    }
    let tag = format!("{}-{}", subject.algorithm(), subject.hex());
    let beside = remotes.beside(name, &tag)?;
    let Some(resolved) = remotes.look_up(&beside).await? else { return Ok(Vec::new()) };
    if !resolved.target.media_type.is_index() {
        return Ok(Vec::new());
    }
    let read = fetch_document(&*remotes.fetcher(&beside)?, &resolved.target).await;
    match read.and_then(|bytes| dist_registry::read_referrers(&bytes)) {
        Err(error) if is_unreadable(&error) => Ok(Vec::new()),
        listed => listed,
    }
}

/// The signature in a manifest that refers to an image.
async fn envelope(fetcher: &dyn Fetcher, desc: &Descriptor) -> Result<Envelope> {
    let manifest = manifest(fetcher, desc).await?;
    let [layer] = manifest.layers.as_slice() else {
        return Ok(Envelope::Unreadable("manifest"));
    };
    let media_type = layer.media_type.as_str();
    match media_type {
        NOTATION_ENVELOPE_TYPE => Ok(Envelope::Notation(blob(fetcher, layer).await?)),
        media_type if is_bundle(media_type) => Ok(Envelope::Bundle(blob(fetcher, layer).await?)),
        _ => Ok(Envelope::Unreadable("media type")),
    }
}

async fn manifest(fetcher: &dyn Fetcher, desc: &Descriptor) -> Result<Manifest> {
    let bytes = blob(fetcher, desc).await?;
    match Document::parse(&desc.media_type, &bytes)? {
        Document::Manifest(manifest) => Ok(*manifest),
        _ => {
            let message = format!("read {}: it is no manifest", desc.digest);
            Err(dist_core::Error::new(dist_core::ErrorKind::Corrupt, message))
        }
    }
}

async fn blob(fetcher: &dyn Fetcher, desc: &Descriptor) -> Result<Vec<u8>> {
    if desc.size > MOST_BYTES {
        let message = format!("fetch {}: a signature of {} bytes", desc.digest, desc.size);
        return Err(dist_core::Error::new(dist_core::ErrorKind::ResourceExhausted, message));
    }
    fetch_document(fetcher, desc).await
}
