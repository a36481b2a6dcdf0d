//! What an operator asks for: `mosquorum cluster status | add | remove | transfer-leader | resize`.
use super::{add, ask_first, changes, leave};
use crate::{
    consensus::{Shared, timekeeping},
    facade::AdminRequest,
    raft::View,
    transport::{Purpose, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use std::{collections::BTreeSet, fmt::Write, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// A refusal that asking again, at the new leader, settles.
const ASK_AGAIN: &str = "leadership moved";

/// Does what is asked, here if this node leads and through the leader otherwise.
pub(crate) async fn admin(shared: Arc<Shared>, request: AdminRequest) -> Result<String, String> {
    use wire::admin_request::Request;
    let hand_over = match &request {
        AdminRequest::Remove { hand_over, .. } | AdminRequest::Resize { hand_over, .. } => *hand_over,
        _ => Duration::ZERO,
    };
    let request = match request {
        AdminRequest::Status => return Ok(status_text(&shared)),
        AdminRequest::Add { name, address } => Request::Add(wire::AddNode { name, address }),
        AdminRequest::Remove { name, .. } => Request::Remove(name),
        AdminRequest::TransferLeader { to } => Request::TransferTo(to.unwrap_or_default()),
        AdminRequest::Resize { voters, .. } => Request::Resize(voters as u32),
        AdminRequest::AcceptTime => Request::AcceptTime(true),
    };
    let deadline = Instant::now() + hand_over + shared.settings.commit_timeout;
    loop {
        let answer = if shared.view().is_leader {
            lead(&shared, request.clone(), hand_over).await
        } else {
            forward(&shared, request.clone(), hand_over).await
        };
        match answer {
            Err(reason) if reason.contains(ASK_AGAIN) && Instant::now() < deadline => {
                sleep(Duration::from_millis(100)).await;
            }
            answer => return answer,
        }
    }
}

async fn forward(
    shared: &Shared,
    request: wire::admin_request::Request,
    hand_over: Duration,
) -> Result<String, String> {
    let request = wire::AdminRequest { request: Some(request), hand_over_ms: hand_over.as_millis() as u64 };
    let view = shared.view();
    let Some(leader) = view.leader.and_then(|leader| view.member(leader)) else {
        return Err(format!("no leader is known, {ASK_AGAIN}"));
    };
    let mut client = MembershipClient::new(shared.transport.channel(&leader.address, Purpose::Control));
    let patience = match &request.request {
        // The leader says after a while that the new node is still copying the state.
        Some(wire::admin_request::Request::Add(_)) => add::JOIN_WAIT + shared.settings.commit_timeout,
        // The leader waits for nodes that leave until they have committed what they have.
        Some(wire::admin_request::Request::Remove(_) | wire::admin_request::Request::Resize(_)) => {
            hand_over + 4 * shared.settings.commit_timeout
        }
        _ => shared.settings.commit_timeout,
    };
    match timeout(patience, client.admin(request)).await {
        Ok(Ok(reply)) => {
            let reply = reply.into_inner();
            if reply.done { Ok(reply.text) } else { Err(reply.text) }
        }
        Ok(Err(status)) => Err(format!("{}: {}, {ASK_AGAIN}", leader.address, status.message())),
        Err(_) => Err(format!("{} does not answer in time", leader.address)),
    }
}

/// Carries a request out on the leader.
pub(super) async fn lead(
    shared: &Arc<Shared>,
    request: wire::admin_request::Request,
    hand_over: Duration,
) -> Result<String, String> {
    use wire::admin_request::Request;
    if !shared.view().is_leader {
        return Err(ASK_AGAIN.into());
    }
    match request {
        Request::Add(node) => add::add(shared, &node).await,
        Request::Remove(name) => {
            let node = find(&shared.view(), &name)?;
            let notes = remove(shared, node, hand_over).await?;
            Ok(format!("{notes}{name} (n{node}) left the cluster"))
        }
        Request::TransferTo(name) => {
            let to = if name.is_empty() { None } else { Some(find(&shared.view(), &name)?) };
            let to = transfer(shared, to).await?;
            Ok(format!("n{to} leads"))
        }
        Request::Resize(voters) => resize(shared, voters as usize, hand_over).await,
        Request::AcceptTime(_) => Ok(timekeeping::accept(shared)),
    }
}

fn find(view: &View, name: &str) -> Result<u64, String> {
    let found = view.members.iter().filter(|m| m.name == name).map(|m| m.node).max();
    found.ok_or_else(|| format!("no node is named `{name}`"))
}

/// What the operator should know besides.
async fn remove(shared: &Arc<Shared>, node: u64, hand_over: Duration) -> Result<String, String> {
    let view = shared.view();
    if view.member(node).is_some_and(|m| m.voter) && view.voters() == 1 {
        return Err("the last voter cannot leave".into());
    }
    if view.leader == Some(node) {
        transfer(shared, None).await?;
        return Err(ASK_AGAIN.into());
    }
    let nodes = BTreeSet::from([node]);
    let handed_over = leave::hand_over(shared, &nodes, hand_over).await?;
    changes::remove(shared, node, handed_over.nodes.contains(&node)).await?;
    Ok(handed_over.notes)
}

/// Hands leadership over, to the voter that is furthest unless one is named.
async fn transfer(shared: &Arc<Shared>, to: Option<u64>) -> Result<u64, String> {
    let engine = shared.engine.load_full().ok_or("this node does not belong to a cluster yet")?;
    let view = engine.view();
    if to.is_some() && to == view.leader {
        return Ok(engine.node());
    }
    let candidates = view.members.iter().filter(|m| m.voter && m.node != engine.node());
    let to = match to {
        Some(to) if view.member(to).is_some_and(|m| m.voter) => to,
        Some(to) => return Err(format!("n{to} does not vote")),
        None => candidates.max_by_key(|m| m.matched).map(|m| m.node).ok_or("there is no other voter")?,
    };
    engine.transfer_leader(to).await.map_err(|e| e.to_string())?;
    let mut leadership = engine.leadership();
    let moved = leadership.wait_for(|now| now.leader == Some(to));
    match timeout(shared.settings.commit_timeout, moved).await {
        Ok(Ok(_)) => Ok(to),
        _ => Err(format!("n{to} has not taken over")),
    }
}

async fn resize(shared: &Arc<Shared>, wanted: usize, hand_over: Duration) -> Result<String, String> {
    if wanted == 0 {
        return Err("a cluster has at least one voter".into());
    }
    let mut names: Vec<(String, u64)> =
        shared.view().members.iter().filter(|m| m.voter).map(|m| (m.name.clone(), m.node)).collect();
    names.sort_by(|a, b| natural(&a.0).cmp(&natural(&b.0)).then(a.1.cmp(&b.1)));
    if names.len() < wanted {
        return Ok(format!("{} nodes vote; start more to have {wanted}", names.len()));
    }
    let leaving = names.split_off(wanted);
    if leaving.iter().any(|(_, node)| shared.view().leader == Some(*node)) {
        // Before anybody leaves: whoever asks may be among them. The lowest-named stays in any case.
        transfer(shared, names.first().map(|(_, node)| *node)).await?;
        return Err(ASK_AGAIN.into());
    }
    let nodes = leaving.iter().map(|(_, node)| *node).collect();
    let leave::HandedOver { nodes: without_clients, notes: mut text } =
        leave::hand_over(shared, &nodes, hand_over).await?;
    for (name, node) in leaving.into_iter().rev() {
        changes::remove(shared, node, without_clients.contains(&node)).await?;
        let _ = write!(text, "{name} (n{node}) left the cluster; ");
    }
    text.push_str(&format!("{wanted} nodes vote"));
    Ok(text)
}

/// A name as people order it: `node-10` comes after `node-9`.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let (word, tail) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let (number, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len()));
        parts.push((word.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    parts
}

fn status_text(shared: &Shared) -> String {
    let view = shared.view();
    let mut text = String::new();
    let own = shared.identity().map_or(0, |identity| identity.node);
    if own == 0 {
        let _ =
            writeln!(text, "this node belongs to no cluster yet; it looks for {}", ask_first(shared, &view).join(", "));
        return text;
    }
    let leader = view.leader.map_or("none".to_owned(), |leader| format!("n{leader}"));
    let _ = writeln!(
        text,
        "node n{own} `{}`, leader {leader}, term {}, committed {}, applied {}, snapshot {}",
        shared.settings.name, view.term, view.commit, view.applied, view.snapshot
    );
    for m in &view.members {
        let role = if m.voter { "voter" } else { "learner" };
        let lag = m.matched.map_or(String::new(), |matched| format!(", {} behind", view.last.saturating_sub(matched)));
        let _ = writeln!(text, "n{} `{}` {} {role}{lag}", m.node, m.name, m.address);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_by_the_numbers_in_them() {
        let mut names = ["node-10", "node-9", "b", "node-1.zone-2", "node-1.zone-10", "node"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["b", "node", "node-1.zone-2", "node-1.zone-10", "node-9", "node-10"]);
    }
}
