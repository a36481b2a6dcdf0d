//! Decoding never allocates ahead of what was received, and a plain PUBLISH allocates nothing.
#![allow(unsafe_code)] // counting allocations needs a global allocator, and that trait is unsafe
use bytes::{Bytes, BytesMut};
use mosquorum_proto::mqtt::*;
use proptest::prelude::*;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use strategies::versioned_packet;

mod strategies;

thread_local! {
    /// Bytes and calls of this thread; growing a block counts its whole new size.
    static ALLOCATED: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn count(size: usize) {
    // A thread that ends may free and allocate after its counter is gone.
    let _ = ALLOCATED.try_with(|cell| {
        let (bytes, calls) = cell.get();
        cell.set((bytes + size, calls + 1));
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract; the block came from `System`.
        unsafe { System.dealloc(block, layout) }
    }
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps `realloc`'s contract; the block came from `System`.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// What `work` returns, and the bytes and calls that it allocated.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = ALLOCATED.get();
    let value = work();
    let after = ALLOCATED.get();
    (value, after.0 - before.0, after.1 - before.1)
}

fn decode_everything(input: &mut BytesMut, version: ProtocolVersion) -> usize {
    let mut packets = 0;
    while let Ok(Some(_)) = decode(input, Some(version), u32::MAX) {
        packets += 1;
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_allocate_at_most_three_times_their_length(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000), version in strategies::version()
    ) {
        let mut input = BytesMut::from(&bytes[..]);
        let (_, allocated, _) = counted(|| decode_everything(&mut input, version));
        prop_assert!(allocated <= 3 * bytes.len() + 4096, "{allocated} bytes for {}", bytes.len());
    }

    #[test]
    fn mutated_packets_allocate_at_most_three_times_their_length(
        (version, packet) in versioned_packet(),
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4)
    ) {
        let mut input = BytesMut::new();
        encode(&packet, version, &mut input);
        for (index, value) in changes {
            let index = index.index(input.len());
            input[index] = value;
        }
        let len = input.len();
        let (_, allocated, _) = counted(|| decode_everything(&mut input, version));
        prop_assert!(allocated <= 3 * len + 4096, "{allocated} bytes for {len}");
    }
}

#[test]
fn an_announced_packet_of_100_mb_reserves_nothing() {
    for first in [0x10, 0x30, 0x82, 0xA2, 0xF0] {
        let mut input = BytesMut::from(&[first, 0x80, 0xC2, 0xD7, 0x2F, 0, 4, b'M'][..]);
        let (result, allocated, _) = counted(|| decode(&mut input, Some(ProtocolVersion::V5), u32::MAX));
        assert_eq!((result, allocated), (Ok(None), 0));
    }
}

#[test]
fn a_publish_without_properties_allocates_nothing() {
    let topic = TopicName::try_from("sensors/room/temperature").unwrap();
    for version in [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut input = BytesMut::new();
        for packet_id in 1..=100 {
            PublishParts::new(&topic, b"21.5", QoS::AtLeastOnce, packet_id).encode(version, &mut input);
        }
        let mut packets = Vec::with_capacity(200);
        let mut decoder = Decoder { version: Some(version), max_packet_size: u32::MAX, sender: Sender::Client };
        let mut copy = input.clone();
        // The whole batch becomes shared once.
        let (result, _, calls) = counted(|| decoder.decode_all(&mut copy, &mut packets));
        assert_eq!((result, packets.len()), (Ok(()), 100));
        assert!(calls <= 1, "{calls} allocations for 100 packets");

        let mut shared: Bytes = input.freeze();
        let _other = shared.clone();
        let (count, allocated, _) = counted(|| {
            let mut count = 0;
            while let Ok(Some(packet)) = decoder.decode_bytes(&mut shared) {
                packets.push(packet);
                count += 1;
            }
            count
        });
        assert_eq!((count, allocated), (100, 0));
    }
}

#[test]
fn encoding_a_publish_into_a_large_enough_buffer_allocates_nothing() {
    let topic = TopicName::try_from("sensors/room/temperature").unwrap();
    let properties = PublishProperties { content_type: Some("text/plain".into()), ..PublishProperties::default() };
    let mut out = BytesMut::with_capacity(1000);
    let mut parts = PublishParts::new(&topic, b"21.5", QoS::AtLeastOnce, 7);
    parts.properties = Some(&properties);
    let ((), allocated, _) = counted(|| parts.encode(ProtocolVersion::V5, &mut out));
    assert_eq!(allocated, 0);
}

/// The least bytes on the wire that become a value of the most bytes in memory: an empty User Property (5 to 64) and a
/// filter of one byte (3 to 32). Memory stays in proportion, though by more than three.
#[test]
fn the_worst_packets_allocate_at_most_sixteen_times_their_length() {
    let variable = |value: usize| [value as u8 | 0x80, (value >> 7) as u8 | 0x80, (value >> 14) as u8];
    let user_properties = [0x26, 0, 0, 0, 0].repeat(20_000);
    let mut publish = vec![0, 1, b'a'];
    publish.extend(variable(user_properties.len()));
    publish.extend(user_properties);
    let unsubscribe: Vec<u8> = [&[0, 1, 0][..], &[0, 1, b'a'].repeat(30_000)].concat();
    let subscribe: Vec<u8> = [&[0, 1, 0][..], &[0, 1, b'a', 0].repeat(25_000)].concat();
    for (first, body) in [(0x30, publish), (0xA2, unsubscribe), (0x82, subscribe)] {
        let mut input = BytesMut::from(&[&[first][..], &variable(body.len()), &body].concat()[..]);
        let len = input.len();
        let (packets, allocated, _) = counted(|| decode_everything(&mut input, ProtocolVersion::V5));
        assert_eq!(packets, 1, "packet {first:#x}");
        assert!(allocated <= 16 * len + 4096, "{allocated} bytes for {len}");
    }
}
