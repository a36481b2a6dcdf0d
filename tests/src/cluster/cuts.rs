//! Links between nodes that are cut or lossy, by packet filters in the nodes' namespaces.
//! Always true: a packet is dropped where it arrives, so its sender notices nothing; each cut has tables of its own, so
//! several are in effect at once and each is healed alone; packets of clients are never dropped.
use super::network::{Namespaces, output, run};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    io,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A cut that is in effect until it is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut(u32);

impl Cut {
    fn table(self) -> String {
        format!("mosquorum_cut_{}", self.0)
    }
}

/// The cuts in effect and the nodes that have a table for them.
#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    last: u32,
    open: BTreeMap<Cut, BTreeSet<usize>>,
}

impl Cuts {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of each node concerned, those whose packets it does not get.
type Deaf = BTreeMap<usize, BTreeSet<usize>>;

impl Namespaces {
    /// Drops every packet between `nodes` and the other nodes, in both directions.
    /// # Errors
    /// When nft fails.
    pub fn partition(&self, nodes: &[usize]) -> io::Result<Cut> {
        self.cut(self.around(nodes), 100)
    }

    /// Drops every packet between two nodes, in both directions.
    /// # Errors
    /// When nft fails.
    pub fn cut_pair(&self, a: usize, b: usize) -> io::Result<Cut> {
        self.cut(BTreeMap::from([(a, BTreeSet::from([b])), (b, BTreeSet::from([a]))]), 100)
    }

    /// Drops every packet that one node sends to another; those of the other arrive.
    /// # Errors
    /// When nft fails.
    pub fn cut_one_way(&self, from: usize, to: usize) -> io::Result<Cut> {
        self.cut(BTreeMap::from([(to, BTreeSet::from([from]))]), 100)
    }

    /// Drops so many percent of the packets between a node and the other nodes, at random.
    /// # Errors
    /// When nft fails.
    pub fn lose(&self, node: usize, percent: u32) -> io::Result<Cut> {
        self.cut(self.around(&[node]), percent)
    }

