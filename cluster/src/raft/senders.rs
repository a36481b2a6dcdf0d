//! From whom a message of Raft, a proposal or a message of the live side is taken.
//! Always true: its sender is a member of the cluster, as this node's log says or, for what this log does not have yet, as
//! another member says; the certificate is valid for that member; and no term or position is so far off that it could stop
//! the cluster. What is refused changes nothing here.
use super::{
    Engine,
    types::{LogId, Member, Vote},
};
use crate::{
    events::EVENTS,
    transport::{Limited, PeerCertificate},
};
use mosquorum_proto::peer::raft as wire;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tonic::Status;
use tracing::warn;

/// Terms grow by one with each election: at ten a second, so many take a dozen years.
const TERMS_AHEAD_MAX: u64 = 1 << 32;
/// A new node may be this far behind: at a million entries a second, nine years.
const ENTRIES_AHEAD_MAX: u64 = 1 << 48;
/// Others are asked about a sender that nobody knows at first after so long, and more and more rarely.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(100);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(2);
/// When it is asked about for this long it is no newcomer.
const UNKNOWN_AFTER: Duration = Duration::from_secs(1);
const UNKNOWN_MAX: usize = 64;

/// Members that others reported.
#[derive(Default)]
pub(crate) struct Introductions {
    /// With the index that whoever said so had applied: from there on this node's own log decides.
    members: Mutex<BTreeMap<u64, (Member, u64)>>,
    unknown: Mutex<HashMap<String, Unknown>>,
    wanted: Notify,
    pub(crate) refusals: Limited,
}

struct Unknown {
    first: Instant,
    next: Instant,
    pause: Duration,
    logged: bool,
}

impl Introductions {
    /// Resolves when others should be asked who the members are.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Has others asked about a sender, unless that was done a moment ago. Whether it is one that stays unknown, the first
    /// time only.
    fn want(&self, who: &str, now: Instant) -> bool {
        let mut unknown = self.unknown.lock();
        if unknown.len() >= UNKNOWN_MAX && !unknown.contains_key(who) {
            unknown.clear();
        }
        let entry = unknown.entry(who.to_owned()).or_insert(Unknown {
            first: now,
            next: now,
            pause: ASK_AGAIN_MIN,
            logged: false,
        });
        if now < entry.next {
            return false;
        }
        entry.next = now + entry.pause;
        entry.pause = (entry.pause * 2).min(ASK_AGAIN_MAX);
        self.wanted.notify_one();
        now.duration_since(entry.first) > UNKNOWN_AFTER && !std::mem::replace(&mut entry.logged, true)
    }
}

impl Engine {
    /// A member of this cluster says who its members are.
    pub(crate) fn introduce(&self, members: &[wire::Member], applied: u64) {
        let mut known = self.introductions.members.lock();
        for member in members {
            let value = Member { name: member.name.clone(), address: member.address.clone() };
            if known.get(&member.node).is_none_or(|(_, at)| *at <= applied) {
                known.insert(member.node, (value, applied));
            }
        }
    }

