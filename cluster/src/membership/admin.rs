//! What an operator asks for: `mosquorum cluster status | add | remove | transfer-leader | resize | accept-time`.
//! Always true: without a majority an answer comes within 3 s and says who is missing; a change that was begun by then
//! goes on, since half a change is worse.
use super::{add, ask_first, changes, leave, neighbours::survey};
use crate::{
    admin_error::AdminError,
    facade::{AdminRequest, Survey},
    node::{shared::NodeParts, timekeeping},
    raft::{MemberView, View},
    transport::{Purpose, services::raft::membership_client::MembershipClient},
};
use mosquorum_proto::peer::raft as wire;
use std::{collections::BTreeSet, fmt::Write, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long an operator waits for a majority to come back: an election takes less. Members have a second of that to say
/// that they are there; a majority that was lost just now is missed after 1.1 s more.
const MAJORITY_TIMEOUT: Duration = Duration::from_millis(1500);
const MAJORITY_CHECK: Duration = Duration::from_millis(50);

/// Does what is asked, here if this node leads and through the leader otherwise.
pub(crate) async fn admin(shared: Arc<NodeParts>, request: AdminRequest) -> Result<String, AdminError> {
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
    let asking = async {
        loop {
            let answer = if shared.view().is_leader {
                lead(&shared, request.clone(), hand_over).await
            } else {
                forward(&shared, request.clone(), hand_over).await
            };
            match answer {
                Err(AdminError::NotLeader(_)) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(100)).await;
                }
                answer => return answer,
            }
        }
    };
    tokio::select! {
        biased;
        answer = asking => answer,
        reason = without_majority(&shared) => Err(AdminError::Unavailable(reason)),
    }
}

async fn majority(shared: &NodeParts) {
    while !shared.has_majority() {
        sleep(MAJORITY_CHECK).await;
    }
}

/// Resolves, with the reason, once there has been no majority for [`MAJORITY_TIMEOUT`].
async fn without_majority(shared: &Arc<NodeParts>) -> String {
    loop {
        while shared.has_majority() {
            sleep(MAJORITY_CHECK).await;
        }
        let (found, back) = tokio::join!(survey(shared.clone()), timeout(MAJORITY_TIMEOUT, majority(shared)));
        if back.is_err() {
            return why_no_majority(&found);
        }
    }
}

fn why_no_majority(found: &Survey) -> String {
    let status = &found.status;
    if status.node.0 == 0 {
        return format!("this node belongs to no cluster yet; it looks for {}", found.looks_for.join(", "));
    }
    if found.expelled {
        return "this node was removed from the cluster; ask another one".to_owned();
    }
    let voters = || found.members.iter().filter(|other| other.member.voter);
    let missing: Vec<String> = voters()
        .filter_map(|other| {
            let why = other.answer.as_ref().err()?;
            let since = other.silent.map_or(String::new(), |silent| format!(", not heard for {} s", silent.as_secs()));
            Some(format!("{} (n{}{since}: {why})", other.member.name, other.member.node.0))
        })
        .collect();
    let (all, there) = (voters().count(), voters().count() - missing.len());
    let who = if missing.is_empty() { String::new() } else { format!("; not {}", missing.join(", ")) };
    let needed = all / 2 + 1;
    format!("no majority of the cluster: {there} of {all} voters answer, {needed} are needed{who}")
}

fn leadership_moved() -> AdminError {
    AdminError::NotLeader("leadership moved".into())
}

/// An answer as it travels between nodes.
pub(crate) fn to_wire(answer: Result<String, AdminError>) -> wire::AdminReply {
    use wire::admin_reply::Failure;
    let (failure, text) = match answer {
        Ok(text) => return wire::AdminReply { done: true, text, failure: Failure::Unspecified.into() },
        Err(AdminError::Refused(text)) => (Failure::Refused, text),
        Err(AdminError::NotLeader(text)) => (Failure::NotLeader, text),
        Err(AdminError::Unavailable(text)) => (Failure::Unavailable, text),
        Err(AdminError::Internal(text)) => (Failure::Internal, text),
    };
    wire::AdminReply { done: false, text, failure: failure.into() }
}

fn from_wire(reply: wire::AdminReply) -> Result<String, AdminError> {
    use wire::admin_reply::Failure;
    if reply.done {
        return Ok(reply.text);
    }
    Err(match reply.failure() {
        Failure::NotLeader => AdminError::NotLeader(reply.text),
        Failure::Unavailable => AdminError::Unavailable(reply.text),
        Failure::Internal => AdminError::Internal(reply.text),
        Failure::Refused | Failure::Unspecified => AdminError::Refused(reply.text),
    })
}

