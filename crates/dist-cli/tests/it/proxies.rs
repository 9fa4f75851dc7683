//! Registries behind a real proxy, which alone knows where they are.

use std::ffi::OsStr;
use std::net::TcpListener;

use dist_testutil::{
    Certificates, Daemon, Dist, Image, Registry, RegistryOptions, require, scratch, timed,
};

use super::support::{pulled, quick};

/// No resolver has this name (RFC 6761).
const HOST: &str = "registry.test";

/// Debian's tinyproxy, which wants a password.
struct Proxy {
    port: u16,
    _daemon: Daemon,
    _dir: dist_testutil::Scratch,
}

impl Proxy {
    fn start() -> Self {
        require(&["tinyproxy", "unshare"]);
        let dir = scratch();
        let (hosts, config) = (dir.path().join("hosts"), dir.path().join("tinyproxy.conf"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("find a port");
        let port = listener.local_addr().expect("a port").port();
        drop(listener);
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth ann s3cret\nLogLevel Info\n"
        );
        std::fs::write(&hosts, format!("127.0.0.1 {HOST}\n")).expect("write the hosts");
        std::fs::write(&config, text).expect("write the config");
        let script = "mount --bind \"$0\" /etc/hosts && exec tinyproxy -d -c \"$1\"";
        let args = ["--mount", "sh", "-c", script].map(OsStr::new);
        let args = [&args[..], &[hosts.as_os_str(), config.as_os_str()]].concat();
        let (daemon, ()) = Daemon::start("unshare", &args, |line| {
            line.contains("Accepting connections").then_some(())
        });
        Self { port, _daemon: daemon, _dir: dir }
    }

    /// A client that is told of it.
    fn client(&self, password: &str) -> Dist {
        let address = format!("http://ann:{password}@127.0.0.1:{}", self.port);
        quick().env("HTTP_PROXY", &address).env("HTTPS_PROXY", &address)
    }
}

fn name(registry: &Registry, rest: &str) -> String {
    format!("{HOST}:{}/{rest}", registry.port())
}

#[test]
fn plain_http_goes_through_a_proxy_with_a_password() {
    let _timed = timed("proxies");
    let (proxy, registry, image) =
        (Proxy::start(), Registry::start(), Image::random(60, &[2 << 20]));
    image.push(&registry, "app", "1");
    let (source, copied) = (name(&registry, "app:1"), name(&registry, "other/app:2"));
    let dist = proxy.client("s3cret").with(&["--plain-http"]);
    assert_eq!(pulled(&dist.ok(&["pull", &source]).text()), image.digest());
    dist.ok(&["push", &source, &copied]);
    dist.ok(&["copy", &copied, &name(&registry, "third:3")]);
    let there = dist_testutil::request(registry.address(), "GET", "/v2/third/tags/list", &[], b"");
    assert!(String::from_utf8_lossy(&there.body).contains("\"3\""), "{:?}", there.body);
    // What is not for the proxy is asked for here, where nobody has the name.
    let direct = proxy.client("s3cret").with(&["--plain-http"]).env("NO_PROXY", HOST);
    direct.run(&["pull", &source]).exit(5).says(HOST);
    let direct = proxy.client("s3cret").with(&["--plain-http"]).env("NO_PROXY", ".test,other");
    direct.run(&["pull", &source]).exit(5).says(HOST);
    // Loopback is for no proxy.
    dist.ok(&["tags", "ls", &registry.reference("app")]);
    // Somebody the proxy does not know.
    let other = proxy.client("wr0ng").with(&["--plain-http"]).run(&["pull", &source]);
    assert_ne!(other.code, Some(0));
    assert!(!other.stderr.contains("wr0ng"), "{}", other.stderr);
}

#[test]
fn https_goes_through_a_tunnel_and_certificates_are_the_registrys() {
    let _timed = timed("proxies");
    let certificates = Certificates::new();
    let (proxy, registry) = (
        Proxy::start(),
        Registry::with(RegistryOptions {
            tls: Some(certificates.server("good", &format!("DNS:{HOST}"))),
            client_ca: Some(certificates.authority()),
            ..RegistryOptions::default()
        }),
    );
    let open = Registry::with(RegistryOptions {
        storage: Some(registry.storage().to_owned()),
        ..RegistryOptions::default()
    });
    let image = Image::random(61, &[2 << 20]);
    image.push(&open, "app", "1");
    let source = name(&registry, "app:1");
    // The registry wants to see a certificate, which goes through the tunnel alone.
    let root = scratch();
    let dir = root.path().join(format!("{HOST}:{}", registry.port()));
    std::fs::create_dir(&dir).expect("make a directory");
    let (cert, key) = certificates.server("client", "DNS:client");
    for (from, to) in
        [(&certificates.authority(), "ca.crt"), (&cert, "client.cert"), (&key, "client.key")]
    {
        std::fs::copy(from, dir.join(to)).expect("copy");
    }
    let flags = ["--hosts-dir", root.path().to_str().expect("UTF-8")];
    let dist = proxy.client("s3cret").with(&flags);
    assert_eq!(pulled(&dist.ok(&["pull", &source]).text()), image.digest());
    dist.ok(&["push", &source, &name(&registry, "pushed:1")]);
    // Without the authority the tunnel's other end is nobody.
    let other = proxy.client("s3cret").run(&["pull", &source]).exit(5);
    assert!(other.stderr.contains("certificate"), "{}", other.stderr);
    // Without a password there is no tunnel.
    let other = proxy.client("wr0ng").with(&flags).run(&["pull", &source]);
    assert_ne!(other.code, Some(0));
    assert!(!other.stderr.contains("wr0ng"), "{}", other.stderr);
}
