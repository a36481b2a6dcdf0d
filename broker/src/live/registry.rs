//! Who is connected to this node: client identifiers and their connections.
//! Always true: a client identifier has at most one entry; a connection that was ordered to go stays in it until its task
//! has sent its last byte, and `gone` resolves only then.
use super::mailbox::{Mailbox, Order};
use mosquorum_cluster::{
    OnlyUser,
    ids::{ConnectionId, Incarnation},
    state::Owner,
};
use mosquorum_proto::mqtt::Utf8;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::Semaphore;

struct Entry {
    owner: Owner,
    user: Option<Utf8>,
    mailbox: Arc<Mailbox>,
    /// The session is in nobody's log: the leader must learn of it after an election.
    clean: bool,
    /// Ordered to go to another node.
    drained: bool,
    /// Its connection has ended; something that it wrote is not answered.
    departed: bool,
    gone: Gone,
}

/// Kept by the connection's task; when it is dropped, everybody who waits for the connection's end goes on.
pub struct Presence(Gone);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.0.close();
    }
}

/// A connection that is taking its client identifier and may lose it to another before it has it.
struct Applicant {
    user: Option<Utf8>,
    fenced: bool,
    gone: Gone,
}

#[derive(Default)]
struct Table {
    clients: HashMap<Utf8, Entry>,
    applicants: HashMap<ConnectionId, Applicant>,
    /// How many of `clients` have departed.
    departed: usize,
}

#[derive(Default)]
pub struct Registry {
    table: Mutex<Table>,
}

/// Why a connection was not entered.
pub enum NotEntered {
    /// Somebody holds the name: its end must be waited for first.
    Held(Gone),
    /// The name was given to another connection meanwhile.
    Fenced,
    /// Somebody holds the name who is not the user that it may be taken from.
    OtherUsers,
}

/// The end of a connection: a semaphore that never has a permit and is closed then; the smallest thing to wait for.
#[derive(Clone)]
pub struct Gone(Arc<Semaphore>);

impl Gone {
    pub async fn wait(self) {
        let _ = self.0.acquire().await;
    }
}

impl Registry {
    /// Makes a connection known before it asks for its client identifier: from here on it can be fenced.
    pub fn apply(&self, connection: ConnectionId, user: Option<Utf8>) -> Presence {
        let gone = Gone(Arc::new(Semaphore::new(0)));
        self.table.lock().applicants.insert(connection, Applicant { user, fenced: false, gone: gone.clone() });
        Presence(gone)
    }

    /// Orders this very connection to go, if it is (or is about to be) the client's; its end can be waited for.
    pub fn evict_connection(&self, client_id: &str, connection: ConnectionId, order: Order) -> Option<Gone> {
        let mut table = self.table.lock();
        if let Some(applicant) = table.applicants.get_mut(&connection) {
            applicant.fenced = true;
            return Some(applicant.gone.clone());
        }
        let entry = table.clients.get_mut(client_id).filter(|entry| entry.owner.connection == connection)?;
        entry.drained |= order == Order::Drained;
        entry.mailbox.order(order);
        Some(entry.gone.clone())
    }

    /// Whether this very connection, if it is (or is about to be) the client's, is this user's.
    pub fn is_users(&self, client_id: &str, connection: ConnectionId, only: &OnlyUser) -> bool {
        let table = self.table.lock();
        let entry = table.clients.get(client_id).filter(|entry| entry.owner.connection == connection);
        let user = entry.map(|entry| &entry.user);
        let user = user.or_else(|| table.applicants.get(&connection).map(|applicant| &applicant.user));
        user.is_none_or(|user| *user == only.0)
    }

    /// Enters an applicant unless somebody else of this node holds the name, who is then ordered to go: anybody, or `only` the
    /// user named.
    pub fn enter(
        &self,
        client_id: &Utf8,
        owner: Owner,
        only: Option<&OnlyUser>,
        mailbox: Arc<Mailbox>,
        clean: bool,
    ) -> Result<(), NotEntered> {
        let mut table = self.table.lock();
        if table.applicants.get(&owner.connection).is_none_or(|applicant| applicant.fenced) {
            return Err(NotEntered::Fenced);
        }
        if let Some(entry) = table.clients.get(client_id) {
            if only.is_some_and(|only| only.0 != entry.user) {
                return Err(NotEntered::OtherUsers);
            }
            entry.mailbox.order(Order::TakenOver);
            return Err(NotEntered::Held(entry.gone.clone()));
        }
        if let Some(applicant) = table.applicants.remove(&owner.connection) {
            let Applicant { user, gone, .. } = applicant;
            table.clients.insert(
                client_id.clone(),
                Entry { owner, user, mailbox, clean, drained: false, departed: false, gone },
            );
        }
        Ok(())
    }

