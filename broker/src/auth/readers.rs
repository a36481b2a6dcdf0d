//! Who may read what, asked for clients that are not connected here, or of which several could get a message.
//! Always true: asking changes nothing and says nothing; without an ACL file nobody is asked about; about a door that this
//! node does not have nothing is known, unless the same rules hold at all of its doors.
//! Not here: a client's own connection, which judges each message by itself ([`super::ClientAcl`]) and has the last word.
use super::Acl;
use mosquorum_cluster::state::{Door, NodeRules};
use std::sync::Arc;

/// The rules of all listeners at one moment.
#[derive(Debug, Default)]
pub struct Readers(Doors);

#[derive(Debug, Default)]
enum Doors {
    /// No rules anywhere.
    #[default]
    Open,
    Same(u64, Arc<Acl>),
    /// Ascending. Several listeners may have one door (a port on several addresses): it is that of the widest rules.
    Each(Vec<(Door, u64, Vec<Arc<Acl>>)>),
}

impl Readers {
    /// Of listeners with their rules.
    pub fn new(listeners: impl IntoIterator<Item = (Door, Arc<Acl>)>) -> Self {
        let mut doors: Vec<(Door, u64, Vec<Arc<Acl>>)> = Vec::new();
        for (door, acl) in listeners {
            let fingerprint = acl.fingerprint();
            match doors.iter_mut().find(|(known, ..)| *known == door) {
                Some((_, known, acls)) if *known != fingerprint => {
                    // Another number than that of either.
                    *known = known.rotate_left(1) ^ fingerprint;
                    acls.push(acl);
                }
                Some(_) => {}
                None => doors.push((door, fingerprint, vec![acl])),
            }
        }
        doors.sort_unstable_by_key(|(door, ..)| *door);
        let mut all = doors.iter().map(|(_, fingerprint, acls)| (*fingerprint, acls));
        let first = all.next().map(|(fingerprint, acls)| (fingerprint, acls.clone()));
        Self(match first {
            None => Doors::Open,
            Some((fingerprint, acls)) if acls.len() == 1 && all.all(|(other, _)| other == fingerprint) => {
                if acls[0].is_open() { Doors::Open } else { Doors::Same(fingerprint, acls[0].clone()) }
            }
            Some(_) => Doors::Each(doors),
        })
    }

    /// Whether nobody need be asked about.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.0, Doors::Open)
    }

    /// The rules as other nodes get them.
    #[must_use]
    pub fn node_rules(&self) -> NodeRules {
        match &self.0 {
            Doors::Open => NodeRules::Unknown,
            Doors::Same(fingerprint, _) => NodeRules::Same(*fingerprint),
            Doors::Each(doors) => NodeRules::Each(doors.iter().map(|(door, number, _)| (*door, *number)).collect()),
        }
    }

    /// The number of the rules at this door. `None`: no such door here, or no rules.
    #[must_use]
    pub fn fingerprint(&self, door: Door) -> Option<u64> {
        match &self.0 {
            Doors::Open => None,
            Doors::Same(fingerprint, _) => Some(*fingerprint),
            Doors::Each(doors) => {
                let place = doors.binary_search_by_key(&door, |(door, ..)| *door).ok()?;
                Some(doors[place].1)
            }
        }
    }

    /// Whether a client that came by this door may read the topic, as far as is known here.
    #[must_use]
    pub fn may_read(&self, door: Door, client_id: &str, username: Option<&str>, topic: &str) -> bool {
        if door == Door::INTERNAL {
            return true;
        }
        match &self.0 {
            Doors::Open => true,
            Doors::Same(_, acl) => acl.may_read(client_id, username, topic),
            Doors::Each(doors) => match doors.binary_search_by_key(&door, |(door, ..)| *door) {
                Ok(place) => doors[place].2.iter().any(|acl| acl.may_read(client_id, username, topic)),
                Err(_) => true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse_acl, *};

    fn acl(text: &str) -> Arc<Acl> {
        Arc::new(parse_acl(text, "acl").unwrap())
    }

    fn reads(readers: &Readers, door: u32, topic: &str) -> bool {
        readers.may_read(Door(door), "c", None, topic)
    }

    #[test]
    fn without_rules_nothing_is_announced_and_everybody_reads() {
        for readers in [Readers::default(), Readers::new([(Door(1), Arc::new(Acl::open()))])] {
            assert!(readers.is_open() && readers.node_rules() == NodeRules::Unknown && reads(&readers, 1, "a"));
        }
    }

    #[test]
    fn rules_that_are_the_same_everywhere_hold_for_doors_of_other_nodes_too_and_never_inside() {
        let (rules, again) = (acl("topic read a\n"), acl("topic read a\n"));
        let readers = Readers::new([(Door(1), rules.clone()), (Door(2), again)]);
        assert_eq!(readers.node_rules(), NodeRules::Same(rules.fingerprint()));
        for door in 1..4 {
            assert!(reads(&readers, door, "a") && !reads(&readers, door, "b"));
        }
        assert!(readers.may_read(Door::INTERNAL, "bridge", None, "b"));
    }

    #[test]
    fn each_door_has_its_rules_and_of_an_unknown_one_nothing_is_said() {
        let readers = Readers::new([(Door(2), acl("topic read b\n")), (Door(1), Arc::new(Acl::open()))]);
        assert_eq!(
            readers.node_rules(),
            NodeRules::Each(vec![(Door(1), 0), (Door(2), acl("topic read b\n").fingerprint())])
        );
        assert!(
            reads(&readers, 1, "a") && !reads(&readers, 2, "a") && reads(&readers, 2, "b") && reads(&readers, 3, "a")
        );
    }

    #[test]
    fn two_listeners_of_one_door_let_read_what_either_does() {
        let two = |first: &str, second: &str| Readers::new([(Door(1), acl(first)), (Door(1), acl(second))]);
        let readers = two("topic read a\n", "topic read b\n");
        assert!(reads(&readers, 1, "a") && reads(&readers, 1, "b") && !reads(&readers, 1, "c"));
        assert_ne!(readers.node_rules(), two("topic read a\n", "topic read c\n").node_rules());
    }
}
