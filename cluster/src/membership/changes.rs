//! Changes of the membership, made by the leader, one at a time.
use super::{
    forget,
    forming::hello,
    own_address,
    rules::{Claim, Rules},
};
use crate::events::EVENTS;
use crate::{
    admin_error::AdminError,
    facade::{Answer, Completion, Submission},
    ids::NodeId,
    node::shared::NodeParts,
    raft::{Engine, MemberView},
    state::Command,
    transport::host_of,
};
use mosquorum_proto::peer::raft as wire;
use parking_lot::Mutex;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

/// How long one request to join waits for the new node to catch up; the node asks again after that.
const CATCH_UP_WAIT: Duration = Duration::from_secs(8);
/// A learner that is so few entries behind becomes a voter.
const CATCH_UP_ENTRIES: u64 = 64;
/// A node that answered the leader so recently is running.
const RUNNING: Duration = Duration::from_secs(2);

/// Has the cluster note something, and waits until it has.
pub(crate) async fn decide(shared: &NodeParts, command: Command) -> Result<(), AdminError> {
    let (reply, applied) = oneshot::channel();
    let reply = Arc::new(Decided(Mutex::new(Some(reply))));
    shared.proposer.submit(vec![Submission { command, reply, ticket: 0, incarnation: None }]);
    match timeout(shared.settings.commit_timeout, applied).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(AdminError::Unavailable("the cluster did not agree in time; nothing is lost by asking again".into())),
    }
}

struct Decided(Mutex<Option<oneshot::Sender<()>>>);

impl Completion for Decided {
    fn complete(&self, _ticket: u64, _answer: Answer) {
        // Nobody may wait any more.
        self.0.lock().take().map(|reply| reply.send(()));
    }
}

/// Whether this node may join; if not, the log says so once.
fn judge(shared: &NodeParts, engine: &Engine, claim: &Claim<'_>) -> Result<(), AdminError> {
    let judged = Rules::of(shared, Some(engine)).judge(claim).inspect_err(|reason| {
        engine.introductions.refusals.once(reason, |more| warn!(target: EVENTS, "a node is refused: {reason}{more}"));
    });
    judged.map_err(AdminError::Refused)
}

/// A member speaks for itself: nobody takes its number.
fn is_member_itself(known: &MemberView, name: &str, proven: &[String]) -> bool {
    let is_proven = |wanted: &str| proven.iter().any(|proven| proven.eq_ignore_ascii_case(wanted));
    known.name == name && is_proven(name) || is_proven(&known.name) || is_proven(host_of(&known.address))
}

/// Gives a number to a new node: the index of an entry committed for it.
pub(crate) async fn admit(
    shared: &Arc<NodeParts>,
    request: &wire::AdmitRequest,
) -> Result<wire::AdmitReply, AdminError> {
    let engine = shared.engine.load_full().ok_or_else(AdminError::no_cluster)?;
    let claim = Claim { name: &request.name, address: &request.address, proven: &request.proven };
    judge(shared, &engine, &claim)?;
    refuse_running_namesake(shared, &request.name, 0)?;
    let node = engine.commit_blank().await?;
    info!(target: EVENTS, "{} at {} is admitted as n{node}", request.name, request.address);
    Ok(wire::AdmitReply { cluster: engine.identity.cluster.to_vec().into(), node })
}

/// Whether a member runs, as the leader knows: it does itself.
fn runs(member: &MemberView, leader: u64) -> bool {
    member.node == leader || member.silent.is_some_and(|silent| silent < RUNNING)
}

/// A member moves to another address when it comes back there. While another process answers under its number where it
/// was, who asks from elsewhere has a copy of its data directory: two nodes of one number would vote twice.
pub(crate) async fn refuse_copy(shared: &NodeParts, request: &wire::JoinRequest) -> Result<(), AdminError> {
    let view = shared.view();
    let Some(known) = view.member(request.node).filter(|known| known.address != request.address) else { return Ok(()) };
    let own = shared.identity().map_or(0, |identity| identity.node);
    let said = match known.node == own {
        true => Some((own, own_address(shared))),
        false => hello(shared, &known.address).await.ok().map(|reply| (reply.node, reply.address)),
    };
    match is_copy(known, said, &request.address) {
        false => Ok(()),
        true => Err(AdminError::Refused(format!(
            "n{} `{}` runs at {}: a copy of its data directory cannot be another node",
            known.node, known.name, known.address
        ))),
    }
}

/// `said`: which number answers where the member is known to be, and what it calls its own address. One that does not
/// answer may still run, if it answered a moment ago.
fn is_copy(known: &MemberView, said: Option<(u64, String)>, wanted: &str) -> bool {
    match said {
        Some((node, address)) => node == known.node && address != wanted,
        None => known.silent.is_some_and(|silent| silent < RUNNING),
    }
}