async fn forward(
    shared: &NodeParts,
    request: wire::admin_request::Request,
    hand_over: Duration,
) -> Result<String, AdminError> {
    let request = wire::AdminRequest { request: Some(request), hand_over_ms: hand_over.as_millis() as u64 };
    let view = shared.view();
    let Some(leader) = view.leader.and_then(|leader| view.member(leader)) else {
        return Err(AdminError::NotLeader("no leader is known".into()));
    };
    let mut client = MembershipClient::new(shared.transport.channel(&leader.address, Purpose::Control));
    let timeout = match &request.request {
        // The leader says after a while that the new node is still copying the state.
        Some(wire::admin_request::Request::Add(_)) => add::JOIN_WAIT + shared.settings.commit_timeout,
        // The leader waits for nodes that leave until they have committed what they have.
        Some(wire::admin_request::Request::Remove(_) | wire::admin_request::Request::Resize(_)) => {
            hand_over + 4 * shared.settings.commit_timeout
        }
        _ => shared.settings.commit_timeout,
    };
    match tokio::time::timeout(timeout, client.admin(request)).await {
        Ok(Ok(reply)) => {
            let reply = reply.into_inner();
            from_wire(reply)
        }
        Ok(Err(status)) => Err(AdminError::NotLeader(format!("{}: {}", leader.address, status.message()))),
        Err(_) => Err(AdminError::Unavailable(format!("{} does not answer in time", leader.address))),
    }
}

/// Carries a request out on the leader. Once begun it goes on if this future is dropped.
pub(crate) async fn lead(
    shared: &Arc<NodeParts>,
    request: wire::admin_request::Request,
    hand_over: Duration,
) -> Result<String, AdminError> {
    // Nothing is begun without a majority.
    tokio::select! {
        biased;
        () = majority(shared) => {}
        reason = without_majority(shared) => return Err(AdminError::Unavailable(reason)),
    }
    let for_task = shared.clone();
    let done = tokio::spawn(async move { carry_out(&for_task, request, hand_over).await });
    tokio::select! {
        biased;
        done = done => done.unwrap_or_else(|error| Err(AdminError::of_task(&error))),
        reason = without_majority(shared) => {
            Err(AdminError::Unavailable(format!(
                "{reason}. What was asked for may still be done when there is one again"
            )))
        }
    }
}

async fn carry_out(
    shared: &Arc<NodeParts>,
    request: wire::admin_request::Request,
    hand_over: Duration,
) -> Result<String, AdminError> {
    use wire::admin_request::Request;
    if !shared.view().is_leader {
        return Err(leadership_moved());
    }
    match request {
        Request::Add(node) => add::add(shared, &node).await,
        Request::Remove(name) => {
            let member = find(&shared.view(), &name)?;
            let notes = remove(shared, member.node, hand_over).await?;
            Ok(format!("{notes}{} left the cluster", named(&member)))
        }
        Request::TransferTo(name) => {
            let to = if name.is_empty() { None } else { Some(find(&shared.view(), &name)?.node) };
            let to = transfer(shared, to).await?;
            Ok(format!("{} leads", called(&shared.view(), to)))
        }
        Request::Resize(voters) => resize(shared, voters as usize, hand_over).await,
        Request::AcceptTime(_) => Ok(timekeeping::accept(shared)),
    }
}

/// By its name, or by its number as `n12`; the newest of several.
fn find(view: &View, name: &str) -> Result<MemberView, AdminError> {
    let newest = view.members.iter().filter(|m| m.name == name).max_by_key(|m| m.node);
    let number = || name.strip_prefix('n').and_then(|digits| digits.parse().ok()).and_then(|node| view.member(node));
    newest.or_else(number).cloned().ok_or_else(|| {
        let names: Vec<&str> = view.members.iter().map(|m| m.name.as_str()).collect();
        AdminError::Refused(format!("no node is named `{name}`; there are {}", names.join(", ")))
    })
}

fn named(member: &MemberView) -> String {
    format!("{} (n{})", member.name, member.node)
}

fn called(view: &View, node: u64) -> String {
    view.member(node).map_or_else(|| format!("n{node}"), named)
}

/// What the operator should know besides.
async fn remove(shared: &Arc<NodeParts>, node: u64, hand_over: Duration) -> Result<String, AdminError> {
    let view = shared.view();
    if view.member(node).is_some_and(|m| m.voter) && view.voters() == 1 {
        return Err(AdminError::Refused("the last voter cannot leave".into()));
    }
    if view.leader == Some(node) {
        transfer(shared, None).await?;
        return Err(leadership_moved());
    }
    let nodes = BTreeSet::from([node]);
    let handed_over = leave::hand_over(shared, &nodes, hand_over).await?;
    changes::bar(shared, node).await?;
    changes::remove(shared, node, handed_over.nodes.contains(&node)).await?;
    Ok(handed_over.notes)
}

