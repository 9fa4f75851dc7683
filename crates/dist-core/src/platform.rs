//! Platforms: which entry of an index runs here.
//!
//! OCI image-spec, image-index.md; the normal forms are those of Go's `GOOS`, `GOARCH`.

use std::fmt;
use std::str::FromStr;

/// An operating system and a processor, with its variant.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Platform {
    /// The processor, as `GOARCH` spells it.
    pub architecture: String,
    /// The operating system, as `GOOS` spells it.
    pub os: String,
    /// The operating system's version.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// The processor's variant: `v7`, `v8`, `v3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Why a text is no [`Platform`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a platform is written os/architecture[/variant], for instance linux/arm64/v8; got {0:?}")]
pub struct PlatformError(String);

impl Platform {
    /// Makes a platform in its normal form.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        Self {
            architecture: architecture.into(),
            os: os.into(),
            os_version: None,
            os_features: None,
            variant: variant.map(Into::into),
        }
        .normalized()
    }

    /// The platform of the machine this runs on, with the processor's level.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        Self::new("linux", architecture, host_level())
    }

    /// The same platform with one spelling: `x86_64` is `amd64`, `arm64` has `v8`, `amd64` has
    /// `v1` where nothing else is said.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let mut platform = self.clone();
        platform.os = platform.os.to_ascii_lowercase();
        if platform.os == "macos" {
            platform.os = "darwin".into();
        }
        let architecture = platform.architecture.to_ascii_lowercase();
        let variant =
            platform.variant.take().map(|v| v.to_ascii_lowercase()).filter(|v| !v.is_empty());
        let (architecture, variant) = match architecture.as_str() {
            "x86_64" | "x86-64" | "amd64" => ("amd64", variant.or(Some("v1".into()))),
            "i386" | "i486" | "i586" | "i686" | "386" => ("386", None),
            "aarch64" | "arm64" => ("arm64", Some(arm_variant(variant.as_deref(), "v8"))),
            "armhf" => ("arm", Some("v7".into())),
            "armel" => ("arm", Some("v6".into())),
            "arm" => ("arm", Some(arm_variant(variant.as_deref(), "v7"))),
            other => (other, variant),
        };
        platform.architecture = architecture.into();
        platform.variant = variant;
        platform
    }

    /// How well an entry for `offered` serves this platform: lower is better, `None` not at all.
    ///
    /// A processor runs its own variant and all lower ones; `arm64` also runs 32-bit `arm`, after
    /// all of its own.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let wanted = self.normalized();
        let offered = offered.normalized();
        if wanted.os != offered.os {
            return None;
        }
        let level = |p: &Self| {
            p.variant
                .as_deref()
                .and_then(|v| v.strip_prefix('v')?.parse::<f32>().ok())
                .map(|v| (v * 10.0) as u32)
        };
        if wanted.architecture == offered.architecture {
            return match (level(&wanted), level(&offered)) {
                (Some(wanted), Some(offered)) => wanted.checked_sub(offered),
                _ => (wanted.variant == offered.variant).then_some(0),
            };
        }
        if wanted.architecture == "arm64" && offered.architecture == "arm" {
            return level(&offered).filter(|level| *level <= 80).map(|level| 1000 + 80 - level);
        }
        None
    }
}

fn arm_variant(variant: Option<&str>, default: &str) -> String {
    match variant {
        None => default.into(),
        Some(v) if v.starts_with(|c: char| c.is_ascii_digit()) => format!("v{v}"),
        Some(v) => v.into(),
    }
}

#[cfg(target_arch = "x86_64")]
fn host_level() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b")
        && has!("popcnt")
        && has!("sse3")
        && has!("sse4.1")
        && has!("sse4.2")
        && has!("ssse3");
    let v3 = v2
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    Some(match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, _, _) => "v2",
        _ => "v1",
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn host_level() -> Option<&'static str> {
    None
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some("v1") if self.architecture == "amd64" => Ok(()),
            Some("v8") if self.architecture == "arm64" => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Operating systems, and architectures, that may be said alone.
const SYSTEMS: &[&str] = &["linux", "windows", "darwin", "freebsd"];
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "wasm",
];

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        if !parts.iter().all(word) {
            return Err(PlatformError(text.into()));
        }
        match parts[..] {
            [os] if SYSTEMS.contains(&os) => Ok(Self { os: os.into(), ..Self::host() }),
            // One word that is neither is a mistake, and not an architecture that nobody has.
            [word] => {
                let known = Self::new("linux", word, None);
                let is_known = ARCHITECTURES.contains(&&*known.architecture);
                is_known.then_some(known).ok_or_else(|| PlatformError(text.into()))
            }
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(wanted: &str, offered: &str) -> Option<u32> {
        wanted.parse::<Platform>().unwrap().rank(&offered.parse().unwrap())
    }

    #[test]
    fn variants() {
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/arm64/v8", "linux/aarch64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(20));
        assert_eq!(rank("linux/amd64/v3", "linux/amd64/v3"), Some(0));
        assert!(rank("linux/arm/v7", "linux/arm/v6") > rank("linux/arm/v7", "linux/arm/v7"));
        assert!(rank("linux/arm64", "linux/arm/v7").is_some());
        assert_eq!(rank("linux/arm", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("x86_64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/riscv64", "linux/riscv64"), Some(0));
        assert_eq!(
            rank("windows", "windows/amd64").is_some(),
            Platform::host().architecture == "amd64"
        );
        assert!("foo".parse::<Platform>().is_err());
    }

    #[test]
    fn hostile_text() {
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/amd64\n", "linux//v8", "lin ux/amd64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prints_short() {
        for text in ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/amd64/v3", "linux/s390x"]
        {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
    }
}
