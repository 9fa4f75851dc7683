//! What a signal would do to a process.

use dist_core::{Context as _, ErrorKind, Result};

/// Whether a signal reaches a process, or ends it: one that is ignored does neither, nor does the
/// usual action of one happen to the first process of a PID namespace. proc(5), pid_namespaces(7).
///
/// # Errors
/// `NotFound` where the process has ended, or can't be looked at.
pub fn heeds(pid: u32, signal: u32) -> Result<bool> {
    let path = format!("/proc/{pid}/status");
    let status =
        std::fs::read_to_string(&path).context(ErrorKind::NotFound, || format!("read {path}"))?;
    Ok(heeds_by(&status, signal))
}

fn heeds_by(status: &str, signal: u32) -> bool {
    let field = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(field, _)| *field == name).map_or("", |(_, value)| value.trim())
    };
    let has = |name: &str| {
        let bit = signal.checked_sub(1).and_then(|bit| 1_u64.checked_shl(bit)).unwrap_or_default();
        u64::from_str_radix(field(name), 16).unwrap_or_default() & bit != 0
    };
    let is_first = field("NSpid").split_whitespace().next_back() == Some("1");
    // Who blocks a signal takes it when it wants to.
    has("SigCgt") || has("SigBlk") || !is_first && !has("SigIgn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_process_heeds_what_it_asked_for() {
        let status = |ids: &str, blocked: &str, ignored: &str, caught: &str| {
            format!(
                "Pid:\t9\nNSpid:\t{ids}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n"
            )
        };
        for (ids, blocked, ignored, caught, heeds) in [
            ("9\t1", "0", "0", "0", false),
            ("9\t1", "0", "0", "0000000000004000", true),
            ("9\t1", "0000000000004000", "0", "0", true),
            ("9\t1", "0", "0", "0000000000002000", false),
            ("9\t11", "0", "0", "0", true),
            ("9\t11", "0", "0000000000004000", "0", false),
            ("9", "0", "0", "0", true),
        ] {
            let status = status(ids, blocked, ignored, caught);
            assert_eq!(heeds_by(&status, 15), heeds, "{status}");
        }
    }
}