/// Hands leadership over, to the voter that is furthest unless one is named.
async fn transfer(shared: &Arc<NodeParts>, to: Option<u64>) -> Result<u64, AdminError> {
    let engine = shared.engine.load_full().ok_or_else(AdminError::no_cluster)?;
    let view = engine.view();
    if to.is_some() && to == view.leader {
        return Ok(engine.node());
    }
    let candidates = view.members.iter().filter(|m| m.voter && m.node != engine.node());
    let to = match to {
        Some(to) if view.member(to).is_some_and(|m| m.voter) => to,
        Some(to) => return Err(AdminError::Refused(format!("{} does not vote", called(&view, to)))),
        None => candidates
            .max_by_key(|m| m.matched)
            .map(|m| m.node)
            .ok_or_else(|| AdminError::Refused("there is no other voter".into()))?,
    };
    engine.transfer_leader(to).await?;
    let mut leadership = engine.leadership();
    let moved = leadership.wait_for(|now| now.leader == Some(to));
    match timeout(shared.settings.commit_timeout, moved).await {
        Ok(Ok(_)) => Ok(to),
        _ => Err(AdminError::Unavailable(format!("{} has not taken over", called(&view, to)))),
    }
}

async fn resize(shared: &Arc<NodeParts>, wanted: usize, hand_over: Duration) -> Result<String, AdminError> {
    if wanted == 0 {
        return Err(AdminError::Refused("a cluster has at least one voter".into()));
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
        return Err(leadership_moved());
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

fn status_text(shared: &NodeParts) -> String {
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
    use crate::{
        facade::{MemberStatus, MemberSurvey, SelfReport},
        ids::NodeId,
    };

    #[test]
    fn a_node_is_found_by_name_or_number_and_named_by_both() {
        let member = |node, name: &str| MemberView { node, name: name.to_owned(), ..MemberView::default() };
        let members = vec![member(3, "a"), member(7, "b"), member(9, "a")];
        let view = View { members, ..View::default() };
        let found = |name| find(&view, name).map(|member| named(&member));
        assert_eq!(found("a"), Ok("a (n9)".to_owned()));
        assert_eq!(found("n7"), Ok("b (n7)".to_owned()));
        assert_eq!(found("c"), Err(AdminError::Refused("no node is named `c`; there are a, b, a".to_owned())));
        assert_eq!(called(&view, 4), "n4");
    }

    #[test]
    fn without_a_majority_the_reason_names_who_is_missing_since_when() {
        let member = |node: u64, answer: Result<SelfReport, String>, silent: Option<u64>| MemberSurvey {
            member: MemberStatus {
                node: NodeId(node),
                name: format!("node-{node}"),
                voter: node < 4,
                ..MemberStatus::default()
            },
            standing: None,
            answer,
            silent: silent.map(Duration::from_secs),
            lag: None,
        };
        let there = || Ok(SelfReport::default());
        let mut found = Survey { looks_for: vec!["a:1".to_owned()], ..Survey::default() };
        assert_eq!(why_no_majority(&found), "this node belongs to no cluster yet; it looks for a:1");
        found.status.node = NodeId(1);
        found.members = vec![
            member(1, there(), Some(0)),
            member(2, Err("refused".to_owned()), Some(31)),
            member(3, Err("no answer in time".to_owned()), None),
            member(4, there(), Some(0)),
        ];
        assert_eq!(
            why_no_majority(&found),
            "no majority of the cluster: 1 of 3 voters answer, 2 are needed; not node-2 (n2, not heard for 31 s: \
             refused), node-3 (n3: no answer in time)"
        );
        found.expelled = true;
        assert!(why_no_majority(&found).starts_with("this node was removed"));
    }

    #[test]
    fn names_are_ordered_by_the_numbers_in_them() {
        let mut names = ["node-10", "node-9", "b", "node-1.zone-2", "node-1.zone-10", "node"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["b", "node", "node-1.zone-2", "node-1.zone-10", "node-9", "node-10"]);
    }

    #[test]
    fn an_answer_keeps_its_kind_between_nodes() {
        for answer in [
            Ok("done".to_owned()),
            Err(AdminError::Refused("a".to_owned())),
            Err(AdminError::NotLeader("b".to_owned())),
            Err(AdminError::Unavailable("c".to_owned())),
            Err(AdminError::Internal("d".to_owned())),
        ] {
            assert_eq!(from_wire(to_wire(answer.clone())), answer);
        }
    }
}
