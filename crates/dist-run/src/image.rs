//! The part of an image's config that says how it is run (OCI image-spec, config.md).

use std::collections::BTreeMap;

use dist_core::{Context as _, ErrorKind, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// An image's config, as far as a container needs it. What is `null` there is as if it were not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageSettings {
    /// The operating system.
    pub os: Option<String>,
    /// The architecture, by Go's name.
    pub architecture: Option<String>,
    /// The variant of the architecture.
    pub variant: Option<String>,
    /// The version of the operating system.
    #[serde(rename = "os.version")]
    pub os_version: Option<String>,
    /// What the operating system must have.
    #[serde(rename = "os.features")]
    pub os_features: Option<Vec<String>>,
    /// Who made it.
    pub author: Option<String>,
    /// When it was made, in RFC 3339.
    pub created: Option<String>,
    /// The defaults of a container.
    pub config: Option<Settings>,
}

/// The defaults of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Settings {
    /// `user`, `uid`, and perhaps `:group` or `:gid`.
    pub user: Option<String>,
    /// Ports, as `6379/tcp`.
    pub exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// The first words of the command.
    pub entrypoint: Option<Vec<String>>,
    /// The words after them, which arguments replace.
    pub cmd: Option<Vec<String>>,
    /// Directories for data that is not the image's.
    pub volumes: Option<BTreeMap<String, IgnoredAny>>,
    /// Where the command starts.
    pub working_dir: Option<String>,
    /// Annotations.
    pub labels: Option<BTreeMap<String, String>>,
    /// What asks the command to stop.
    pub stop_signal: Option<String>,
}

impl ImageSettings {
    /// Reads the raw bytes of an image config.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .context(ErrorKind::Corrupt, || "read how the image is run: not valid".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_is_not_there() {
        let config =
            br#"{"os":"linux","config":{"User":"","Env":null,"Cmd":["sh"],"Volumes":{"/data":{}},
            "ExposedPorts":null,"Healthcheck":{"Test":["x"]}},"history":[]}"#;
        let settings = ImageSettings::parse(config).unwrap().config.unwrap();
        assert_eq!(settings.env, None);
        assert_eq!(settings.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert!(settings.volumes.unwrap().contains_key("/data"));
        assert!(ImageSettings::parse(br#"{"config":null}"#).unwrap().config.is_none());
        assert_eq!(ImageSettings::parse(b"[").unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(ImageSettings::parse(br#"{"config":{"Cmd":"sh"}}"#).is_err());
    }
}
