//! Where what is kept of a sandbox lies: in the data directory, or, of a `vfs` sandbox, in memory.

use crate::{ledger::Ledger, memory, node::Inner};
use csb_engine::{Last, Shelf};
use csb_types::{Kind, SandboxId};
use std::{path::PathBuf, sync::Arc, time::Duration};

impl Inner {
    /// What is done when a sandbox is gone.
    pub(crate) fn last(&self, id: &SandboxId, kind: Kind) -> Last {
        let (ledger, id) = (self.ledger(kind).clone(), id.clone());
        Last(Box::new(move || ledger.remove(&id)))
    }

    /// Where the output of a sandbox's commands goes.
    pub(crate) fn spool(&self, id: &SandboxId, kind: Kind) -> PathBuf {
        match (&self.memory, kind) {
            (Some(memory), Kind::Vfs) if self.private => memory.clone(),
            (Some(memory), Kind::Vfs) => memory::spools(memory).join(id.as_str()),
            _ if self.private => self.data_dir.clone(),
            _ => self.data_dir.join("spool").join(id.as_str()),
        }
    }

    /// Where what the next server must know of a sandbox is written down.
    pub(crate) fn ledger(&self, kind: Kind) -> &Arc<Ledger> {
        match (&self.memory_ledger, kind) {
            (Some(ledger), Kind::Vfs) => ledger,
            _ => &self.ledger,
        }
    }

    pub(crate) fn shelf(&self, kind: Kind) -> Arc<Shelf> {
        if kind == Kind::Vfs { self.memory_shelf.clone() } else { self.shelf.clone() }
    }

    /// Removes the directories in memory where nothing is left in them.
    pub(crate) fn leave_memory(&self) {
        if let (Some(memory), false) = (&self.memory, self.private) {
            self.memory_shelf.tidy(Duration::ZERO);
            self.memory_ledger.iter().for_each(|ledger| ledger.tidy());
            memory::leave(memory);
        }
    }
}