    /// The members as this node's log has them, and those that it does not have yet.
    fn members(&self) -> BTreeMap<u64, Member> {
        let (mut members, applied) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            let nodes = metrics.membership_config.nodes().map(|(node, member)| (*node, member.clone()));
            (nodes.collect::<BTreeMap<_, _>>(), metrics.last_applied.map_or(0, |id| id.index))
        };
        let mut introduced = self.introductions.members.lock();
        if !members.is_empty() {
            introduced.retain(|_, (_, at)| *at > applied);
        }
        for (node, (member, _)) in introduced.iter() {
            members.entry(*node).or_insert_with(|| member.clone());
        }
        members
    }

    /// Whether the certificate is a member's. Without TLS there is none.
    pub(crate) fn is_members(&self, peer: &PeerCertificate) -> bool {
        self.members().values().any(|member| peer.is_valid_for(&member.name, &member.address))
    }

    /// For each call, before anything of it is read.
    #[allow(clippy::result_large_err)] // tonic's own type
    pub(crate) fn check_certificate(&self, peer: &PeerCertificate) -> Result<(), Status> {
        if self.is_members(peer) {
            return Ok(());
        }
        let who = peer.label();
        self.unknown(&who, &who);
        Err(Status::permission_denied(format!("{who} is no member's: it may only ask to join")))
    }

    fn unknown(&self, key: &str, who: &str) {
        if self.introductions.want(key, Instant::now()) {
            self.introductions.refusals.line(|more| {
                warn!(
                    target: EVENTS,
                    "messages are refused: {who} is no member of this cluster; it has to be added first, or it was removed{more}"
                );
            });
        }
    }

    /// Refuses what is not for this node, or not from whom it claims.
    #[allow(clippy::result_large_err)]
    pub(crate) fn check_envelope(
        &self,
        peer: Option<&PeerCertificate>,
        envelope: Option<&wire::Envelope>,
    ) -> Result<(), Status> {
        let envelope = envelope.ok_or_else(|| Status::invalid_argument("the message has no envelope"))?;
        if envelope.cluster[..] != self.identity.cluster {
            return Err(Status::failed_precondition("the message is for another cluster"));
        }
        if envelope.to != self.node() {
            return Err(Status::failed_precondition(format!(
                "the message is for node n{}, this is n{}",
                envelope.to,
                self.node()
            )));
        }
        let Some(member) = self.members().remove(&envelope.from) else {
            let who = format!("n{}", envelope.from);
            let certificate = peer.map_or_else(String::new, |peer| format!(" with {}", peer.label()));
            self.unknown(&who, &format!("{who}{certificate}"));
            return Err(Status::permission_denied(format!(
                "{who} is no member of this cluster, as far as is known here"
            )));
        };
        match peer {
            Some(peer) if !peer.is_valid_for(&member.name, &member.address) => Err(Status::permission_denied(format!(
                "n{} is `{}` ({}), and the certificate is not valid for it",
                envelope.from, member.name, member.address
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a vote, and positions that come with it, that would leave no room for any later ones.
    #[allow(clippy::result_large_err)]
    pub(super) fn check_jump<'a>(
        &self,
        vote: &Vote,
        positions: impl IntoIterator<Item = &'a LogId>,
    ) -> Result<(), Status> {
        let (term, last) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_term, metrics.last_log_index.unwrap_or(0))
        };
        let from = vote.leader_id.node_id;
        jump(term, last, vote, positions).map_err(|why| {
            self.introductions.refusals.line(|more| {
                warn!(target: EVENTS, "a message in the name of n{from} is refused: {why}{more}");
            });
            Status::invalid_argument(why)
        })
    }
}

fn jump<'a>(term: u64, last: u64, vote: &Vote, positions: impl IntoIterator<Item = &'a LogId>) -> Result<(), String> {
    let voted = vote.leader_id.term;
    if voted > term.saturating_add(TERMS_AHEAD_MAX) {
        return Err(format!("term {voted} is absurd, the current one is {term}"));
    }
    for position in positions {
        if position.leader_id.term > voted {
            return Err(format!("an entry of term {} in a message of term {voted}", position.leader_id.term));
        }
        if position.index > last.saturating_add(ENTRIES_AHEAD_MAX) {
            return Err(format!("entry {} is absurd, the last one here is {last}", position.index));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{log_id_from_wire, vote_from_wire};

    fn vote(term: u64) -> Vote {
        vote_from_wire(wire::Vote { term, node: 2, committed: false })
    }

    fn position(term: u64, index: u64) -> LogId {
        log_id_from_wire(wire::LogId { term, node: 2, index })
    }

    #[test]
    fn terms_and_positions_that_jump_absurdly_are_refused() {
        assert_eq!(jump(7, 100, &vote(8), &[position(7, 100)]), Ok(()));
        assert_eq!(jump(0, 0, &vote(1 << 32), &[position(5, 1 << 40)]), Ok(()), "a new node is far behind");
        for (voted, positions) in [
            (u64::MAX, vec![]),
            (7 + (1 << 32) + 1, vec![]),
            (8, vec![position(9, 100)]),
            (8, vec![position(8, 100), position(8, u64::MAX)]),
        ] {
            assert!(jump(7, 100, &vote(voted), &positions).is_err(), "{voted} {positions:?}");
        }
    }

    #[test]
    fn others_are_asked_about_an_unknown_sender_more_and_more_rarely_and_it_is_named_once() {
        let (introductions, start) = (Introductions::default(), Instant::now());
        let (mut named, mut asked, mut next) = (0, 0, None);
        for millis in 0..60_000 {
            let now = start + Duration::from_millis(millis);
            named += usize::from(introductions.want("n777", now));
            let planned = Some(introductions.unknown.lock()["n777"].next);
            asked += usize::from(planned != next);
            next = planned;
        }
        assert_eq!(named, 1);
        assert!((5..40).contains(&asked), "{asked} times in a minute");
        for number in 0..10_000 {
            introductions.want(&format!("n{number}"), start);
        }
        assert!(introductions.unknown.lock().len() <= UNKNOWN_MAX);
    }
}
