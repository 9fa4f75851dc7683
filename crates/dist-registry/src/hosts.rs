//! Hosts: where a registry's name leads, and which hosts may see what.
//!
//! `docker.io` is served by `registry-1.docker.io`. A registry on loopback is spoken to in http
//! unless its port is 443, every other one in https. An *origin* is scheme, host and port; a *site*
//! is what one owner may be taken to run.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// The base address `scheme://host[:port]/` of the registry called `name`.
pub(crate) fn base(name: &str, scheme: &str) -> Result<Url, url::ParseError> {
    let host = if name == "docker.io" { "registry-1.docker.io" } else { name };
    Url::parse(&format!("{scheme}://{host}/"))
}

/// Whether an address is that of the registry called `name` itself.
pub(crate) fn is_own(name: &str, address: &Url) -> bool {
    let scheme = address.scheme();
    let named = Url::parse(&format!("{scheme}://{name}/")).ok();
    let own = base(name, scheme).ok();
    [named, own].into_iter().flatten().any(|own| same_origin(&own, address))
}

/// Replaces the name of docker's registry by its host.
pub(crate) fn settle(address: &mut Url) {
    if address.host_str() == Some("docker.io") {
        // It fails for addresses without a host only.
        let _ = address.set_host(Some("registry-1.docker.io"));
    }
}

/// Whether http is the first thing to try for the registry called `name`.
pub(crate) fn prefers_http(name: &str) -> bool {
    base(name, "http").is_ok_and(|url| is_loopback(&url) && url.port() != Some(443))
}

/// Whether the address is this machine's own, by name or number.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        None => false,
    }
}

/// Whether the address is link-local, where clouds serve the secrets of the machine.
pub(crate) fn is_link_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => link_local(address.into()),
        Some(Host::Ipv6(address)) => link_local(address.into()),
        _ => false,
    }
}

/// As [`is_link_local`], of a number.
fn link_local(address: IpAddr) -> bool {
    let v4 = |address: Ipv4Addr| address.is_link_local();
    match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(v4)
        }
    }
}

/// Looks names up, and leaves link-local addresses out: a name can lead there as well.
pub(crate) struct Lookup;

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let usable: Vec<_> = found.filter(|address| !link_local(address.ip())).collect();
            if usable.is_empty() {
                return Err("it has none but link-local addresses".into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// Whether both addresses have one scheme, host and port.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether credentials for the registry at `registry` may be shown to the token server at `realm`.
///
/// Its host must be the registry's (the port may differ) or of the registry's site, and https is
/// never left.
pub(crate) fn may_see_credentials(registry: &Url, realm: &Url) -> bool {
    if registry.scheme() == "https" && realm.scheme() != "https" {
        return false;
    }
    match (registry.host(), realm.host()) {
        (Some(a), Some(b)) if a == b => true,
        (Some(Host::Domain(a)), Some(Host::Domain(b))) => {
            site(a).is_some_and(|site_a| site(b) == Some(site_a))
        }
        _ => false,
    }
}

/// The last labels of a host name that one owner can be taken to hold; at least two of them.
fn site(host: &str) -> Option<&str> {
    /// Under these anyone may have a name, so that one label more tells owners apart.
    const SHARED: &[&str] = &[
        "amazonaws.com",
        "azurecr.io",
        "azurewebsites.net",
        "cloudfront.net",
        "github.io",
        "gitlab.io",
        "googleapis.com",
        "herokuapp.com",
        "run.app",
        "scw.cloud",
        "windows.net",
    ];
    let last = |count: usize| {
        let mut starts = host.rmatch_indices('.').map(|(at, _)| at + 1);
        match starts.nth(count - 1) {
            Some(start) => Some(&host[start..]),
            None if host.split('.').count() == count => Some(host),
            None => None,
        }
    };
    let two = last(2)?;
    let (second, top) = two.split_once('.')?;
    let public = top.len() == 2
        && matches!(
            second,
            "ac" | "co" | "com" | "edu" | "go" | "gov" | "ne" | "net" | "or" | "org"
        );
    if public || SHARED.contains(&two) { last(3) } else { Some(two) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn bases() {
        assert_eq!(base("docker.io", "https").unwrap().as_str(), "https://registry-1.docker.io/");
        assert_eq!(base("[::1]:5000", "http").unwrap().as_str(), "http://[::1]:5000/");
        for (name, http) in [
            ("localhost:5000", true),
            ("127.0.0.7:80", true),
            ("[::1]:5000", true),
            ("localhost", true),
            ("localhost:443", false),
            ("ghcr.io", false),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(prefers_http(name), http, "{name}");
        }
    }

    #[test]
    fn link_local_addresses() {
        for (text, yes) in [
            ("http://169.254.169.254/x", true),
            ("http://[fe80::1]/", true),
            ("http://[::ffff:169.254.169.254]/", true),
            ("http://2852039166/", true), // the same address as one number
            ("http://10.0.0.1/", false),
            ("http://example.com/", false),
        ] {
            assert_eq!(is_link_local(&url(text)), yes, "{text}");
        }
    }

    #[test]
    fn sites() {
        for (registry, realm, yes) in [
            ("https://registry-1.docker.io/", "https://auth.docker.io/token", true),
            ("https://registry.gitlab.com/", "https://gitlab.com/jwt/auth", true),
            ("https://ghcr.io/", "https://ghcr.io/token", true),
            ("https://ghcr.io/", "http://ghcr.io/token", false),
            ("https://a.example.com/", "https://example.org/", false),
            ("https://a.co.uk/", "https://b.co.uk/", false),
            ("https://r.a.co.uk/", "https://auth.a.co.uk/", true),
            ("https://good.azurecr.io/", "https://evil.azurecr.io/", false),
            ("https://good.azurecr.io/", "https://good.azurecr.io/oauth2", true),
            ("http://localhost:5000/", "http://localhost:5001/token", true),
            ("http://127.0.0.1:5000/", "http://localhost:5001/token", false),
            ("http://127.0.0.1:5000/", "http://127.0.0.2:5000/token", false),
            ("https://10.0.0.1/", "https://10.0.0.2/", false),
            ("https://com/", "https://a.com/", false),
        ] {
            assert_eq!(may_see_credentials(&url(registry), &url(realm)), yes, "{registry} {realm}");
        }
    }
}
