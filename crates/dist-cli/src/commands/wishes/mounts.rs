//! Mounts as they are typed.

use dist_run::Mount;

use crate::units::parse_memory;

/// What a bind mount may be: those flags of mount(8) that a runtime sets again, and how mounts spread.
const OF_BIND: [&str; 26] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "nodiratime",
    "diratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nosymfollow",
    "symfollow",
    "bind",
    "rbind",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
];

/// `SOURCE:TARGET[:OPTIONS]`.
pub(super) fn parse_volume(text: &str) -> Result<Mount, String> {
    let mut parts = text.split(':');
    let (Some(source), Some(target), options, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("write it as SOURCE:TARGET or SOURCE:TARGET:ro".into());
    };
    let mut read_only = false;
    for option in options.unwrap_or_default().split(',') {
        match option {
            "" | "rw" => (),
            "ro" => read_only = true,
            other => return Err(format!("{other:?} is not known; rw and ro are")),
        }
    }
    bind(source, target, read_only)
}

/// `KEY=VALUE,...`, as docker and podman have it.
pub(super) fn parse_mount(text: &str) -> Result<Mount, String> {
    let (mut kind, mut source, mut target) = (None, None, None);
    let (mut read_only, mut options, mut of_tmpfs) = (false, Vec::new(), None);
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name {
            "type" => kind = Some(value),
            "source" | "src" => source = Some(value),
            "target" | "destination" | "dst" => target = Some(value),
            "readonly" | "ro" if matches!(value, "" | "true" | "1") => read_only = true,
            "readonly" | "ro" if matches!(value, "false" | "0") => read_only = false,
            "tmpfs-size" => {
                options.push(format!("size={}", parse_memory(value)?));
                of_tmpfs = Some(name);
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                let mode =
                    mode.ok_or_else(|| format!("{value:?} is no mode; 1777 would be one"))?;
                options.push(format!("mode={mode:o}"));
                of_tmpfs = Some(name);
            }
            "options" => options.extend(value.split(':').map(str::to_owned)),
            other => return Err(format!("{other:?} is not known in a mount")),
        }
    }
    let Some(target) = target else { return Err("the target is missing".into()) };
    let mut mount = match (kind.unwrap_or("bind"), source) {
        ("bind", _) if of_tmpfs.is_some() => {
            return Err(format!("{} is for type=tmpfs", of_tmpfs.unwrap_or_default()));
        }
        ("bind", Some(source)) => {
            if let Some(odd) = options.iter().find(|option| !OF_BIND.contains(&option.as_str())) {
                return Err(format!("{odd:?} is no option of type=bind"));
            }
            bind(source, target, read_only)?
        }
        ("bind", None) => return Err("the source is missing".into()),
        ("tmpfs", _) => {
            check_target(target)?;
            let mut options = vec!["nosuid".to_owned(), "nodev".to_owned()];
            options.extend(read_only.then(|| "ro".to_owned()));
            Mount {
                destination: target.to_owned(),
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                options,
            }
        }
        (other, _) => return Err(format!("type {other:?} is not known; bind and tmpfs are")),
    };
    mount.options.extend(options);
    Ok(mount)
}

fn bind(source: &str, target: &str, read_only: bool) -> Result<Mount, String> {
    check_target(target)?;
    if !source.contains('/') && !matches!(source, "." | "..") {
        return Err(format!("{source:?} is no path; ./{source} would be one"));
    }
    let source = fs_err::canonicalize(source).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{source} is not there"),
        _ => error.to_string(),
    })?;
    Ok(Mount::bind(source, target, read_only))
}

fn check_target(target: &str) -> Result<(), String> {
    if target.starts_with('/') && target.len() > 1 {
        return Ok(());
    }
    Err(format!("the target {target:?} is no absolute path below /"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_volumes() {
        let bound = Mount::bind("/usr", "/data", true);
        for text in ["type=bind,src=/usr,dst=/data,ro", "source=/usr,target=/data,readonly=true"] {
            assert_eq!(parse_mount(text).unwrap(), bound, "{text}");
        }
        assert_eq!(parse_volume("/usr/bin/..:/data:ro").unwrap(), bound);
        assert!(parse_volume(".:/data").is_ok() && parse_volume("..:/data").is_ok());
        assert_eq!(parse_volume("/usr:/data").unwrap(), Mount::bind("/usr", "/data", false));
        let tmpfs = parse_mount("type=tmpfs,target=/t,options=size=1m:noexec").unwrap();
        assert_eq!(tmpfs.options, ["nosuid", "nodev", "size=1m", "noexec"]);
        let tmpfs = parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700").unwrap();
        assert_eq!(tmpfs.options, ["nosuid", "nodev", "size=1048576", "mode=700"]);
        for text in
            ["", "/usr", "usr:/data", "/usr:data", "/usr:/", "/usr:/d:zz", "/no:/d", "a:b:c:d"]
        {
            assert!(parse_volume(text).is_err(), "{text}");
        }
        for text in ["type=bind,dst=/d", "src=/usr", "type=volume,src=/usr,dst=/d", "x=1", ""] {
            assert!(parse_mount(text).is_err(), "{text}");
        }
        assert!(parse_mount("src=/usr,dst=/d,options=noexec:rslave").is_ok());
        for text in ["src=/usr,dst=/d,options=noexec:nosuch", "src=/usr,dst=/d,options="] {
            assert!(parse_mount(text).is_err(), "{text}");
        }
        for text in ["src=/usr,dst=/d,tmpfs-size=1m", "type=tmpfs,dst=/t,tmpfs-mode=9"] {
            assert!(parse_mount(text).is_err(), "{text}");
        }
    }
}
