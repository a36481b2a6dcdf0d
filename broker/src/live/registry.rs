//! Who is connected to this node: client identifiers and their connections.
//! Always true: a client identifier has at most one entry; a connection that was told to go stays in it until its task
//! has sent its last byte, and `gone` resolves only then.
use super::mailbox::{Mailbox, Order};
use mosquorum_cluster::{ids::ConnectionId, state::Owner};
use mosquorum_proto::mqtt::Utf8;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::sync::watch;

struct Entry {
    owner: Owner,
    mailbox: Arc<Mailbox>,
    /// The session is in nobody's log: the leader must hear of it after an election.
    clean: bool,
    gone: watch::Receiver<()>,
}

/// Kept by the connection's task; when it is dropped, everybody who waits for the connection's end goes on.
pub struct Presence {
    _gone: watch::Sender<()>,
}

#[derive(Default)]
pub struct Registry {
    clients: Mutex<HashMap<Utf8, Entry>>,
}

/// The end of a connection.
pub struct Gone(watch::Receiver<()>);

impl Gone {
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl Registry {
    /// Tells the present holder (if any) to go; its end can be waited for.
    pub fn evict(&self, client_id: &str, order: Order) -> Option<Gone> {
        let clients = self.clients.lock();
        let entry = clients.get(client_id)?;
        entry.mailbox.order(order);
        Some(Gone(entry.gone.clone()))
    }

    /// As `evict`, but only if the holder is this very connection.
    pub fn evict_connection(&self, client_id: &str, connection: ConnectionId, order: Order) -> Option<Gone> {
        let clients = self.clients.lock();
        let entry = clients.get(client_id).filter(|entry| entry.owner.connection == connection)?;
        entry.mailbox.order(order);
        Some(Gone(entry.gone.clone()))
    }

    /// Enters a connection unless somebody else holds the name: then that one's end must be waited for first.
    pub fn enter(&self, client_id: &Utf8, owner: Owner, mailbox: Arc<Mailbox>, clean: bool) -> Result<Presence, Gone> {
        let mut clients = self.clients.lock();
        if let Some(entry) = clients.get(client_id) {
            entry.mailbox.order(Order::TakenOver);
            return Err(Gone(entry.gone.clone()));
        }
        let (sender, gone) = watch::channel(());
        clients.insert(client_id.clone(), Entry { owner, mailbox, clean, gone });
        Ok(Presence { _gone: sender })
    }

    /// Removes the connection's entry; its `Presence` is dropped by the caller afterwards.
    pub fn leave(&self, client_id: &str, connection: ConnectionId) {
        let mut clients = self.clients.lock();
        if clients.get(client_id).is_some_and(|entry| entry.owner.connection == connection) {
            clients.remove(client_id);
        }
    }

    pub fn order_all(&self, order: Order) -> Vec<Gone> {
        let clients = self.clients.lock();
        clients
            .values()
            .map(|entry| {
                entry.mailbox.order(order);
                Gone(entry.gone.clone())
            })
            .collect()
    }

    pub fn len(&self) -> usize {
        self.clients.lock().len()
    }

    /// Clients without a record in the replicated state, this one left out.
    pub fn clean_count(&self, except: &str) -> usize {
        let clients = self.clients.lock();
        clients.iter().filter(|(id, entry)| entry.clean && id.as_str() != except).count()
    }

    pub fn clean_clients(&self) -> Vec<(Utf8, Owner)> {
        let clients = self.clients.lock();
        clients.iter().filter(|(_, entry)| entry.clean).map(|(id, entry)| (id.clone(), entry.owner)).collect()
    }
}
