//! Remotes: registries that speak the OCI distribution protocol, OCI layout directories, and files and
//! layouts on web servers.
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
mod budget;
mod catalog;
mod challenge;
pub mod credentials;
mod download;
mod escape;
mod failure;
mod feed;
mod fetcher;
mod gate;
mod heard;
mod held;
mod host;
mod host_dir;
mod hosts;
mod layout;
mod layout_index;
mod layout_push;
mod left;
mod limits;
mod login;
mod options;
mod part;
mod payload;
mod pusher;
mod referrers;
mod registries_conf;
mod registry;
mod resolver;
mod retry;
mod route;
mod short_names;
mod tls;
mod token;
mod transport;
mod untag;
mod upload;
mod version;
mod web;
mod web_layout;

pub use budget::Budget;
pub use credentials::{CredentialProvider, CredentialSource, Credentials, Revealed};
pub use failure::Failure;
pub use held::{HeldContent, file_stream};
pub use host::{Capabilities, ClientCert, Place, RegistryHost, RegistryHosts};
pub use layout::LayoutResolver;
pub use limits::Limits;
pub use login::check_login;
pub use options::RegistryOptions;
pub use referrers::{is_attachment_tag, read_referrers};
pub use registries_conf::{RegistriesFiles, ShortNameMode};
pub use resolver::RegistryResolver;
pub use route::Served;
pub use short_names::Meant;
pub use web::{WebAddress, WebFile, WebFiles};
