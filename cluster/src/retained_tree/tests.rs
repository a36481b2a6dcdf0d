//! Covers MQTT 5.0 section 4.7 from the side of retained messages [MQTT-3.3.1-9].
use super::*;
use mosquorum_proto::mqtt::TopicFilter;

fn tree(topics: &[&str]) -> RetainedTree<()> {
    let mut tree = RetainedTree::new();
    for topic in topics {
        tree.insert(TopicName::try_from(*topic).unwrap(), ());
    }
    tree
}

fn found<'t>(tree: &'t RetainedTree<()>, filter: &str, after: Option<&str>, max: usize) -> Vec<&'t str> {
    let mut topics = Vec::new();
    let _ = tree.matches(filter, after, &mut { usize::MAX }, |topic, ()| {
        topics.push(topic.as_str());
        if topics.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    topics
}

#[test]
fn everything_below_a_name_follows_it_at_once() {
    let tree = tree(&["a!", "a/b", "a", "a/", "b", "a\u{1}", "a/b/c", "/"]);
    let order: Vec<_> = tree.iter().map(|(topic, ())| topic.as_str()).collect();
    assert_eq!(order, ["/", "a", "a/", "a/b", "a/b/c", "a\u{1}", "a!", "b"]);
}

#[test]
fn filter_finds_its_names_in_order() {
    let tree = tree(&["a/b", "a/b/c", "a/x/c", "a", "$SYS/a", "b/b", "a!/b", "a/b/c/d", "a//c"]);
    assert_eq!(found(&tree, "a/#", None, 99), ["a", "a//c", "a/b", "a/b/c", "a/b/c/d", "a/x/c"]);
    assert_eq!(found(&tree, "a/+/c", None, 99), ["a//c", "a/b/c", "a/x/c"]);
    assert_eq!(found(&tree, "+/b", None, 99), ["a/b", "a!/b", "b/b"]);
    assert_eq!(found(&tree, "a/b", None, 99), ["a/b"]);
    assert_eq!(found(&tree, "a/b/c/d/#", None, 99), ["a/b/c/d"]);
    assert_eq!(found(&tree, "x", None, 99), [""; 0]);
}

/// [MQTT-4.7.2-1]
#[test]
fn leading_wildcard_does_not_find_names_that_start_with_dollar() {
    let tree = tree(&["$SYS/a", "$a", "a", "!/a"]);
    assert_eq!(found(&tree, "#", None, 99), ["!/a", "a"]);
    assert_eq!(found(&tree, "+/a", None, 99), ["!/a"]);
    assert_eq!(found(&tree, "$SYS/#", None, 99), ["$SYS/a"]);
}

#[test]
fn search_goes_on_after_a_name_even_if_that_name_is_gone() {
    let mut tree = tree(&["a/1/x", "a/2/x", "a/2/y", "a/3/x", "a/4/x"]);
    assert_eq!(found(&tree, "a/+/x", None, 2), ["a/1/x", "a/2/x"]);
    tree.remove("a/2/x");
    assert_eq!(found(&tree, "a/+/x", Some("a/2/x"), 1), ["a/3/x"]);
    assert_eq!(found(&tree, "a/+/x", Some("a/4/x"), 9), [""; 0]);
    assert_eq!(found(&tree, "b", Some("a"), 9), [""; 0]);
}

/// However little of it matches: others wait for the lock under which it is searched.
#[test]
fn a_search_looks_at_no_more_names_than_it_may_and_goes_on_where_it_stopped() {
    let mut tree = RetainedTree::new();
    for number in 0..10_000 {
        tree.insert(TopicName::try_from(format!("r/{number:05}/x").as_str()).unwrap(), ());
    }
    tree.insert(TopicName::try_from("r/07000/zz").unwrap(), ());
    let (mut turns, mut cursor, mut found) = (0, None::<TopicName>, Vec::new());
    loop {
        let next = tree.matches("r/+/zz", cursor.as_ref().map(TopicName::as_str), &mut 100, |topic, ()| {
            found.push(topic.as_str());
            ControlFlow::Continue(())
        });
        turns += 1;
        cursor = next.cloned();
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, ["r/07000/zz"]);
    assert!(turns >= 100, "{turns}");
}

#[test]
fn tree_agrees_with_the_definition_for_random_names() {
    let mut random = 0xD1B5_4A32_D192_ED03_u64;
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % bound as u64) as usize
    };
    let words = ["a", "b", "", "$x", "a!", "\u{1}", "ab", "ü"];
    for _ in 0..300 {
        let mut tree = RetainedTree::new();
        for _ in 0..next(60) {
            let levels: Vec<&str> = (0..1 + next(4)).map(|_| words[next(8)]).collect();
            if let Ok(name) = TopicName::try_from(levels.join("/").as_str()) {
                tree.insert(name, ());
            }
        }
        for _ in 0..20 {
            let mut levels: Vec<&str> =
                (0..1 + next(4)).map(|_| if next(2) == 0 { "+" } else { words[next(8)] }).collect();
            if next(3) == 0 {
                *levels.last_mut().unwrap() = "#";
            }
            let Ok(filter) = TopicFilter::try_from(levels.join("/").as_str()) else { continue };
            let expected: Vec<&str> =
                tree.iter().map(|(name, ())| name).filter(|name| filter.matches(name)).map(TopicName::as_str).collect();
            let mut chunks: Vec<&str> = Vec::new();
            loop {
                let chunk = found(&tree, filter.as_str(), chunks.last().copied(), 3);
                chunks.extend(&chunk);
                if chunk.len() < 3 {
                    break;
                }
            }
            assert_eq!(chunks, expected, "{filter}");
        }
    }
}

/// `cargo test --release -p mosquorum-cluster -- --ignored --nocapture a_million_retained`
#[test]
#[ignore = "measurement"]
fn branches_of_a_million_retained_names() {
    let mut tree = RetainedTree::new();
    let start = std::time::Instant::now();
    for device in 0..1000 {
        for value in 0..1000 {
            tree.insert(TopicName::try_from(format!("plant/{device}/sensor/{value}").as_str()).unwrap(), ());
        }
    }
    println!("insert: {:?} each", start.elapsed() / 1_000_000);
    for filter in ["plant/500/sensor/7", "plant/500/#", "plant/+/sensor/7", "#", "+/+/x/#"] {
        let start = std::time::Instant::now();
        let count = found(&tree, filter, None, usize::MAX).len();
        println!("{filter}: {count} in {:?}", start.elapsed());
    }
}
