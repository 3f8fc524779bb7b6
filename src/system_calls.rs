//! The system calls that a session needs once everything that it may need is open; all others fail (seccomp(2)).
//!
//! This is a list of what is allowed: system calls of future kernels are forbidden already. A call that is not listed
//! fails with EPERM and does not kill the process, so that a forgotten one causes a 451 and no lost mail. A call by
//! another architecture's table (32-bit x86) does end the process.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

/// The sockets that deliveries open, besides those for the system log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sockets {
    /// TCP, to configured servers.
    pub(crate) tcp: bool,
    /// UDP, to name servers that know the addresses of those servers.
    pub(crate) names: bool,
    /// Unix sockets, to servers on this machine.
    pub(crate) local: bool,
}

/// Permanently forbids this thread every system call that a session does not need to deliver, log and end.
pub(crate) fn forbid_others(sockets: Sockets) -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&program(sockets)?)
}

fn program(sockets: Sockets) -> Result<BpfProgram, BackendError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let for_names: &[i64] = if sockets.names { &[libc::SYS_bind] } else { &[] };
    let always = ALLOWED.iter().chain(OLDER).chain(for_names);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.map(|call| (*call, Vec::new())).collect();
    for (call, conditions) in conditions(sockets) {
        let conditions: Result<Vec<_>, _> =
            conditions.into_iter().map(|(place, cmp, value)| SeccompCondition::new(place, Dword, cmp, value)).collect();
        rules.entry(call).or_default().push(SeccompRule::new(conditions?)?);
    }
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, architecture)?.try_into()
}

/// Calls that are allowed only if their arguments meet all conditions in one of these entries.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn conditions(sockets: Sockets) -> Vec<(i64, Vec<Condition>)> {
    let not_executable = || vec![(2, MaskedEq(flag(libc::PROT_EXEC)), 0)];
    let types = [(sockets.tcp, libc::SOCK_STREAM), (sockets.names, libc::SOCK_DGRAM)];
    // Only the default protocol of the socket type: Landlock does not know MPTCP, for example.
    let socket = |family, of_type| {
        let arguments = vec![(0, Eq, flag(family)), (1, MaskedEq(0xf), flag(of_type)), (2, Eq, 0)];
        (libc::SYS_socket, arguments)
    };
    let mut conditions = vec![
        (libc::SYS_mmap, not_executable()),
        (libc::SYS_mprotect, not_executable()),
        // For the system log, which may have been restarted. The type is combined with flags.
        (libc::SYS_socket, vec![(0, Eq, flag(libc::AF_UNIX)), (1, MaskedEq(0xf), flag(libc::SOCK_DGRAM))]),
        (libc::SYS_ioctl, vec![(1, Eq, FIONBIO)]),
        // How many processors we may use, which `regex` wants to know before it looks for its first pattern.
        (libc::SYS_sched_getaffinity, vec![(0, Eq, 0)]),
    ];
    for (_, it) in types.into_iter().filter(|(is_needed, _)| *is_needed) {
        conditions.extend([socket(libc::AF_INET, it), socket(libc::AF_INET6, it)]);
    }
    conditions.extend(sockets.local.then(|| socket(libc::AF_UNIX, libc::SOCK_STREAM)));
    conditions
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
fn conditions(_: Sockets) -> Vec<(i64, Vec<Condition>)> {
    Vec::new()
}

/// The same number on all of these (asm-generic/ioctls.h), and of another type in each C library.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const FIONBIO: u64 = 0x5421;

type Condition = (u8, seccompiler::SeccompCmpOp, u64);

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
fn flag(constant: i32) -> u64 {
    constant.unsigned_abs().into()
}

/// Calls that are always allowed. Landlock restricts the files; this only restricts what can be done with them.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
const ALLOWED: &[i64] = &[
    // Descriptors.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // Files and folders.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_syncfs,
    libc::SYS_unlinkat,
    // The connection, the process that runs commands, the system log.
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Memory, time, signals, who we are, the end.
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_uname,
];

/// There is no list for other architectures, and [`program`] fails there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const ALLOWED: &[i64] = &[];

/// Older names of the same calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[i64] = &[libc::SYS_renameat];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLDER: &[i64] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    /// Anybody who adds one of these should think twice.
    #[test]
    fn what_leads_out_is_not_in_the_list() {
        for (what, call) in [
            ("execve", libc::SYS_execve),
            ("execveat", libc::SYS_execveat),
            ("clone", libc::SYS_clone),
            ("clone3", libc::SYS_clone3),
            ("memfd_create", libc::SYS_memfd_create),
            ("ptrace", libc::SYS_ptrace),
            ("process_vm_writev", libc::SYS_process_vm_writev),
            ("pidfd_getfd", libc::SYS_pidfd_getfd),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("io_uring_enter", libc::SYS_io_uring_enter),
            ("unshare", libc::SYS_unshare),
            ("setns", libc::SYS_setns),
            ("mount", libc::SYS_mount),
            ("bpf", libc::SYS_bpf),
            ("keyctl", libc::SYS_keyctl),
            ("add_key", libc::SYS_add_key),
            ("userfaultfd", libc::SYS_userfaultfd),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("fchmod", libc::SYS_fchmod),
            ("fchmodat", libc::SYS_fchmodat),
            ("fchown", libc::SYS_fchown),
            ("fchownat", libc::SYS_fchownat),
            ("fsetxattr", libc::SYS_fsetxattr),
            ("kill", libc::SYS_kill),
            ("listen", libc::SYS_listen),
            ("bind", libc::SYS_bind),
        ] {
            assert!(!ALLOWED.contains(&call) && !OLDER.contains(&call), "{what}");
            assert!(
                conditions(Sockets { tcp: true, names: true, local: true }).iter().all(|(known, _)| *known != call),
                "{what}"
            );
        }
    }
}