/// A lost disk is replaced under the same name; two running nodes of one name are a mistake.
fn refuse_running_namesake(shared: &NodeParts, name: &str, node: u64) -> Result<(), AdminError> {
    let view = shared.view();
    let own = shared.identity().map_or(0, |identity| identity.node);
    let namesake = view.members.iter().find(|m| m.name == name && m.node != node && m.voter && runs(m, own));
    match namesake {
        Some(m) => Err(AdminError::Refused(format!(
            "a node named `{name}` runs at {} (n{}): names must differ",
            m.address, m.node
        ))),
        None => Ok(()),
    }
}

/// Adds an admitted node as learner, waits until it has caught up, and makes it a voter in place of earlier nodes of
/// its name. Returns whether it is one; if not, it asks again.
pub(crate) async fn join(shared: &Arc<NodeParts>, request: &wire::JoinRequest) -> Result<bool, AdminError> {
    let engine = shared.engine.load_full().ok_or_else(AdminError::no_cluster)?;
    if request.cluster[..] != engine.identity.cluster {
        return Err(AdminError::Refused("the node belongs to another cluster".into()));
    }
    let node = request.node;
    refuse_running_namesake(shared, &request.name, node)?;
    {
        let _one_at_a_time = shared.changing.lock().await;
        let view = engine.view();
        if !view.is_leader {
            return Err(AdminError::NotLeader("this node does not lead the cluster".into()));
        }
        if let Some(newer) = view.members.iter().find(|m| m.name == request.name && m.node > node) {
            return Err(AdminError::Refused(format!(
                "n{node} was replaced by n{}: move its data directory away",
                newer.node
            )));
        }
        if node > view.last {
            return Err(AdminError::Refused(format!("n{node} is no number of this cluster")));
        }
        let claim = Claim { name: &request.name, address: &request.address, proven: &request.proven };
        match view.member(node) {
            Some(known) if !is_member_itself(known, &request.name, &request.proven) => judge(shared, &engine, &claim)?,
            Some(_) => {}
            None if request.was_member => {}
            None => judge(shared, &engine, &claim)?,
        }
        match view.member(node) {
            Some(known) if known.address != request.address => {
                engine.set_address(node, &request.name, &request.address).await?;
            }
            Some(known) if known.voter => return Ok(true),
            Some(_) => {}
            None if request.was_member => {
                return Err(AdminError::Refused(format!(
                    "n{node} was removed from the cluster: move its data directory away"
                )));
            }
            None => engine.add_learner(node, &request.name, &request.address).await?,
        }
    }
    let goal = engine.view().last;
    let since = Instant::now();
    loop {
        let view = engine.view();
        let Some(member) = view.member(node) else {
            return Err(AdminError::Refused(format!("n{node} was removed")));
        };
        if member.voter {
            return Ok(true);
        }
        if member.matched.is_some_and(|matched| matched >= goal || matched + CATCH_UP_ENTRIES >= view.last) {
            break;
        }
        if since.elapsed() > CATCH_UP_WAIT {
            return Ok(false);
        }
        sleep(Duration::from_millis(10)).await;
    }
    let _one_at_a_time = shared.changing.lock().await;
    let view = engine.view();
    let replaced: BTreeSet<u64> =
        view.members.iter().filter(|m| m.name == request.name && m.node != node).map(|m| m.node).collect();
    // One may have come back meanwhile.
    refuse_running_namesake(shared, &request.name, node)?;
    engine.promote(node, replaced).await?;
    Ok(true)
}

/// Nobody joins under the node's name any more, until it is added. Before it is taken out, so that it does not come back in
/// between. Not for a cluster that gets smaller: its nodes may come again when it gets larger.
pub(crate) async fn bar(shared: &NodeParts, node: u64) -> Result<(), AdminError> {
    let view = shared.view();
    let Some(member) = view.member(node) else { return Ok(()) };
    decide(shared, Command::NameRemoved { name: member.name.as_str().into() }).await
}

/// Takes a node out of the cluster. One with clients is forgotten later.
pub(crate) async fn remove(shared: &Arc<NodeParts>, node: u64, without_clients: bool) -> Result<(), AdminError> {
    let engine = shared.engine.load_full().ok_or_else(AdminError::no_cluster)?;
    let _one_at_a_time = shared.changing.lock().await;
    engine.remove(BTreeSet::from([node])).await?;
    if without_clients {
        forget::now(shared, NodeId(node));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_running_members_data_does_not_take_its_address() {
        let member = |silent| MemberView { node: 3, address: "a:1".to_owned(), silent, ..MemberView::default() };
        let answered = member(Some(Duration::from_millis(100)));
        let said = |node, address: &str| Some((node, address.to_owned()));
        assert!(is_copy(&answered, said(3, "a:1"), "b:1"));
        assert!(is_copy(&answered, None, "b:1"), "it may answer the next time");
        assert!(!is_copy(&answered, said(3, "b:1"), "b:1"), "it is the one that asks, reached by its former name");
        assert!(!is_copy(&answered, said(5, "a:1"), "b:1"), "another node runs there now");
        assert!(!is_copy(&member(Some(RUNNING)), None, "b:1"));
        assert!(!is_copy(&member(None), None, "b:1"));
    }
}
