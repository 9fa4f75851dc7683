//! The client against a real registry: open, with faults in front of it, with
//! authentication and with TLS.

mod auth;
mod faults;
mod plain;
mod push;
mod tls;

use std::time::Duration;

use dist_core::{ByteStream, Descriptor, Resolved, Resolver, Result};
use dist_registry::{CredentialSource, Credentials, RegistryOptions, RegistryResolver};
use dist_testutil::Blob;
use futures_util::TryStreamExt;

/// Short enough for a test, long enough for a busy machine.
const STALL: Duration = Duration::from_millis(1000);

fn options() -> RegistryOptions {
    RegistryOptions {
        stall_timeout: STALL,
        retry_delay: Duration::from_millis(10),
        ..RegistryOptions::default()
    }
}

fn login(user: &str, password: &str) -> RegistryOptions {
    let credentials = CredentialSource::explicit(Credentials::password(user, password));
    RegistryOptions { credentials, ..options() }
}

fn client() -> RegistryResolver {
    RegistryResolver::new(options())
}

fn descriptor(blob: &Blob) -> Descriptor {
    serde_json::from_value(blob.descriptor()).expect("a descriptor")
}

async fn resolve(client: &RegistryResolver, name: &str) -> Result<Resolved> {
    client.resolve(name).await
}

async fn open(
    client: &RegistryResolver,
    name: &str,
    desc: &Descriptor,
    offset: u64,
) -> Result<ByteStream> {
    client.fetcher(name)?.fetch(desc, offset).await
}

/// What of the blob comes from `offset` on.
async fn fetch(
    client: &RegistryResolver,
    name: &str,
    desc: &Descriptor,
    offset: u64,
) -> Result<Vec<u8>> {
    let mut stream = open(client, name, desc, offset).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await? {
        bytes.extend_from_slice(&chunk);
        assert!(bytes.len() as u64 <= desc.size - offset, "more than the descriptor allows");
    }
    Ok(bytes)
}
