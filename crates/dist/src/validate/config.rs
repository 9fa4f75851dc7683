//! Image configs: config.md.

use dist_core::{Descriptor, DiffId, Platform};
use serde_json::{Map, Value};

use super::Flaw;
use super::document::{Notes, digest, is_time, kind, usual_name};
use super::json::below;

const CONFIG: &str = "config.md#properties";
const PLATFORM: &str = "image-index.md#image-index-property-descriptions";

/// What is known of a config's image.
pub(super) struct About<'a> {
    /// The platform that an index says its manifest is for.
    pub(super) platform: Option<&'a Platform>,
    pub(super) layers: Option<&'a [Descriptor]>,
    /// Whether its layers are statements about another image: such a thing runs nowhere, and cosign
    /// leaves its platform empty.
    pub(super) is_of_statements: bool,
}

/// Looks at a config. Returns its diff IDs, as far as they can be read.
pub(super) fn check(
    value: &Value,
    desc: &Descriptor,
    about: &About<'_>,
    flaws: &mut Vec<Flaw>,
) -> Vec<Option<DiffId>> {
    let About { platform, layers, is_of_statements } = *about;
    let mut notes = Notes { desc, flaws };
    let Value::Object(object) = value else {
        notes.error("", format!("it is {}, not an object", kind(value)), CONFIG);
        return Vec::new();
    };
    for key in ["architecture", "os"] {
        if !object.contains_key(key) {
            notes.error(key, "it is missing", CONFIG);
        }
    }
    for key in ["architecture", "os", "os.version", "variant", "author"] {
        let Some(text) = notes.text(object, key, "", CONFIG) else { continue };
        let is_unsaid = is_of_statements && text.is_empty();
        if key != "author" && !is_unsaid {
            usual_name(key, text, key, &mut notes, CONFIG);
        }
    }
    created(object, "", &mut notes);
    if let Some(platform) = platform {
        compare(object, platform, &mut notes);
    }
    settings(object, &mut notes);
    let diff_ids = rootfs(object, &mut notes);
    let count = diff_ids.as_ref().map(Vec::len);
    if let (Some(count), Some(layers)) = (count, layers)
        && count != layers.len()
    {
        let what = format!("it has {count} diff IDs, the manifest {} layers", layers.len());
        notes.error("rootfs.diff_ids", what, CONFIG);
    }
    let layers = count.or(layers.map(<[Descriptor]>::len));
    history(object, layers, &mut notes);
    diff_ids.unwrap_or_default()
}

fn created(object: &Map<String, Value>, place: &str, notes: &mut Notes<'_>) {
    if object.get("created").is_some_and(Value::is_null) {
        return; // Docker's builders write it.
    }
    if let Some(text) = notes.text(object, "created", place, CONFIG)
        && !is_time(text)
    {
        let what = format!("{text:?} is no time as RFC 3339 has it");
        notes.error(&below(place, "created"), what, CONFIG);
    }
}

/// Compares the platform with the one that the index says.
fn compare(object: &Map<String, Value>, said: &Platform, notes: &mut Notes<'_>) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(os), Some(architecture)) = (text("os"), text("architecture")) else { return };
    let own = Platform::new(os, architecture, text("variant"));
    let named = Platform::new(&said.os, &said.architecture, said.variant.as_deref());
    let pairs = [
        ("os", Some(own.os), Some(named.os)),
        ("architecture", Some(own.architecture), Some(named.architecture)),
    ];
    for (key, own, named) in pairs {
        if own != named {
            let (own, named) = (own.unwrap_or_default(), named.unwrap_or_default());
            let what = format!("it is {own:?}, but the index says {named:?}");
            notes.error(key, what, PLATFORM);
        }
    }
    if let (Some(own), Some(named)) = (text("variant"), said.variant.as_deref())
        && own != named
    {
        let what = format!("it is {own:?}, but the index says {named:?}");
        notes.warn("variant", what, PLATFORM);
    }
    if let (Some(own), Some(named)) = (text("os.version"), said.os_version.as_deref())
        && own != named
    {
        let what = format!("it is {own:?}, but the index says {named:?}");
        notes.warn("os.version", what, PLATFORM);
    }
}

