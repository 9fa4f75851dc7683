//! Which system calls a container may make: the field's default list, in `seccomp/default.list`.
//!
//! It is the list that containerd has for Linux 4.8 and later, without io_uring, which has been a
//! way out of containers, and with sockets of any family but `AF_VSOCK`, which would reach the host
//! of a virtual machine.

use std::collections::BTreeSet;

use crate::Capability;
use crate::spec::{Seccomp, Syscall, SyscallArg};

const LIST: &str = include_str!("seccomp/default.list");

const ALLOW: &str = "SCMP_ACT_ALLOW";
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const AF_VSOCK: u64 = 40;

/// `personality(2)`: Linux, 32 bits of addresses, and both with `uname26`; or the question alone.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The flags of `clone(2)` that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// The profile for processes with these capabilities, on an architecture by Go's name.
pub(crate) fn profile(architecture: &str, capabilities: &BTreeSet<Capability>) -> Seccomp {
    let has = |name: &str| capabilities.iter().any(|capability| capability.name() == name);
    let mut allowed = BTreeSet::new();
    let mut applies = false;
    for line in LIST.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some("*") => applies = true,
            Some(group) => {
                applies = match group.split_once(' ') {
                    Some(("arch", names)) => names.split(' ').any(|name| name == architecture),
                    Some((_, name)) => has(name),
                    None => false,
                }
            }
            None if applies => {
                allowed.insert(line);
            }
            None => (),
        }
    }
    let allow = |name, args| Syscall { names: vec![name], action: ALLOW, errno_ret: None, args };
    let mut syscalls = vec![Syscall {
        names: allowed.into_iter().collect(),
        action: ALLOW,
        errno_ret: None,
        args: Vec::new(),
    }];
    syscalls.extend(
        PERSONALITIES
            .into_iter()
            .map(|value| allow("personality", vec![arg(0, value, "SCMP_CMP_EQ")])),
    );
    syscalls.push(allow("socket", vec![arg(0, AF_VSOCK, "SCMP_CMP_NE")]));
    if !has("SYS_ADMIN") {
        // The flags are the second argument there.
        let index = u32::from(architecture == "s390x");
        let mut flags = arg(index, NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ");
        flags.value_two = Some(0);
        syscalls.push(allow("clone", vec![flags]));
        // Its flags can't be looked at: libraries fall back to clone where it is not there.
        syscalls.push(Syscall {
            names: vec!["clone3"],
            action: "SCMP_ACT_ERRNO",
            errno_ret: Some(ENOSYS),
            args: Vec::new(),
        });
    }
    Seccomp {
        default_action: "SCMP_ACT_ERRNO",
        default_errno_ret: EPERM,
        architectures: architectures(architecture),
        syscalls,
    }
}

fn arg(index: u32, value: u64, op: &'static str) -> SyscallArg {
    SyscallArg { index, value, value_two: None, op }
}

/// The kernel's interfaces on an architecture. That of x32 is left out: kernels of the field have it
/// switched off, and with it a runtime takes a third longer to make a container.
fn architectures(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "amd64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "arm64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        "s390x" => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
        "riscv64" => &["SCMP_ARCH_RISCV64"],
        "ppc64le" => &["SCMP_ARCH_PPC64LE"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(architecture: &str, capabilities: &[&str]) -> Vec<&'static str> {
        let capabilities = capabilities.iter().map(|name| name.parse().unwrap()).collect();
        profile(architecture, &capabilities).syscalls.into_iter().flat_map(|s| s.names).collect()
    }

    #[test]
    fn calls_go_with_capabilities_and_architectures() {
        let plain = names("amd64", &[]);
        for allowed in ["read", "execve", "arch_prctl", "ptrace", "clone", "futex_waitv"] {
            assert!(plain.contains(&allowed), "{allowed}");
        }
        for refused in ["mount", "bpf", "reboot", "chroot", "io_uring_setup", "keyctl", "set_tls"] {
            assert!(!plain.contains(&refused), "{refused}");
        }
        assert!(names("amd64", &["SYS_ADMIN"]).contains(&"mount"));
        assert!(names("amd64", &["SYS_CHROOT"]).contains(&"chroot"));
        assert!(names("arm64", &[]).contains(&"set_tls"));
        assert!(!names("arm64", &[]).contains(&"arch_prctl"));
    }

    #[test]
    fn namespaces_are_made_by_administrators_only() {
        let of = |capabilities: &[&str]| {
            let capabilities = capabilities.iter().map(|name| name.parse().unwrap()).collect();
            profile("amd64", &capabilities).syscalls
        };
        let plain = of(&[]);
        let clone3 = plain.iter().find(|call| call.names == ["clone3"]).unwrap();
        assert_eq!(clone3.errno_ret, Some(ENOSYS));
        let clone = plain.iter().find(|call| call.names == ["clone"]).unwrap();
        assert_eq!(clone.args[0].op, "SCMP_CMP_MASKED_EQ");
        assert!(of(&["SYS_ADMIN"])[0].names.contains(&"clone3"));
    }
}
