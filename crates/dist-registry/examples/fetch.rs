//! Fetches everything that a name stands for, checks it, and prints what came.
//!
//! `cargo run -p dist-registry --example fetch -- [--user USER:PASSWORD] [--stall-ms N] NAME`,
//! where NAME is that of an image in a registry or `oci:path[:tag]`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example prints")]

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use dist_core::{Descriptor, Document, Fetcher, Resolver, scheme};
use dist_registry::{
    CredentialSource, Credentials, LayoutResolver, RegistryOptions, RegistryResolver,
};
use futures_util::StreamExt;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let kind = error.downcast_ref::<dist_core::Error>().map(dist_core::Error::kind);
            eprintln!("kind: {kind:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let mut options = RegistryOptions::default();
    let mut args = std::env::args().skip(1);
    let mut name = String::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--user" => {
                let pair = args.next().context("--user needs a value")?;
                let (user, password) = pair.split_once(':').context("--user is USER:PASSWORD")?;
                options.credentials =
                    CredentialSource::explicit(Credentials::password(user, password));
            }
            "--stall-ms" => {
                let text = args.next().context("--stall-ms needs a value")?;
                options.stall_timeout = Duration::from_millis(text.parse()?);
            }
            "--ca-cert" => options.ca_certs.push(args.next().context("a path")?.into()),
            "--insecure" => options.insecure = true,
            "--plain-http" => options.plain_http = true,
            _ => name = arg,
        }
    }
    let (resolver, name): (Box<dyn Resolver>, &str) = match scheme(&name, &["oci"]) {
        Some((_, rest)) => (Box::new(LayoutResolver::new()), rest),
        None => (Box::new(RegistryResolver::new(options)), &name),
    };
    let resolved = resolver.resolve(name).await?;
    println!("{}: {} {}", resolved.name, resolved.target.media_type, resolved.target.digest);
    let fetcher = resolver.fetcher(name)?;
    let mut seen = HashSet::new();
    let mut next = vec![resolved.target];
    while let Some(desc) = next.pop() {
        if !seen.insert(desc.digest) {
            continue;
        }
        let bytes = fetch(&fetcher, &desc).await?;
        println!("{} {} {} bytes", desc.media_type.noun(), desc.digest, desc.size);
        if desc.media_type.is_index() || desc.media_type.is_manifest() {
            next.extend(Document::parse(&desc.media_type, &bytes)?.children());
        }
    }
    Ok(())
}

/// Reads and checks one blob; documents are returned, layers only hashed.
async fn fetch(fetcher: &Arc<dyn Fetcher>, desc: &Descriptor) -> anyhow::Result<Vec<u8>> {
    let keep = desc.media_type.is_index() || desc.media_type.is_manifest();
    let (mut hasher, mut size, mut bytes) = (desc.digest.hasher(), 0, Vec::new());
    let mut stream = fetcher.fetch(desc, 0).await?;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        size += chunk.len() as u64;
        if keep {
            bytes.extend_from_slice(&chunk);
        }
    }
    let got = hasher.finish();
    if size != desc.size || got != desc.digest {
        bail!("corrupt: expected {} of {} bytes, got {got} of {size}", desc.digest, desc.size);
    }
    Ok(bytes)
}
