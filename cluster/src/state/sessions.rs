//! The table of sessions, and which of them the next cut has to look at.
//! Always true: at most one session per client identifier; a place stays taken until what is there is removed; one that is
//! laid aside is found by its place only.
use super::{
    gone::Gone,
    queue::Queue,
    session::{Session, Unwritten},
};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::{collections::VecDeque, hash::BuildHasher};

/// Where a session is in the table. The same session may have different places on different nodes, so nothing that
/// matters depends on it.
pub(super) type SessionPlace = u32;

#[derive(Clone, Default)]
pub(super) struct Sessions {
    places: Vec<Option<Box<Session>>>,
    free: Vec<SessionPlace>,
    by_client_id: HashTable<SessionPlace>,
    hasher: RandomState,
    /// Sessions that have ended and still take room (`remains`).
    aside: VecDeque<SessionPlace>,
    /// Notes for the next cut: sessions of which something must be written again, and what was written and is gone.
    unwritten: Vec<SessionPlace>,
    gone: Vec<Gone>,
}

impl Sessions {
    pub(super) fn find(&self, client_id: &str) -> Option<SessionPlace> {
        let hash = self.hasher.hash_one(client_id);
        self.by_client_id.find(hash, |place| self[*place].client_id().as_str() == client_id).copied()
    }

    pub(super) fn get(&self, client_id: &str) -> Option<&Session> {
        self.find(client_id).map(|place| &self[place])
    }

    /// The client identifier must not be in the table.
    pub(super) fn add(&mut self, session: Session) -> SessionPlace {
        let hash = self.hasher.hash_one(session.client_id().as_str());
        let session = Some(Box::new(session));
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = session;
                place
            }
            None => {
                self.places.push(session);
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 sessions in memory")
            }
        };
        let (places, hasher) = (&self.places, &self.hasher);
        let rehash = |place: &SessionPlace| {
            places[*place as usize].as_ref().map_or(0, |session| hasher.hash_one(session.client_id().as_str()))
        };
        self.by_client_id.insert_unique(hash, place, rehash);
        place
    }

    /// The session is no longer found.
    fn unlist(&mut self, place: SessionPlace) {
        let hash = self.hasher.hash_one(self[place].client_id().as_str());
        if let Ok(entry) = self.by_client_id.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
    }

    fn take(&mut self, place: SessionPlace) -> Box<Session> {
        self.free.push(place);
        self.places[place as usize].take().expect(IN_USE)
    }

    /// The session must not be laid aside.
    pub(super) fn remove(&mut self, place: SessionPlace) -> Box<Session> {
        self.unlist(place);
        self.take(place)
    }

    /// The session is no longer found; its place stays taken until it is cleared.
    pub(super) fn lay_aside(&mut self, place: SessionPlace) {
        self.unlist(place);
        self[place].end();
        self.aside.push_back(place);
    }

    pub(super) fn has_aside(&self) -> bool {
        !self.aside.is_empty()
    }

    /// The session that was laid aside before all others.
    pub(super) fn first_aside(&mut self) -> Option<(SessionPlace, &mut Session)> {
        let place = *self.aside.front()?;
        Some((place, &mut self[place]))
    }

    pub(super) fn remove_first_aside(&mut self) {
        if let Some(place) = self.aside.pop_front() {
            self.take(place);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_client_id.len()
    }

    /// Every place is smaller.
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// What is at a place, if anything.
    pub(super) fn at(&self, place: usize) -> Option<&Session> {
        self.places.get(place)?.as_deref().filter(|session| !session.is_ended())
    }

    fn at_mut(&mut self, place: usize) -> Option<&mut Session> {
        self.places.get_mut(place)?.as_deref_mut().filter(|session| !session.is_ended())
    }

    pub(super) fn queue_at(&mut self, place: usize) -> Option<&mut Queue> {
        Some(self.at_mut(place)?.queue_mut())
    }

    /// In no particular order: sort where order matters.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SessionPlace, &Session)> {
        let all = self.places.iter().zip(0..).filter_map(|(session, place)| Some((place, &**session.as_ref()?)));
        all.filter(|(_, session)| !session.is_ended())
    }

    pub(super) fn in_order(&self) -> Vec<&Session> {
        let mut all: Vec<&Session> = self.iter().map(|(_, session)| session).collect();
        all.sort_unstable_by(|a, b| a.client_id().cmp(b.client_id()));
        all
    }

    #[cfg(test)]
    pub(super) fn aside(&self) -> impl Iterator<Item = SessionPlace> {
        self.aside.iter().copied()
    }
}

/// Notes for the next cut.
impl Sessions {
    /// Notes that a session must be written again; the caller says which part.
    #[inline]
    pub(super) fn unwritten(&mut self, place: SessionPlace) -> &mut Unwritten {
        let unwritten = self.places[place as usize].as_deref_mut().expect(IN_USE).unwritten_mut();
        if !unwritten.listed {
            unwritten.listed = true;
            self.unwritten.push(place);
        }
        unwritten
    }

    pub(super) fn note_gone(&mut self, gone: Gone) {
        self.gone.push(gone);
    }

    /// What the next cut has to look at.
    pub(super) fn unwritten_count(&self) -> usize {
        self.unwritten.len() + self.gone.len()
    }

    pub(super) fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }

    /// Calls `f` for each session that must be written again.
    pub(super) fn take_unwritten(&mut self, mut f: impl FnMut(&mut Session)) {
        for place in std::mem::take(&mut self.unwritten) {
            if let Some(session) = self.at_mut(place as usize) {
                f(session);
            }
        }
    }

    /// Nothing was written before, so nothing has to be removed either.
    pub(super) fn forget_unwritten(&mut self) {
        self.take_unwritten(|session| *session.unwritten_mut() = Unwritten::default());
    }
}

const IN_USE: &str = "places are given out for sessions in the table and forgotten when these end";

impl std::ops::Index<SessionPlace> for Sessions {
    type Output = Session;
    #[inline]
    fn index(&self, place: SessionPlace) -> &Session {
        self.places[place as usize].as_deref().expect(IN_USE)
    }
}
impl std::ops::IndexMut<SessionPlace> for Sessions {
    #[inline]
    fn index_mut(&mut self, place: SessionPlace) -> &mut Session {
        self.places[place as usize].as_deref_mut().expect(IN_USE)
    }
}
