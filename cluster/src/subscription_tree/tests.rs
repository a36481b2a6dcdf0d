//! Covers MQTT 5.0 section 4.7: [MQTT-4.7.1-1] to [MQTT-4.7.3-4].
use super::*;
use mosquorum_proto::mqtt::{TopicFilter, TopicName};

fn tree(filters: &[&str]) -> SubscriptionTree<usize, ()> {
    let mut tree = SubscriptionTree::new();
    for (number, filter) in filters.iter().enumerate() {
        tree.insert(filter, number, ());
    }
    tree
}

fn found(tree: &SubscriptionTree<usize, ()>, topic: &str) -> Vec<usize> {
    let mut keys = Vec::new();
    tree.matches(topic, |key, _| keys.push(*key));
    assert_eq!(tree.has_match(topic), !keys.is_empty());
    keys
}

#[test]
fn wildcards_match_as_the_standard_says() {
    let cases = [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("#", "sport/tennis", true),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("a//b", "a//b", true),
        ("a/+/b", "a//b", true),
        ("/#", "////foo///bar", true),
        ("foo/#", "fooo", false),
    ];
    for (filter, topic, expected) in cases {
        assert_eq!(found(&tree(&[filter]), topic).len(), usize::from(expected), "{filter} {topic}");
    }
}

/// [MQTT-4.7.2-1]
#[test]
fn leading_wildcard_does_not_match_a_name_that_starts_with_dollar() {
    let tree = tree(&["#", "+/monitor/Clients", "$SYS/#", "$SYS/monitor/+", "+"]);
    assert_eq!(found(&tree, "$SYS/monitor/Clients"), [3, 2]);
    assert_eq!(found(&tree, "$SYS"), [2]);
    assert_eq!(found(&tree, "a/monitor/Clients"), [1, 0]);
}

#[test]
fn matching_filters_come_in_mosquittos_order() {
    let tree = tree(&["#", "+/b", "a/#", "a/+", "a/b/#", "a/b", "+/#", "+/+"]);
    assert_eq!(found(&tree, "a/b"), [4, 5, 3, 2, 1, 7, 6, 0]);
}

#[test]
fn subscriptions_to_one_filter_stay_in_order_while_others_come_and_go() {
    let mut tree = SubscriptionTree::new();
    let mut expected: Vec<usize> = (0..500).collect();
    for key in &expected {
        assert_eq!(tree.insert("a/b", *key, 0), None);
    }
    for key in (0..500).filter(|key| key % 3 != 1) {
        assert_eq!(tree.remove("a/b", &key), Some(0));
        assert_eq!(tree.remove("a/b", &key), None);
    }
    expected.retain(|key| key % 3 == 1);
    assert_eq!(tree.insert("a/b", 4, 7), Some(0));
    assert_eq!(tree.insert("a/b", 0, 8), None);
    expected.push(0);
    let mut keys = Vec::new();
    tree.matches("a/b", |key, _| keys.push(*key));
    assert_eq!(keys, expected);
    assert_eq!(tree.get("a/b", &4), Some(&7));
    *tree.get_mut("a/b", &4).unwrap() = 9;
    assert_eq!(tree.len(), expected.len());
    for key in &expected {
        assert!(tree.remove("a/b", key).is_some());
    }
    assert!(tree.is_empty());
}

#[test]
fn node_without_subscriptions_and_children_does_not_exist() {
    let mut tree = tree(&["a/b/c/d", "a/b", "a/+/c", "x/#"]);
    let nodes = |tree: &SubscriptionTree<usize, ()>| tree.nodes.len() - tree.free.len();
    assert_eq!(nodes(&tree), 1 + 4 + 2 + 2);
    tree.remove("a/b/c/d", &0);
    assert_eq!(nodes(&tree), 1 + 2 + 2 + 2);
    assert_eq!(tree.remove("a/b/c", &0), None);
    tree.remove("a/b", &1);
    tree.remove("x/#", &3);
    tree.remove("a/+/c", &2);
    assert_eq!((nodes(&tree), tree.nodes.len(), tree.children.len()), (1, 1, 0));
}

#[test]
fn iteration_is_ordered_by_filter_then_by_subscription() {
    let mut tree = tree(&["b", "a/+", "a"]);
    tree.insert("a", 9, ());
    let all: Vec<_> = tree.iter().map(|(filter, key, ())| (filter, *key)).collect();
    assert_eq!(all, [("a".into(), 2), ("a".into(), 9), ("a/+".into(), 1), ("b".into(), 0)]);
}

#[test]
fn tree_agrees_with_the_definition_for_random_filters() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    let words = ["a", "b", "", "$x", "ccc"];
    let mut filters: Vec<Option<TopicFilter>> = Vec::new();
    let mut tree = SubscriptionTree::new();
    for step in 0..3000 {
        let depth = 1 + next(5) as usize;
        let mut levels: Vec<&str> = (0..depth).map(|_| words[next(5) as usize]).collect();
        let name = TopicName::try_from(levels.join("/").as_str());
        for level in &mut levels {
            if next(3) == 0 {
                *level = "+";
            }
        }
        if next(4) == 0 {
            *levels.last_mut().unwrap() = "#";
        }
        if let Ok(filter) = TopicFilter::try_from(levels.join("/").as_str()) {
            tree.insert(filter.as_str(), step, ());
            filters.push(Some(filter));
        } else {
            filters.push(None);
        }
        let gone = next(step as u64 + 1) as usize;
        if next(2) == 0
            && let Some(filter) = filters[gone].take()
        {
            assert_eq!(tree.remove(filter.as_str(), &gone), Some(()));
        }
        let Ok(name) = name else { continue };
        let mut keys = Vec::new();
        tree.matches(name.as_str(), |key, _| keys.push(*key));
        keys.sort_unstable();
        let matching = |filter: &Option<TopicFilter>| filter.as_ref().is_some_and(|filter| filter.matches(&name));
        let expected: Vec<usize> = (0..filters.len()).filter(|key| matching(&filters[*key])).collect();
        assert_eq!(keys, expected, "{name}");
    }
}

#[test]
fn deep_topics_need_no_recursion() {
    let levels = "x/".repeat(199) + "x";
    let tree = tree(&[&levels, &("+/".repeat(199) + "+"), "#"]);
    assert_eq!(found(&tree, &levels), [0, 1, 2]);
}

/// `cargo test --release -p mosquorum-cluster -- --ignored --nocapture tree_with_a_million`
#[test]
#[ignore = "measurement"]
fn tree_with_a_million_filters() {
    let mut tree = SubscriptionTree::new();
    let start = std::time::Instant::now();
    for device in 0..1_000_000_u32 {
        tree.insert(&format!("devices/{device}/commands"), device, ());
    }
    println!("insert: {:?} each", start.elapsed() / 1_000_000);
    let topics: Vec<String> =
        (0..1_000_000_u64).map(|i| format!("devices/{}/commands", i * 7919 % 1_000_000)).collect();
    let start = std::time::Instant::now();
    let mut hits = 0;
    for topic in &topics {
        tree.matches(topic, |_, ()| hits += 1);
    }
    println!("match: {:?} each, {} bytes per node", start.elapsed() / 1_000_000, size_of::<Node<u32, [u32; 2]>>());
    assert_eq!(hits, 1_000_000);
}
