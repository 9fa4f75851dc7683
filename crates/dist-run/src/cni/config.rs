//! The files that describe networks.

use std::path::Path;

use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};
use serde_json::{Map, Value, json};

use super::NetworkConfig;

/// The network that is there where nobody describes one.
const BRIDGE: &str = "bridge";

/// Finds the network `name` in the files of `dir`, of which the first by name counts.
pub(super) fn find(dir: &Path, name: &str) -> Result<NetworkConfig> {
    let what = || format!("look for networks in {}", dir.display());
    let mut paths: Vec<_> = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .context(ErrorKind::Storage, what)?,
    };
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json"))
    });
    paths.sort();
    let mut others = Vec::new();
    for path in paths {
        let what = || format!("read network {}", path.display());
        let text = std::fs::read(&path).context(ErrorKind::Storage, what)?;
        match parse(&text).during(what) {
            Ok(network) if network.name == name => return Ok(network),
            Ok(network) if others.contains(&network.name) => (),
            Ok(network) => others.push(network.name),
            // Another's file that is not valid is not what was asked for.
            Err(error) => tracing::debug!(?error, "a network was passed over"),
        }
    }
    if name == BRIDGE {
        return Ok(bridge());
    }
    if !others.iter().any(|other| other == BRIDGE) {
        others.push(BRIDGE.to_owned());
    }
    let message = format!(
        "find network {name:?} in {}: there is none; there are host, none, {}",
        dir.display(),
        others.join(", ")
    );
    Err(Error::new(ErrorKind::InvalidArgument, message))
}

/// Reads a list of plugins, or a file that describes one.
fn parse(text: &[u8]) -> Result<NetworkConfig> {
    let what = || "it is no list of plugins".into();
    let value: Map<String, Value> =
        serde_json::from_slice(text).context(ErrorKind::InvalidArgument, what)?;
    let word = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let plugins = match value.get("plugins") {
        Some(plugins) => {
            serde_json::from_value(plugins.clone()).context(ErrorKind::InvalidArgument, what)?
        }
        None => vec![value.clone()],
    };
    let plugins: Vec<Map<String, Value>> = plugins;
    let has_types = plugins.iter().all(|plugin| plugin.get("type").is_some_and(Value::is_string));
    if word("name").is_empty() || plugins.is_empty() || !has_types {
        let message = "it has no name, or a plugin without a type";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let version = if word("cniVersion").is_empty() { "0.2.0" } else { word("cniVersion") };
    Ok(NetworkConfig { name: word("name").into(), version: version.into(), plugins })
}

/// A bridge of ours, from which containers reach each other, this machine and what it reaches.
fn bridge() -> NetworkConfig {
    let bridge = json!({
        "type": "bridge",
        "bridge": "dist0",
        "isGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.87.0.0/16"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let plugins = [bridge, json!({"type": "firewall"})];
    NetworkConfig {
        name: BRIDGE.into(),
        version: "0.4.0".into(),
        plugins: plugins.iter().filter_map(Value::as_object).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let find = |name| find(dir.path(), name);
        assert_eq!(find("bridge").unwrap().plugins.len(), 2);
        let error = find("lan").unwrap_err();
        assert!(error.to_string().ends_with("there are host, none, bridge"), "{error}");
        for (file, text) in [
            (
                "10-lan.conflist",
                r#"{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"a"},{"type":"b"}]}"#,
            ),
            ("20-one.conf", r#"{"name":"one","type":"ptp","mtu":9}"#),
            ("30-bridge.conflist", r#"{"name":"bridge","plugins":[{"type":"mine"}]}"#),
            ("40-lan.conflist", r#"{"name":"lan","plugins":[{"type":"later"}]}"#),
            ("50-broken.conflist", r#"{"name":"broken","plugins":[{}]}"#),
            ("60-text.conflist", "text"),
            ("README", "no network"),
        ] {
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let lan = find("lan").unwrap();
        assert_eq!((lan.version.as_str(), lan.plugins.len()), ("1.0.0", 2));
        let one = find("one").unwrap();
        assert_eq!((one.version.as_str(), &one.plugins[0]["mtu"]), ("0.2.0", &json!(9)));
        assert_eq!(find("bridge").unwrap().plugins[0]["type"], "mine");
        let error = find("broken").unwrap_err();
        assert!(error.to_string().contains("there are host, none, lan, one, bridge"), "{error}");
        super::find(Path::new("/no/such/directory"), "bridge").unwrap();
    }
}
