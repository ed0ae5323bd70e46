//! What all descendants of a command have in common, and none of them can shed: by it they are found and killed whole.

use crate::Step;
use csb_sys::{ns, process};
use csb_wire::Failure;
use std::{cell::Cell, os::fd::OwnedFd};

/// Groups of people and services, and those that sandboxes map, are below.
const FIRST_GROUP: u32 = 0x7000_0000;

/// The mark of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Inode of a cgroup namespace of their own.
    Namespace(u64),
    /// A supplementary group that no other command of the sandbox ever had.
    Group(u32),
}

impl Mark {
    /// The group that a command is given.
    pub fn group(self) -> Option<u32> {
        match self {
            Self::Namespace(_) => None,
            Self::Group(group) => Some(group),
        }
    }
}

/// How commands of a sandbox are marked.
#[derive(Debug)]
pub enum Marks {
    /// With a cgroup namespace.
    Namespaces,
    /// With a group, where no namespace can be made; the next one.
    Groups(Cell<u32>),
}

impl Marks {
    /// Groups, from the first one on.
    pub(crate) fn groups() -> Self {
        Self::Groups(Cell::new(FIRST_GROUP))
    }

    /// A new one, for the process that is forked next. The init takes it beforehand, as a command may have ended before anybody
    /// could look at it. `proc` is the sandbox's.
    pub fn next(&self, proc: &OwnedFd) -> Result<Mark, Failure> {
        match self {
            Self::Namespaces => {
                ns::unshare(process::CLONE_NEWCGROUP).step("confine")?;
                ns::cgroup_mark(proc, 1).map(Mark::Namespace).step("confine")
            }
            Self::Groups(next) => Ok(Mark::Group(next.replace(next.get() + 1))),
        }
    }
}

impl Mark {
    /// Whether a process has it. One that has ended and is not waited for has its groups, and no namespace any more.
    pub fn is_on(self, proc: &OwnedFd, pid: i32) -> bool {
        match self {
            Self::Namespace(mark) => ns::cgroup_mark(proc, pid).is_ok_and(|found| found == mark),
            Self::Group(group) => process::has_group(proc, pid, group).unwrap_or(false),
        }
    }
}
