//! What was written of a session and is no more: a note for the next cut.
use super::{Session, records::Key};
use mosquorum_proto::mqtt::{TopicFilter, Utf8};
use std::ops::Range;

/// What was written of a session and is no more.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    client_id: Utf8,
    /// Not only parts of the session, but the session.
    whole: bool,
    filters: Vec<TopicFilter>,
    entries: Vec<u64>,
    /// And all in here, of which some may not have been written.
    entries_from: Range<u64>,
}

impl Gone {
    /// Entries of a session that goes on.
    pub(super) fn entries(client_id: Utf8, entries: Vec<u64>) -> Self {
        Self { client_id, whole: false, filters: Vec::new(), entries, entries_from: 0..0 }
    }

    /// The session is gone, and its parts are noted in it.
    pub(super) fn whole(mut session: Session) -> Self {
        Self {
            whole: true,
            filters: std::mem::take(&mut session.unwritten_mut().filters).into_iter().collect(),
            entries: session.queue_mut().take_removed(),
            entries_from: 0..0,
            client_id: session.client_id().clone(),
        }
    }

    /// The session is gone with all that it has.
    pub(super) fn unstripped(session: &mut Session) -> Self {
        let unwritten = std::mem::take(&mut session.unwritten_mut().filters);
        Self {
            whole: true,
            filters: session.subscriptions().keys().cloned().chain(unwritten).collect(),
            entries: session.queue_mut().take_removed(),
            entries_from: session.queue().written(),
            client_id: session.client_id().clone(),
        }
    }

    pub(super) fn keys(self) -> impl Iterator<Item = Key> {
        let Self { client_id, whole, filters, entries, entries_from } = self;
        let keys = [Key::Session(client_id.clone()), Key::Header(client_id.clone()), Key::Inbound(client_id.clone())];
        let also = client_id.clone();
        let filters = filters.into_iter().map(move |filter| Key::Subscription(also.clone(), filter));
        let entries = entries.into_iter().chain(entries_from).map(move |seq| Key::Entry(client_id.clone(), seq));
        keys.into_iter().filter(move |_| whole).chain(filters).chain(entries)
    }
}
