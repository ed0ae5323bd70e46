//! Owns system call filters: what a policy says, its program for the kernel, and putting that on a process.
//! Knows nothing of sandboxes but the policies in `sandbox.rs`, `hardened.rs` and `helpers.rs`, and nothing of who asks for it.
//!
//! The kernel runs a filter once for every system call number when it is installed, to learn which calls are always
//! allowed, and afterwards for each call that is not. A list of comparisons makes both slow; a binary search over
//! ranges of numbers makes both cheap (installing: 60-100 µs instead of 500-1700).

mod assemble;
mod compile;
mod hardened;
mod helpers;
#[cfg(any(test, feature = "fuzzing"))]
mod interpret;
mod policy;
mod sandbox;
mod table;
#[cfg(test)]
mod tests;

pub use compile::CompileError;
pub use hardened::policy as hardened_policy;
pub use helpers::{bridge_policy, counters_policy, relay_policy};
pub use policy::{Clause, Is, Policy, Rule, Test, Verdict};
pub use sandbox::{no_set_id_policy, policy as sandbox_policy};
pub use table::{ALLOWED, Group, NARROWED, REFUSED};

use crate::check::check_long;
use std::io;

/// A compiled filter, ready to be installed any number of times.
#[derive(Clone)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
}

impl Filter {
    /// Compiles a policy.
    pub fn compile(policy: &Policy) -> Result<Self, CompileError> {
        Ok(Self { program: compile::compile(policy)? })
    }

    /// The filter that every sandbox runs under: see [`ALLOWED`], [`REFUSED`] and `sandbox.rs` for each rule's reason.
    pub fn sandbox() -> Self {
        Self::compile(&sandbox_policy()).expect("the sandbox policy compiles: a test of this crate does it")
    }

    /// The filter of hardened sandboxes: the other one without [`NARROWED`] and what `hardened.rs` says of arguments.
    pub fn hardened() -> Self {
        Self::compile(&hardened_policy()).expect("the hardened policy compiles: a test of this crate does it")
    }

    /// On top of the other where a sandbox can write to the host's directories: see [`no_set_id_policy`].
    pub fn no_set_id() -> Self {
        Self::compile(&no_set_id_policy()).expect("the policy compiles: a test of this crate does it")
    }

    /// Of the process that hands bytes on: see [`bridge_policy`].
    pub fn bridge() -> Self {
        Self::compile(&bridge_policy()).expect("the policy compiles: a test of this crate does it")
    }

    /// Of the process that speaks for servers with an init: see [`relay_policy`].
    pub fn relay() -> Self {
        Self::compile(&relay_policy()).expect("the policy compiles: a test of this crate does it")
    }

    /// Of the process that reads what a container uses: see [`counters_policy`].
    pub fn counters() -> Self {
        Self::compile(&counters_policy()).expect("the policy compiles: a test of this crate does it")
    }

    /// Number of instructions; the kernel takes 4096 at most.
    pub fn instructions(&self) -> usize {
        self.program.len()
    }

    /// What the program says to one call of the machine's own architecture, or of another; `None` where the kernel would not
    /// load it. For the fuzzer.
    #[cfg(feature = "fuzzing")]
    pub fn answer(&self, own: bool, number: u32, arguments: &[u64; 6]) -> Option<u32> {
        let program: Vec<_> = self.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        let architecture = if own { compile::OWN_ARCHITECTURE } else { !compile::OWN_ARCHITECTURE };
        interpret::run(&program, architecture, number, arguments)
    }

    /// Puts the calling thread, and all it will ever fork or exec, under this filter. There is no way back.
    ///
    /// `no_new_privs` must be set (or `CAP_SYS_ADMIN` held), otherwise `EACCES`. Other threads of the process are not
    /// touched: call it while there is one. Allocates nothing, so it may be called between fork and exec.
    pub fn install(&self) -> io::Result<()> {
        let program =
            libc::sock_fprog { len: self.program.len() as libc::c_ushort, filter: self.program.as_ptr().cast_mut() };
        // No SECCOMP_FILTER_FLAG_SPEC_ALLOW: it would switch off speculation barriers that an administrator asked for
        // (`spec_store_bypass_disable=seccomp`), and what runs here is hostile. Kernels since 5.16 add none by default.
        let flags: libc::c_ulong = 0;
        // SAFETY: `program` and the instructions it points to live until the call returns; the kernel copies them and
        // writes to neither.
        check_long(unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        })?;
        Ok(())
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").field("instructions", &self.program.len()).finish()
    }
}
