//! Measurements: `cargo test --release -p mosquorum-cluster -- --ignored --nocapture publishes_per_second`
use super::*;
use std::time::Instant;

#[test]
#[ignore = "measurement"]
fn publishes_per_second() {
    const BATCH: usize = 200;
    for subscribers in [1_usize, 10, 1000] {
        let mut world = World::new();
        let mut epochs = Vec::new();
        for number in 0..subscribers {
            let client_id = format!("c{number}");
            let (epoch, ..) = world.connect(ConnectCommand {
                limits: QueueLimits { messages: 10_000, inflight: 20, ..QueueLimits::default() },
                ..connect(&client_id)
            });
            world.subscribe(&client_id, epoch, sub("sensors/+/temperature", 1));
            epochs.push((Utf8::from(client_id), epoch));
        }
        let rounds = 1_000_000 / BATCH / subscribers;
        let messages: Vec<_> = (0..BATCH).map(|_| publish(message("sensors/kitchen/temperature", "21.5", 1))).collect();
        let (mut out, mut published, mut acknowledged) = (Applied::default(), 0.0, 0.0);
        for _ in 0..rounds {
            let batch = world.batch(NODE, messages.clone());
            world.index += 1;
            let start = Instant::now();
            world.state.apply(LogIndex(world.index), &batch, &mut out);
            published += start.elapsed().as_secs_f64();
            let acks = |(client_id, epoch): &(Utf8, Epoch)| {
                let queue = world.state.session(client_id).unwrap().queue();
                let acks = queue.iter_from(0).map(|entry| (entry.packet_id(), AckKind::PubAck)).collect();
                Command::Acknowledge { client_id: client_id.clone(), epoch: *epoch, acks }
            };
            let acks = epochs.iter().map(acks).collect();
            let batch = world.batch(NODE, acks);
            world.index += 1;
            let start = Instant::now();
            world.state.apply(LogIndex(world.index), &batch, &mut out);
            acknowledged += start.elapsed().as_secs_f64();
        }
        let deliveries = (rounds * BATCH * subscribers) as f64;
        println!(
            "{subscribers} subscribers: {:.0} ns to queue, {:.0} ns to acknowledge each delivery",
            published / deliveries * 1e9,
            acknowledged / deliveries * 1e9
        );
    }
}
