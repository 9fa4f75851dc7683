//! Remotes: registries that speak the OCI distribution protocol, and OCI layout directories.
//!
//! [`RegistryResolver`] and [`LayoutResolver`] implement [`dist_core::Resolver`]. One request goes
//! through these hands: `resolver`, `fetcher` or `pusher` says what is wanted, `registry` adds what the
//! registry asks for (`auth`, `token`, `challenge`), `transport` sends it and follows redirects,
//! `retry` decides whether it is tried again, and `body` watches the answer arrive.
//!
//! Nothing here reads the environment except for proxies (`HTTP_PROXY`, `HTTPS_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`) and root certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`), and nothing
//! prints. Everything a server sends is bounded, and escaped before it reaches a message.

#![forbid(unsafe_code)]

mod auth;
mod body;
mod challenge;
pub mod credentials;
mod escape;
mod failure;
mod fetcher;
mod host_dir;
mod hosts;
mod layout;
mod login;
mod options;
mod part;
mod payload;
mod pusher;
mod registry;
mod resolver;
mod retry;
mod tls;
mod token;
mod transport;

pub use credentials::{CredentialProvider, CredentialSource, Credentials, Revealed};
pub use failure::Failure;
pub use host_dir::Purpose;
pub use layout::LayoutResolver;
pub use login::check_login;
pub use options::RegistryOptions;
pub use resolver::RegistryResolver;
