//! Signatures into a remote, where cosign keeps them.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, Context as _, Descriptor, Digest, Error, ErrorKind, Fetcher, MediaType, Pusher,
    Reference, Resolved, Resolver as _, Result, ResultExt as _,
};
use dist_policy::{
    BUNDLE_TYPE, MOST_SIGNATURES, PrivateKey, PublicKey, SIGNATURE_ANNOTATION, SIMPLE_TYPE,
    Subject, is_signed_by, sign_bundle, sign_simple, signature_tag,
};
use serde_json::{Value, json};

use crate::Remotes;
use crate::plain::fetch_document;

/// The media type of a config that has nothing in it.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The form of a signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignForm {
    /// cosign's first, below a tag: everybody reads it.
    #[default]
    Tag,
    /// A Sigstore bundle that refers to the image.
    Bundle,
}

/// Choices for [`sign`].
#[derive(Clone, Debug, Default)]
pub struct SignOptions {
    /// The form.
    pub form: SignForm,
    /// What the signature calls the image, a whole name in a registry; by default as it was asked for.
    pub identity: Option<String>,
}

/// Signs the image that `name` stands for, and puts the signature beside it. `public` is the other
/// half of `key`, where it is at hand. Gives the image, and what has the signature.
///
/// Of two who sign an image below its tag at one moment, one may lose his signature.
///
/// # Errors
/// Those of the remote; `InvalidArgument` without an identity where the image is in no registry, and
/// for a `public` that is not the other half; `FailedPrecondition` where there are too many
/// signatures already.
pub async fn sign(
    remotes: &Remotes,
    name: &str,
    key: &PrivateKey,
    public: Option<&PublicKey>,
    options: &SignOptions,
) -> Result<(Resolved, Descriptor)> {
    if public.is_some_and(|public| key.is_other_than(public)) {
        let message = "sign: the public key is not the other half of the private one";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let resolved = remotes.resolve(name).await?;
    let identity = identity(remotes, &resolved.name, options)?;
    let signing = Signing { remotes, resolved: &resolved };
    let made = match options.form {
        SignForm::Tag => {
            let (payload, signature) = sign_simple(key, &identity, &resolved.target.digest)?;
            signing.put_below_tag(key, payload, &signature).await?
        }
        SignForm::Bundle => {
            let bundle = sign_bundle(key, public, &identity, &resolved.target.digest)?;
            signing.put_referrer(bundle).await?
        }
    };
    Ok((resolved, made))
}

fn identity(remotes: &Remotes, name: &str, options: &SignOptions) -> Result<String> {
    match (&options.identity, remotes.subject(name)) {
        (Some(identity), _) => {
            let what = || format!("sign for {identity:?}");
            Reference::parse(identity).context(ErrorKind::InvalidArgument, what)?;
            Ok(identity.clone())
        }
        (None, Some(Subject::Registry(reference))) => Ok(match reference.tag() {
            Some(tag) => format!("{}:{tag}", reference.locator()),
            None => reference.to_string(),
        }),
        _ => {
            let message = format!("sign {name}: say by --identity which name it is signed for");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}

struct Signing<'a> {
    remotes: &'a Remotes,
    resolved: &'a Resolved,
}

impl Signing<'_> {
    async fn put_below_tag(
        &self,
        key: &PrivateKey,
        payload: Vec<u8>,
        signature: &str,
    ) -> Result<Descriptor> {
        let tag = signature_tag(&self.resolved.target.digest);
        let name = self.remotes.beside(&self.resolved.name, &tag)?;
        let _held = self.remotes.hold(&name).await?;
        let there = self.remotes.look_up(&name).await?.map(|there| there.target);
        let mut layers = match &there {
            Some(there) => self.signatures(&name, there).await?,
            None => Vec::new(),
        };
        let digest = json!(Digest::sha256(&payload));
        let is_known = layers.iter().any(|layer| {
            let signature = layer["annotations"][SIGNATURE_ANNOTATION].as_str();
            layer["digest"] == digest && signature.is_some_and(|it| is_signed_by(key, &payload, it))
        });
        if let Some(there) = there.filter(|_| is_known) {
            return Ok(there);
        }
        let mut made = Made::default();
        let payload = made.add(MediaType::parse(SIMPLE_TYPE), payload);
        let mut layer = payload.clone();
        layer.annotations.insert(SIGNATURE_ANNOTATION.to_owned(), signature.to_owned());
        layers.push(json!(layer));
        let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "",
            "os": "",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = made.add(MediaType::Config, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::Manifest.as_str(),
            "config": config,
            "layers": layers,
        });
        let manifest = made.add(MediaType::Manifest, manifest.to_string().into_bytes());
        let pusher = self.remotes.pusher(&name, &manifest.digest)?;
        made.push(&*pusher, &[&payload, &config, &manifest]).await?;
        Ok(manifest)
    }

    /// The layers of what is below the tag already.
    async fn signatures(&self, name: &str, there: &Descriptor) -> Result<Vec<Value>> {
        let what = || format!("add a signature to {name}");
        let bytes = fetch_document(&*self.remotes.fetcher(name)?, there).await;
        let document: Value =
            serde_json::from_slice(&bytes.during(what)?).context(ErrorKind::Corrupt, what)?;
        let Some(layers) = document["layers"].as_array() else {
            let message = format!("{}: it is no manifest", what());
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        };
        if layers.len() >= MOST_SIGNATURES {
            let message = format!("{}: it has {}, and no more are looked at", what(), layers.len());
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        Ok(layers.clone())
    }

    async fn put_referrer(&self, bundle: Vec<u8>) -> Result<Descriptor> {
        let subject = &self.resolved.target;
        let mut made = Made::default();
        let layer = made.add(MediaType::parse(BUNDLE_TYPE), bundle);
        let config = made.add(MediaType::parse(EMPTY), b"{}".to_vec());
        let annotations = json!({
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::Manifest.as_str(),
            "artifactType": BUNDLE_TYPE,
            "config": config,
            "layers": [layer],
            "subject": Descriptor::new(subject.media_type.clone(), subject.digest, subject.size),
            "annotations": annotations,
        });
        let manifest = made.add(MediaType::Manifest, manifest.to_string().into_bytes());
        // What is not the root of a name gets no tag.
        let pusher = self.remotes.pusher(&self.resolved.name, &subject.digest)?;
        made.push(&*pusher, &[&layer, &config, &manifest]).await?;
        let fetcher = self.remotes.fetcher(&self.resolved.name)?;
        if fetcher.referrers(&subject.digest).await?.is_some() {
            return Ok(manifest); // the registry lists it by itself
        }
        let mut entry = json!(manifest);
        entry["artifactType"] = json!(BUNDLE_TYPE);
        entry["annotations"] = annotations;
        self.list(entry).await?;
        Ok(manifest)
    }

    /// Adds to the index below a tag that lists what refers to the image (distribution-spec,
    /// "Referrers Tag Schema").
    async fn list(&self, entry: Value) -> Result<()> {
        let subject = &self.resolved.target.digest;
        let tag = format!("{}-{}", subject.algorithm(), subject.hex());
        let name = self.remotes.beside(&self.resolved.name, &tag)?;
        let mut entries = Vec::new();
        if let Some(there) = self.remotes.look_up(&name).await? {
            let what = || format!("add to the list {name}");
            let bytes = fetch_document(&*self.remotes.fetcher(&name)?, &there.target).await;
            let document: Value =
                serde_json::from_slice(&bytes.during(what)?).context(ErrorKind::Corrupt, what)?;
            entries = document["manifests"].as_array().cloned().unwrap_or_default();
        }
        if entries.iter().any(|known| known["digest"] == entry["digest"]) {
            return Ok(());
        }
        entries.push(entry);
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::Index.as_str(),
            "manifests": entries,
        });
        let mut made = Made::default();
        let index = made.add(MediaType::Index, index.to_string().into_bytes());
        let pusher = self.remotes.pusher(&name, &index.digest)?;
        made.push(&*pusher, &[&index]).await
    }
}

/// Content that was made here.
#[derive(Clone, Default)]
struct Made(HashMap<Digest, Bytes>);

impl Made {
    fn add(&mut self, media_type: MediaType, bytes: Vec<u8>) -> Descriptor {
        let desc = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        self.0.insert(desc.digest, bytes.into());
        desc
    }

    async fn push(&self, pusher: &dyn Pusher, all: &[&Descriptor]) -> Result<()> {
        for desc in all {
            let content: Arc<dyn Fetcher> = Arc::new(self.clone());
            pusher.push(desc, content, &[], Arc::new(())).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Fetcher for Made {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let Some(bytes) = self.0.get(&desc.digest) else {
            let message = format!("find {}: it was not made", desc.digest);
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Box::pin(futures_util::stream::iter([Ok(bytes.slice(at..))])))
    }
}