fn rootfs(object: &Map<String, Value>, notes: &mut Notes<'_>) -> Option<Vec<Option<DiffId>>> {
    let rootfs = match object.get("rootfs") {
        Some(Value::Object(rootfs)) => rootfs,
        Some(other) => {
            notes.error("rootfs", format!("it is {}, not an object", kind(other)), CONFIG);
            return None;
        }
        None => {
            notes.error("rootfs", "it is missing", CONFIG);
            return None;
        }
    };
    match rootfs.get("type") {
        Some(Value::String(text)) if text == "layers" => {}
        Some(other) => notes.error("rootfs.type", format!("it is {other}, not \"layers\""), CONFIG),
        None => notes.error("rootfs.type", "it is missing", CONFIG),
    }
    match rootfs.get("diff_ids") {
        Some(Value::Array(values)) => {
            let read = |(at, value): (usize, &Value)| {
                let place = format!("rootfs.diff_ids[{at}]");
                match value {
                    Value::String(text) => digest(text, &place, notes).map(DiffId),
                    other => {
                        let what = format!("it is {}, not a string", kind(other));
                        notes.error(&place, what, CONFIG);
                        None
                    }
                }
            };
            Some(values.iter().enumerate().map(read).collect())
        }
        Some(Value::Null) => {
            notes.warn("rootfs.diff_ids", "it is null, not an empty array", CONFIG);
            Some(Vec::new())
        }
        Some(other) => {
            let what = format!("it is {}, not an array", kind(other));
            notes.error("rootfs.diff_ids", what, CONFIG);
            None
        }
        None => {
            notes.error("rootfs.diff_ids", "it is missing", CONFIG);
            None
        }
    }
}

fn history(object: &Map<String, Value>, layers: Option<usize>, notes: &mut Notes<'_>) {
    let steps = match object.get("history") {
        None | Some(Value::Null) => return,
        Some(Value::Array(steps)) => steps,
        Some(other) => {
            notes.error("history", format!("it is {}, not an array", kind(other)), CONFIG);
            return;
        }
    };
    let mut made = 0;
    for (at, step) in steps.iter().enumerate() {
        let place = format!("history[{at}]");
        let Value::Object(step) = step else {
            notes.error(&place, format!("it is {}, not an object", kind(step)), CONFIG);
            continue;
        };
        created(step, &place, notes);
        for key in ["author", "created_by", "comment"] {
            notes.text(step, key, &place, CONFIG);
        }
        match step.get("empty_layer") {
            None | Some(Value::Bool(false)) => made += 1,
            Some(Value::Bool(true)) => {}
            Some(other) => {
                let what = format!("it is {}, not a boolean", kind(other));
                notes.error(&below(&place, "empty_layer"), what, CONFIG);
            }
        }
    }
    if let Some(layers) = layers.filter(|layers| *layers != made) {
        let what = format!("{made} of its steps made a layer, there are {layers} layers");
        notes.warn("history", what, CONFIG);
    }
}

/// The image's own settings for containers.
fn settings(object: &Map<String, Value>, notes: &mut Notes<'_>) {
    let settings = match object.get("config") {
        None | Some(Value::Null) => return,
        Some(Value::Object(settings)) => settings,
        Some(other) => {
            notes.error("config", format!("it is {}, not an object", kind(other)), CONFIG);
            return;
        }
    };
    for key in ["User", "WorkingDir", "StopSignal"] {
        notes.text(settings, key, "config", CONFIG);
    }
    for key in ["Env", "Entrypoint", "Cmd"] {
        let place = below("config", key);
        let values = match settings.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(values)) => values,
            Some(other) => {
                notes.error(&place, format!("it is {}, not an array", kind(other)), CONFIG);
                continue;
            }
        };
        for (at, value) in values.iter().enumerate() {
            let place = format!("{place}[{at}]");
            match value {
                Value::String(text) if key == "Env" && !is_variable(text) => {
                    notes.error(&place, format!("{text:?} is not NAME=VALUE"), CONFIG);
                }
                Value::String(_) => {}
                other => {
                    notes.error(&place, format!("it is {}, not a string", kind(other)), CONFIG);
                }
            }
        }
    }
    for key in ["ExposedPorts", "Volumes", "Labels"] {
        let place = below("config", key);
        let members = match settings.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(members)) => members,
            Some(other) => {
                notes.error(&place, format!("it is {}, not an object", kind(other)), CONFIG);
                continue;
            }
        };
        for (name, value) in members {
            let place = below(&place, name);
            let is_good = match key {
                "Labels" => value.is_string(),
                _ => value.is_object(),
            };
            if !is_good {
                let wanted = if key == "Labels" { "a string" } else { "an object" };
                notes.error(&place, format!("it is {}, not {wanted}", kind(value)), CONFIG);
            }
            if key == "ExposedPorts" && !is_port(name) {
                notes.error(&place, "its name is not PORT, PORT/tcp or PORT/udp", CONFIG);
            }
        }
    }
}

