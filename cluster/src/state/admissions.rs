//! Which names an operator let into the cluster or took out of it: `cluster add` and `cluster remove`.
//! Always true: the last word about a name counts, on every node; a name without a word is judged by the configuration.
//! At most [`NAMES_MAX`] are remembered; beyond it the word that is oldest goes.
//! Not here: who asks to join, and under which certificate (`membership`).
use super::{Outcome, State};
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
    pub(super) since: u64,
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
    pub(super) names: BTreeMap<Utf8, Admission>,
    pub(super) unwritten: BTreeSet<Utf8>,
}

impl Admissions {
    fn say(&mut self, name: &Utf8, word: Word, stamp: u64) {
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
}

impl State {
    pub(super) fn node_added(&mut self, name: &Utf8, host: &Utf8, stamp: u64) -> Outcome {
        self.admissions.say(name, Word::Added { host: host.clone() }, stamp);
        Outcome::Done
    }

    pub(super) fn name_removed(&mut self, name: &Utf8, stamp: u64) -> Outcome {
        self.admissions.say(name, Word::Removed, stamp);
        Outcome::Done
    }

    /// What an operator said last about each name.
    pub fn admissions(&self) -> impl Iterator<Item = (&Utf8, &Word)> {
        self.admissions.names.iter().map(|(name, admission)| (name, &admission.word))
    }
}