    /// The connection has ended. Its entry stays until what it wrote is answered ([`Mailbox::when_settled`]); nobody waits for
    /// the client to go any more.
    pub fn depart(&self, client_id: &str, connection: ConnectionId) {
        let mut table = self.table.lock();
        let entry = table.clients.get_mut(client_id).filter(|entry| entry.owner.connection == connection);
        if entry.is_some_and(|entry| !std::mem::replace(&mut entry.departed, true)) {
            table.departed += 1;
        }
    }

    /// Removes the connection's entry; its `Presence` is dropped by the caller afterwards.
    pub fn leave(&self, client_id: &str, connection: ConnectionId) {
        let mut table = self.table.lock();
        table.applicants.remove(&connection);
        if table.clients.get(client_id).is_some_and(|entry| entry.owner.connection == connection)
            && let Some(entry) = table.clients.remove(client_id)
        {
            table.departed -= usize::from(entry.departed);
        }
    }

    /// Orders it of everybody; who is only about to come in is turned away.
    pub fn order_all(&self, order: Order) -> Vec<Gone> {
        let all: Vec<_> = {
            let mut table = self.table.lock();
            if order != Order::Reloaded {
                table.applicants.values_mut().for_each(|applicant| applicant.fenced = true);
            }
            table.clients.values().map(|entry| (entry.mailbox.clone(), entry.gone.clone())).collect()
        };
        let each = all.into_iter().map(|(mailbox, gone)| {
            mailbox.order(order);
            gone
        });
        each.collect()
    }

    /// The log knows these incarnations of this node as over: what their connections wrote is applied, or never will be. Who has
    /// left but for that leaves the table.
    pub fn incarnation_over(&self, incarnation: Incarnation) {
        let all: Vec<_> = {
            let table = self.table.lock();
            let over = table.clients.values().filter(|entry| entry.owner.incarnation <= incarnation);
            over.map(|entry| entry.mailbox.clone()).collect()
        };
        all.iter().for_each(|mailbox| mailbox.give_up());
    }

    /// Clients that were not ordered to go to another node yet.
    pub fn undrained(&self) -> Vec<(Utf8, ConnectionId)> {
        let table = self.table.lock();
        let staying = table.clients.iter().filter(|(_, entry)| !entry.drained && !entry.departed);
        staying.map(|(id, entry)| (id.clone(), entry.owner.connection)).collect()
    }

    /// Clients with a connection.
    pub fn len(&self) -> usize {
        let table = self.table.lock();
        table.clients.len() - table.departed
    }

    /// Nobody is here, and nobody is about to be.
    pub fn is_vacant(&self) -> bool {
        let table = self.table.lock();
        table.clients.is_empty() && table.applicants.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deliveries that wait in all mailboxes, and their bytes.
    pub fn queued(&self) -> (usize, usize) {
        let table = self.table.lock();
        let each = table.clients.values().map(|entry| entry.mailbox.queued());
        each.fold((0, 0), |(count, bytes), (more, more_bytes)| (count + more, bytes + more_bytes))
    }

    /// Clients without a record in the replicated state, this one left out.
    pub fn clean_count(&self, except: &str) -> usize {
        let table = self.table.lock();
        table.clients.iter().filter(|(id, entry)| entry.clean && id.as_str() != except).count()
    }

    pub fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        let table = self.table.lock();
        table.clients.iter().filter(|(_, entry)| entry.clean).map(|(id, entry)| (id.clone(), entry.owner)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mosquorum_cluster::ids::NodeId;

    fn owner(incarnation: u64, connection: u64) -> Owner {
        Owner { node: NodeId(1), incarnation: Incarnation(incarnation), connection: ConnectionId(connection) }
    }

    #[test]
    fn who_has_left_with_something_unanswered_keeps_its_name_until_the_log_knows_its_incarnation_as_over() {
        let registry = Arc::new(Registry::default());
        let client = Utf8::from("c");
        let enter = |owner: Owner| {
            let (presence, mailbox) = (registry.apply(owner.connection, None), Mailbox::new(0));
            let entered = registry.enter(&client, owner, None, mailbox.clone(), true);
            (entered, presence, mailbox)
        };
        let (entered, presence, mailbox) = enter(owner(7, 1));
        assert!(entered.is_ok());
        mailbox.owe();
        let left = registry.clone();
        mailbox.when_settled(move || {
            left.leave("c", ConnectionId(1));
            drop(presence);
        });
        registry.order_all(Order::LeaseLost);
        assert!(matches!(enter(owner(8, 2)).0, Err(NotEntered::Held(_))));
        registry.incarnation_over(Incarnation(6));
        assert!(matches!(enter(owner(8, 3)).0, Err(NotEntered::Held(_))));
        registry.incarnation_over(Incarnation(7));
        assert!(enter(owner(8, 4)).0.is_ok());
    }
}