    /// Takes one cut back; returns how many packets it dropped. One that is healed already dropped none.
    /// # Errors
    /// When nft fails.
    pub fn heal_cut(&self, cut: Cut) -> io::Result<u64> {
        let nodes = self.cuts.ledger().open.remove(&cut).unwrap_or_default();
        let (mut dropped, mut failed) = (0, None);
        for node in nodes {
            match self.take_back(node, cut) {
                Ok(packets) => dropped += packets,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(dropped), Err)
    }

    /// Lets every packet through again; returns how many were dropped.
    /// # Errors
    /// When nft fails.
    pub fn heal(&self) -> io::Result<u64> {
        let open: Vec<Cut> = self.cuts.ledger().open.keys().copied().collect();
        let (mut dropped, mut failed) = (0, None);
        for cut in open {
            match self.heal_cut(cut) {
                Ok(packets) => dropped += packets,
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(dropped), Err)
    }

    /// All links between `nodes` and the others, both ways.
    fn around(&self, nodes: &[usize]) -> Deaf {
        let (inside, outside): (BTreeSet<usize>, BTreeSet<usize>) =
            (0..self.count()).partition(|node| nodes.contains(node));
        let mut deaf: Deaf = inside.iter().map(|node| (*node, outside.clone())).collect();
        deaf.extend(outside.iter().map(|node| (*node, inside.clone())));
        deaf
    }

    fn cut(&self, deaf: Deaf, percent: u32) -> io::Result<Cut> {
        let cut = {
            let mut ledger = self.cuts.ledger();
            ledger.last += 1;
            let cut = Cut(ledger.last);
            ledger.open.insert(cut, BTreeSet::new());
            cut
        };
        for (node, from) in deaf {
            if let Err(error) = self.drop_arrivals(node, &from, percent, cut) {
                let _ = self.heal_cut(cut);
                return Err(error);
            }
            self.cuts.ledger().open.entry(cut).or_default().insert(node);
        }
        Ok(cut)
    }

    fn drop_arrivals(&self, node: usize, from: &BTreeSet<usize>, percent: u32, cut: Cut) -> io::Result<()> {
        let mut rules = format!("table inet {} {{\n chain arrivals {{\n", cut.table());
        rules.push_str("  type filter hook input priority 0;\n");
        // Each sender has its rule: a set must not be empty, and a node alone has nobody.
        for from in from {
            let random = if percent < 100 { format!(" numgen random mod 100 < {percent}") } else { String::new() };
            let _ = writeln!(rules, "  ip saddr {}{random} counter drop", self.address(*from));
        }
        rules.push_str(" }\n}\n");
        let mut child = Command::new("ip")
            .args(["netns", "exec", self.name(node), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            io::Write::write_all(&mut stdin, rules.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Removes a node's table; how many packets it dropped.
    fn take_back(&self, node: usize, cut: Cut) -> io::Result<u64> {
        let (namespace, table) = (self.name(node), cut.table());
        // Counted before the table goes: the packets between the two calls are not counted.
        let text = output("ip", &["netns", "exec", namespace, "nft", "list", "table", "inet", &table]);
        run("ip", &["netns", "exec", namespace, "nft", "delete", "table", "inet", &table])?;
        let (text, mut dropped) = (text?, 0);
        let mut words = text.split_whitespace();
        while words.any(|word| word == "packets") {
            dropped += words.next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::network::{Place, why_no_namespaces},
        skip::{has_program, skip},
    };
    use std::process::Child;

    /// Answers whoever connects.
    struct Server(Child);

    impl Server {
        fn start(place: &Place) -> Self {
            let script = format!(
                "import socket,sys\ns=socket.create_server(('{}',1883))\nprint('up',flush=True)\nwhile 1: s.accept()",
                place.client_address.ip()
            );
            let mut words = place.wrapper();
            words.extend(["python3".into(), "-c".into(), script]);
            let mut command = Command::new(&words[0]);
            let mut child = command.args(&words[1..]).stdout(Stdio::piped()).spawn().expect("python runs");
            let out = child.stdout.take().expect("piped");
            io::BufRead::read_line(&mut io::BufReader::new(out), &mut String::new()).expect("a line");
            Self(child)
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn connects(from: Option<&Place>, to: &Place) -> bool {
        let script =
            format!("import socket; socket.create_connection(('{}',1883),timeout=0.7)", to.client_address.ip());
        let mut words = from.map(Place::wrapper).unwrap_or_default();
        words.extend(["python3".into(), "-c".into(), script]);
        Command::new(&words[0]).args(&words[1..]).stderr(Stdio::null()).status().expect("python runs").success()
    }

    /// How many of so many datagrams arrive at another node.
    fn datagrams(from: &Place, to: &Place, count: u32) -> u32 {
        let receive = format!(
            "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('{}',5000))\ns.settimeout(1.5)\n\
             print('up',flush=True)\nn=0\ntry:\n while 1: s.recv(9); n+=1\nexcept TimeoutError: print(n,flush=True)",
            to.client_address.ip()
        );
        let send = format!(
            "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
             for _ in range({count}): s.sendto(b'x',('{}',5000))",
            to.client_address.ip()
        );
        let start = |place: &Place, script: String| {
            let mut words = place.wrapper();
            words.extend(["python3".into(), "-c".into(), script]);
            Command::new(&words[0]).args(&words[1..]).stdout(Stdio::piped()).spawn().expect("python runs")
        };
        let mut receiver = start(to, receive);
        let mut lines = io::BufRead::lines(io::BufReader::new(receiver.stdout.take().expect("piped")));
        lines.next().expect("it is up").expect("a line");
        start(from, send).wait().expect("it ends");
        let arrived = lines.next().expect("it counts").expect("a line");
        receiver.wait().expect("it ends");
        arrived.parse().expect("a number")
    }

    fn namespaces(nodes: usize) -> Option<Namespaces> {
        if let Some(why) = why_no_namespaces().or_else(|| (!has_program("python3")).then(|| "no python3".into())) {
            skip(&why);
            return None;
        }
        Some(Namespaces::create(nodes).expect("namespaces"))
    }

    #[test]
    fn a_partition_cuts_nodes_from_each_other_but_not_from_us() {
        let Some(namespaces) = namespaces(2) else { return };
        let places = namespaces.places();
        let _server = Server::start(&places[1]);
        assert!(connects(Some(&places[0]), &places[1]) && connects(None, &places[1]));
        namespaces.partition(&[1]).expect("nft works");
        assert!(!connects(Some(&places[0]), &places[1]) && connects(None, &places[1]));
        assert!(namespaces.heal().expect("nft works") > 0, "dropped packets are counted");
        assert!(connects(Some(&places[0]), &places[1]));
    }

    #[test]
    fn cuts_are_healed_one_by_one_and_leave_the_third_node_alone() {
        let Some(namespaces) = namespaces(3) else { return };
        let places = namespaces.places();
        let _server = Server::start(&places[1]);
        let reaches = |from: usize| connects(Some(&places[from]), &places[1]);
        let pair = namespaces.cut_pair(0, 1).expect("nft works");
        let one_way = namespaces.cut_one_way(1, 2).expect("nft works");
        // The answers to node 2 are lost.
        assert!(!reaches(0) && !reaches(2) && connects(None, &places[1]));
        assert!(namespaces.heal_cut(one_way).expect("nft works") > 0);
        assert!(!reaches(0) && reaches(2));
        assert!(namespaces.heal_cut(pair).expect("nft works") > 0);
        assert!(reaches(0));
        assert_eq!(namespaces.heal().expect("nothing is left"), 0);
    }

    #[test]
    fn a_one_way_cut_lets_the_packets_of_the_other_way_arrive() {
        let Some(namespaces) = namespaces(2) else { return };
        let places = namespaces.places();
        namespaces.cut_one_way(0, 1).expect("nft works");
        assert_eq!(datagrams(&places[0], &places[1], 20), 0);
        assert_eq!(datagrams(&places[1], &places[0], 20), 20);
        assert_eq!(namespaces.heal().expect("nft works"), 20);
        namespaces.lose(0, 30).expect("nft works");
        assert!((40..=100).contains(&datagrams(&places[1], &places[0], 100)));
        assert!((40..=100).contains(&datagrams(&places[0], &places[1], 100)));
        assert!(namespaces.heal().expect("nft works") > 0);
    }
}
