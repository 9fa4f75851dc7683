//! Mounts as commands for a shell.

use std::path::{Path, PathBuf};

use dist_core::Mount;

/// Above this the options are written relative to a directory they share. A little less than a
/// page, because `mount(8)` adds words of its own.
const LONG_OPTION_BYTES: usize = 4000;

/// Prints `mounts` on `target` as commands for a POSIX shell and `mount(8)`, one a line, quoted.
///
/// Directories that don't fit one page of options are written relative to the one they share, and
/// the command changes there in a subshell.
#[must_use]
pub fn commands(mounts: &[Mount], target: &Path) -> Vec<String> {
    let target = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    mounts.iter().map(|mount| command(mount, &super::place(mount, &target))).collect()
}

fn command(mount: &Mount, place: &Path) -> String {
    let options = mount.options.join(",");
    let line = |options: &str| {
        format!(
            "mount -t {} {} {} -o {}",
            quote(&mount.fstype),
            quote(&mount.source.to_string_lossy()),
            quote(&place.to_string_lossy()),
            quote(options),
        )
    };
    match shared_dir(mount) {
        Some(shared) if options.len() > LONG_OPTION_BYTES => {
            let relative: Vec<String> =
                mount.options.iter().map(|option| relative(option, &shared)).collect();
            format!("(cd {} && {})", quote(&shared.to_string_lossy()), line(&relative.join(",")))
        }
        _ => line(&options),
    }
}

/// The values of the options that name directories.
fn dirs(option: &str) -> Option<(&str, impl Iterator<Item = &Path>)> {
    let (name, value) = option.split_once('=')?;
    name.ends_with("dir").then(|| (name, value.split(':').map(Path::new)))
}

fn relative(option: &str, shared: &Path) -> String {
    let Some((name, dirs)) = dirs(option) else { return option.to_owned() };
    let dirs: Vec<_> =
        dirs.map(|dir| dir.strip_prefix(shared).unwrap_or(dir).to_string_lossy()).collect();
    format!("{name}={}", dirs.join(":"))
}

/// The deepest directory that holds all directories the options name.
fn shared_dir(mount: &Mount) -> Option<PathBuf> {
    let mut all = mount.options.iter().filter_map(|option| dirs(option)).flat_map(|(_, dirs)| dirs);
    let mut shared = all.next()?.parent()?;
    for dir in all {
        while !dir.starts_with(shared) {
            shared = shared.parent()?;
        }
    }
    shared.is_absolute().then(|| shared.to_owned())
}

/// Quotes a word for a POSIX shell, where that is needed.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(layers: usize) -> Mount {
        let lower: Vec<_> = (0..layers).map(|id| format!("/r/my root/{id}/fs")).collect();
        Mount {
            fstype: "overlay".into(),
            source: "overlay".into(),
            target: None,
            options: vec![
                "workdir=/r/my root/900/work".into(),
                "upperdir=/r/my root/900/fs".into(),
                format!("lowerdir={}", lower.join(":")),
                "index=off".into(),
            ],
        }
    }

    #[test]
    fn short_commands_name_whole_paths() {
        assert_eq!(
            commands(&[overlay(2)], Path::new("/mnt/it's")),
            [
                r"mount -t overlay overlay '/mnt/it'\''s' -o 'workdir=/r/my root/900/work,upperdir=/r/my root/900/fs,lowerdir=/r/my root/0/fs:/r/my root/1/fs,index=off'"
            ]
        );
        let bind = Mount {
            fstype: "bind".into(),
            source: "/r/1/fs".into(),
            target: Some("/sub".into()),
            options: vec!["ro".into(), "rbind".into()],
        };
        assert_eq!(
            commands(&[bind], Path::new("/mnt")),
            ["mount -t bind /r/1/fs /mnt/sub -o ro,rbind"]
        );
    }

    #[test]
    fn long_commands_change_directory() {
        let [command] = &commands(&[overlay(400)], Path::new("/mnt"))[..] else { panic!() };
        assert!(command.starts_with("(cd '/r/my root' && mount -t overlay overlay /mnt -o "));
        assert!(command.contains("upperdir=900/fs,lowerdir=0/fs:1/fs:"), "{command}");
        assert!(command.ends_with("399/fs,index=off)"), "{command}");
        assert!(command.len() < LONG_OPTION_BYTES);
    }
}
