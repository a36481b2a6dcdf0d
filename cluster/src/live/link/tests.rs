//! Links under loss, repetition, broken connections and new incarnations of both ends.
use super::*;
use crate::{ids::Incarnation, live::testing::Random};

const ME: Incarnation = Incarnation(7);

#[test]
fn batches_keep_to_their_bounds_but_always_move() {
    let mut outbox = Outbox::default();
    for item in 0..5u32 {
        outbox.push(item, if item == 2 { 1000 } else { 10 });
    }
    let mut taken = Vec::new();
    let mut firsts = Vec::new();
    while let Some(first) = outbox.next_batch(100, 2, |item| taken.push(*item)) {
        firsts.push(first);
    }
    assert_eq!((taken, firsts), (vec![0, 1, 2, 3, 4], vec![1, 3, 4]));
    assert_eq!(outbox.bytes(), 1040);
    assert_eq!(outbox.acknowledge(4).map(Iterator::count), Ok(4));
    assert_eq!((outbox.bytes(), outbox.len()), (10, 1));
    assert!(outbox.acknowledge(3).is_err() && outbox.acknowledge(6).is_err());
    assert_eq!(outbox.resume(4).map(Iterator::count), Ok(0));
    assert!(outbox.has_unsent());
}

#[test]
fn nothing_is_taken_from_a_sender_that_is_over() {
    let mut inbox = Inbox::default();
    assert_eq!(inbox.hello(ME, Incarnation(3), 0), Ok(Accepted { fresh: true, received: 0 }));
    assert_eq!(inbox.receive((ME, Incarnation(3)), 0, 1, 4), Ok(0));
    assert_eq!(inbox.hello(ME, Incarnation(3), 1), Ok(Accepted { fresh: false, received: 0 }));
    assert_eq!(inbox.hello(ME, Incarnation(3), 0), Ok(Accepted { fresh: false, received: 4 }));
    assert_eq!(inbox.receive((ME, Incarnation(3)), 0, 3, 4), Ok(2));
    assert_eq!(inbox.receive((ME, Incarnation(3)), 0, 9, 1), Err(LinkError::Gap { first: 9, expected: 7 }));
    assert!(inbox.end(Incarnation(3)));
    assert_eq!(inbox.receive((ME, Incarnation(3)), 0, 7, 1), Err(LinkError::Over(Incarnation(3))));
    assert_eq!(inbox.hello(ME, Incarnation(3), 0), Err(LinkError::Over(Incarnation(3))));
    assert_eq!(inbox.hello(ME, Incarnation(4), 0), Ok(Accepted { fresh: true, received: 0 }));
    assert_eq!(inbox.hello(ME, Incarnation(2), 0), Err(LinkError::Over(Incarnation(2))));
}

#[test]
fn what_came_under_a_new_incarnation_of_this_node_before_it_began_is_kept() {
    let mut inbox = Inbox::default();
    let later = Incarnation(8);
    assert_eq!(inbox.hello(ME, Incarnation(3), 0), Ok(Accepted { fresh: true, received: 0 }));
    assert_eq!(inbox.receive((ME, Incarnation(3)), 0, 1, 4), Ok(0));
    assert_eq!(inbox.hello(later, Incarnation(3), 0), Ok(Accepted { fresh: true, received: 0 }));
    assert_eq!(inbox.receive((later, Incarnation(3)), 0, 1, 2), Ok(0));
    assert!(!inbox.restart(later), "it has begun with the greeting");
    assert_eq!(inbox.hello(later, Incarnation(3), 0), Ok(Accepted { fresh: false, received: 2 }));
    assert_eq!(inbox.hello(ME, Incarnation(3), 0), Err(LinkError::Over(ME)));
    assert_eq!(inbox.receive((ME, Incarnation(3)), 0, 3, 1), Err(LinkError::Over(ME)));
}

/// A connection that may break at any moment: then what is under way in both directions is lost, cut off at one point.
#[test]
fn items_arrive_once_and_in_order_over_broken_connections() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut outbox = Outbox::default();
        let mut inbox = Inbox::default();
        let (mut incarnation, mut pushed, mut handled) = (Incarnation(1), 0u64, Vec::new());
        let mut under_way: Vec<(u64, Vec<u64>)> = Vec::new();
        let mut acks: Vec<u64> = Vec::new();
        let mut floor = 0;
        inbox.hello(ME, incarnation, 0).expect("the first incarnation");
        for _ in 0..2000 {
            match random.below(10) {
                0..3 => {
                    outbox.push(pushed, 1 + random.below(20) as usize);
                    pushed += 1;
                }
                3..5 => {
                    let mut items = Vec::new();
                    if let Some(first) = outbox.next_batch(40, 8, |item| items.push(*item)) {
                        under_way.push((first, items));
                    }
                }
                5..7 if !under_way.is_empty() => {
                    let (first, items) = under_way.remove(0);
                    let known = inbox.receive((ME, incarnation), 0, first, items.len()).expect("in order");
                    handled.extend(&items[known..]);
                    acks.push(inbox.received(0));
                }
                7..9 if !acks.is_empty() => {
                    outbox.acknowledge(acks.remove(0)).expect("of what was sent");
                }
                9 if random.percent(20) => {
                    under_way.clear();
                    acks.clear();
                    if random.percent(10) {
                        incarnation.0 += 1;
                        outbox.reset();
                        floor = pushed;
                    }
                    let hello = inbox.hello(ME, incarnation, 0).expect("the latest incarnation");
                    outbox.resume(hello.received).expect("of what was sent");
                }
                _ => {}
            }
        }
        under_way.clear();
        outbox
            .resume(inbox.hello(ME, incarnation, 0).expect("the latest incarnation").received)
            .expect("of what was sent");
        let mut rest = Vec::new();
        while let Some(first) = outbox.next_batch(40, 8, |item| rest.push(*item)) {
            let known = inbox.receive((ME, incarnation), 0, first, rest.len()).expect("in order");
            handled.extend(rest.drain(..).skip(known));
        }
        assert!(handled.is_sorted_by(|a, b| a < b), "seed {seed}: repeated or out of order");
        let last: Vec<_> = handled.into_iter().filter(|item| *item >= floor).collect();
        assert_eq!(last, (floor..pushed).collect::<Vec<_>>(), "seed {seed}");
    }
}
