//! Which names an operator let into the cluster or took out of it: `cluster add` and `cluster remove`.
//! Always true: the last word about a name counts, on every node; a name without a word is judged by the configuration.
//! At most [`NAMES_MAX`] are remembered; beyond it the word that is oldest goes.
//! Not here: who asks to join, and under which certificate (`membership`).
use mosquorum_proto::mqtt::Utf8;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Names with a word of an operator that are remembered.
pub const NAMES_MAX: usize = 1024;

/// An operator's last word about a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    pub word: Word,
    /// Stamp of the command that said so.
    since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// A node of this name, or one whose certificate names this host, may join.
    Added { host: Utf8 },
    /// The node was taken out: nobody joins under its name.
    Removed,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Admissions {
    names: BTreeMap<Utf8, Admission>,
    unwritten: BTreeSet<Utf8>,
}

impl Admissions {
    /// An operator's word about a name.
    pub(super) fn say(&mut self, name: &Utf8, word: Word, stamp: u64) {
        self.names.insert(name.clone(), Admission { word, since: stamp });
        self.unwritten.insert(name.clone());
        if self.names.len() > NAMES_MAX {
            let oldest = self.names.iter().min_by_key(|(_, admission)| admission.since);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.names.remove(&oldest);
                self.unwritten.insert(oldest);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Utf8, &Admission)> {
        self.names.iter()
    }

    pub(super) fn restore(&mut self, name: Utf8, admission: Admission) {
        self.names.insert(name, admission);
    }

    /// What must be written again; `None`: the name is not remembered any more.
    pub(super) fn take_unwritten(&mut self) -> impl Iterator<Item = (Utf8, Option<&Admission>)> {
        let names = &self.names;
        std::mem::take(&mut self.unwritten).into_iter().map(|name| {
            let word = names.get(&name);
            (name, word)
        })
    }

    pub(super) fn forget_unwritten(&mut self) {
        self.unwritten.clear();
    }
}
