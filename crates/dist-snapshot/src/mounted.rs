//! Which mounts use a directory.
//!
//! What is mounted from a directory is not seen there: an overlay keeps those that it was made of,
//! a bind mount the one that it shows, and neither notices that another has taken its name. Only
//! the tables of mounts tell of it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Where something is mounted that uses `dir` or what is in it, in any mount namespace that this
/// process may look into.
///
/// An overlay that was given relative paths or descriptors is not recognised: they are all that
/// the kernel shows of it.
pub(crate) fn user_of(dir: &Path) -> Option<PathBuf> {
    let own = Table::read("self")?;
    // The directory itself may be lost.
    let real = dir
        .parent()
        .zip(dir.file_name())
        .and_then(|(parent, name)| Some(parent.canonicalize().ok()?.join(name)));
    let used = Used { given: dir, real: real.as_deref().unwrap_or(dir), place: None };
    let used = Used { place: own.place_of(used.real), ..used };
    own.user_of(&used).or_else(|| others().iter().find_map(|table| table.user_of(&used)))
}

/// The tables of the other mount namespaces.
fn others() -> Vec<Table> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let mut seen: HashSet<PathBuf> = namespace("self").into_iter().collect();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| seen.insert(namespace(&pid)?).then(|| Table::read(&pid))?)
        .collect()
}

/// A directory under all names that a mount can know it by.
struct Used<'a> {
    given: &'a Path,
    real: &'a Path,
    /// Its file system, and its path in that.
    place: Option<(Vec<u8>, PathBuf)>,
}

impl Used<'_> {
    fn holds(&self, path: &Path) -> bool {
        path.starts_with(self.given)
            || path.starts_with(self.real)
            || path.canonicalize().is_ok_and(|path| path.starts_with(self.real))
    }
}

/// The mounts of one namespace.
struct Table(Vec<Entry>);

/// One line of a `mountinfo`.
struct Entry {
    device: Vec<u8>,
    /// What of the file system is mounted.
    root: PathBuf,
    target: PathBuf,
    overlay: bool,
    options: Vec<u8>,
}

impl Table {
    /// `None` where it can't be read: the process has ended, or is another user's.
    fn read(pid: &str) -> Option<Self> {
        let text = std::fs::read(format!("/proc/{pid}/mountinfo")).ok()?;
        Some(Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        Self(text.split(|&byte| byte == b'\n').filter_map(Entry::parse).collect())
    }

    /// The file system that a path is on, and its path there.
    fn place_of(&self, path: &Path) -> Option<(Vec<u8>, PathBuf)> {
        // The last of several on one directory covers those before it.
        let over = self
            .0
            .iter()
            .filter(|entry| path.starts_with(&entry.target))
            .max_by_key(|entry| entry.target.components().count())?;
        let below = path.strip_prefix(&over.target).ok()?;
        Some((over.device.clone(), over.root.join(below)))
    }

    fn user_of(&self, used: &Used<'_>) -> Option<PathBuf> {
        // What is mounted on the directory itself does not use it.
        let mut others =
            self.0.iter().filter(|entry| ![used.given, used.real].contains(&&*entry.target));
        others.find(|entry| entry.uses(used)).map(|entry| entry.target.clone())
    }
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ').skip(2);
        let (device, root, target) = (words.next()?, words.next()?, words.next()?);
        // Any number of optional words end with a dash.
        words.find(|word| *word == b"-")?;
        let (kind, _source, options) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            device: device.to_vec(),
            root: path(root),
            target: path(target),
            overlay: kind == b"overlay",
            options: options.to_vec(),
        })
    }

    fn uses(&self, used: &Used<'_>) -> bool {
        let bound = used
            .place
            .as_ref()
            .is_some_and(|(device, dir)| *device == self.device && self.root.starts_with(dir));
        bound || (self.overlay && self.layers().any(|layer| used.holds(&layer)))
    }

    /// The directories of an overlay.
    fn layers(&self) -> impl Iterator<Item = PathBuf> {
        self.options
            .split(|&byte| byte == b',')
            .filter_map(|option| {
                let end = option.iter().position(|&byte| byte == b'=')?;
                let (name, value) = (&option[..end], &option[end + 1..]);
                let is_layer =
                    matches!(name, b"lowerdir" | b"lowerdir+" | b"datadir+" | b"upperdir");
                is_layer.then_some(value)
            })
            .flat_map(|value| value.split(|&byte| byte == b':'))
            .map(path)
    }
}

/// A path as the kernel shows it: some bytes as a backslash and three octal digits.
fn path(shown: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /var rw shared:2 master:1 - ext4 /dev/sda2 rw
31 22 8:2 /lib/s\\040x/snapshots/native/4/fs /mnt/bound ro - ext4 /dev/sda2 rw
32 22 0:50 / /mnt/over ro - overlay overlay ro,lowerdir=/var/lib/s\\040x/snapshots/overlayfs/2/fs:/var/lib/s\\040x/snapshots/overlayfs/1/fs
33 22 0:51 / /mnt/new\\040er rw - overlay overlay rw,lowerdir+=/a/3/fs,lowerdir+=/a/2/fs,upperdir=/a/7/fs,workdir=/a/7/work
34 22 0:52 / /s/1.fs ro - erofs /s/1.erofs ro
35 22 0:52 / /mnt/image ro - erofs /s/1.erofs ro
36 22 0:53 / /s/2.fs ro - erofs /s/2.erofs ro
37 22 0:54 / /mnt/images ro - overlay overlay ro,lowerdir=/s/2.fs:/s/1.fs
38 22 0:55 / /s/3.fs ro - erofs /s/3.erofs ro
";

    fn user_of(dir: &str) -> Option<String> {
        let table = Table::parse(TABLE.as_bytes());
        let dir = Path::new(dir);
        let used = Used { given: dir, real: dir, place: table.place_of(dir) };
        table.user_of(&used).map(|path| path.display().to_string())
    }

    #[test]
    fn overlays_use_their_layers_and_bind_mounts_what_they_show() {
        let over = Some("/mnt/over".to_owned());
        assert_eq!(user_of("/var/lib/s x/snapshots/overlayfs/1"), over);
        assert_eq!(user_of("/var/lib/s x/snapshots/overlayfs/2"), over);
        assert_eq!(user_of("/var/lib/s x/snapshots/native/4").as_deref(), Some("/mnt/bound"));
        for dir in ["/a/2", "/a/3", "/a/7"] {
            assert_eq!(user_of(dir).as_deref(), Some("/mnt/new er"), "{dir}");
        }
    }

    #[test]
    fn what_is_mounted_on_a_directory_uses_it_where_else_it_shows() {
        assert_eq!(user_of("/s/1.fs").as_deref(), Some("/mnt/image"));
        assert_eq!(user_of("/s/2.fs").as_deref(), Some("/mnt/images"));
        assert_eq!(user_of("/s/3.fs"), None);
    }

    #[test]
    fn other_directories_are_not_in_use() {
        for dir in [
            "/var/lib/s x/snapshots/overlayfs/3",
            "/var/lib/s x/snapshots/overlayfs/11",
            "/var/lib/s x/snapshots/native/2",
            "/lib/s x/snapshots/native/4",
            "/a/1",
        ] {
            assert_eq!(user_of(dir), None, "{dir}");
        }
    }
}