fn is_variable(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| !name.is_empty())
}

fn is_port(text: &str) -> bool {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let is_range = port.split('-').all(|port| port.parse::<u16>().is_ok());
    is_range && matches!(protocol, "tcp" | "udp" | "sctp")
}

#[cfg(test)]
mod tests {
    use dist_core::{Digest, MediaType};
    use dist_layer::Severity;
    use serde_json::json;

    use super::*;

    /// The places of what is wrong with a config of one layer.
    fn places(change: impl FnOnce(&mut Value)) -> Vec<(Severity, String)> {
        let layer = Digest::sha256(b"layer");
        let mut config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": { "Env": ["A=b"], "Labels": { "a": "b" }, "ExposedPorts": { "80/tcp": {} } },
            "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
            "history": [{ "created_by": "x" }, { "empty_layer": true }],
        });
        change(&mut config);
        let layers = [Descriptor::new(MediaType::Layer(dist_core::Compression::Gzip), layer, 1)];
        let desc = Descriptor::new(MediaType::Config, layer, 1);
        let mut flaws = Vec::new();
        let platform = Platform::new("linux", "amd64", None);
        let about =
            About { platform: Some(&platform), layers: Some(&layers), is_of_statements: false };
        check(&config, &desc, &about, &mut flaws);
        flaws.into_iter().map(|flaw| (flaw.severity, flaw.place)).collect()
    }

    #[test]
    fn each_fault_is_told_at_its_place() {
        assert_eq!(places(|_| {}), []);
        type Change = fn(&mut Value);
        let table: &[(Change, &str)] = &[
            (|c| c["architecture"] = "arm64".into(), "architecture"),
            (|c| c["os"] = Value::Null, "os"),
            (|c| c["created"] = "today".into(), "created"),
            (|c| c["config"]["Env"][0] = "A".into(), "config.Env[0]"),
            (|c| c["config"]["Cmd"] = "sh".into(), "config.Cmd"),
            (|c| c["config"]["Labels"]["a"] = 1.into(), "config.Labels.a"),
            (|c| c["config"]["ExposedPorts"] = json!({ "web": {} }), "config.ExposedPorts.web"),
            (|c| c["rootfs"]["type"] = "other".into(), "rootfs.type"),
            (|c| c["rootfs"]["diff_ids"][0] = "sha256:1".into(), "rootfs.diff_ids[0]"),
            (|c| c["rootfs"] = json!(1), "rootfs"),
            (|c| c["history"][0]["created"] = "x".into(), "history[0].created"),
            (|c| c["history"][1]["empty_layer"] = 1.into(), "history[1].empty_layer"),
        ];
        for (change, place) in table {
            assert_eq!(places(change), [(Severity::Error, (*place).to_owned())]);
        }
        let short = places(|c| c["history"][1]["empty_layer"] = false.into());
        assert_eq!(short, [(Severity::Warning, "history".to_owned())]);
        let many = places(|c| c["rootfs"]["diff_ids"] = json!([]));
        assert!(many.contains(&(Severity::Error, "rootfs.diff_ids".to_owned())));
    }
}
