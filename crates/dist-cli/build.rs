//! Hands `git describe` to the version command; a tree without git has the package's version.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    // What writes the index would be a change by itself.
    let output = Command::new("git").arg("--no-optional-locks").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    let version = format!("v{}", std::env::var("CARGO_PKG_VERSION").unwrap_or_default());
    // `git describe --dirty` writes the index, whatever the option says; the status does not.
    let modified = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
    let described = git(&["describe", "--match", "v[0-9]*", "--always"])
        .map(|text| if modified { format!("{text}.m") } else { text });
    let described = match described {
        // Without a tag there is only the commit; the package's version says more.
        Some(text) if !text.starts_with('v') => format!("{version}-g{text}"),
        Some(text) => text,
        None => version,
    };
    println!("cargo::rustc-env=DIST_VERSION={described}");
    let revision = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let mark = if modified { ".m" } else { "" };
    println!("cargo::rustc-env=DIST_REVISION={revision}{mark}");
    println!("cargo::rerun-if-changed=build.rs");
    // A position-independent program of this size has 40,000 relative relocations: 1 MiB to read at
    // each start, or 10 KiB in the compact form (glibc 2.36, Debian 12).
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    for name in ["HEAD", "index", "packed-refs"] {
        // Cargo takes a path that does not exist for one that has changed.
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && std::path::Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
