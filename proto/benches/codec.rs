//! Decode and encode of the packets of a busy connection. `cargo bench -p mosquorum-proto`
use bytes::BytesMut;
use divan::{Bencher, counter::ItemsCount};
use mosquorum_proto::mqtt::{
    Ack, Decoder, Packet, ProtocolVersion, Publish, PublishParts, QoS, Sender, TopicName, Utf8, encode,
};

const PACKETS: usize = 100;

fn main() {
    divan::main();
}

fn topic() -> TopicName {
    TopicName::new(Utf8::from("site/kitchen/power")).expect("a topic without wildcards")
}

fn bytes(packet: &Packet, version: ProtocolVersion) -> BytesMut {
    let mut out = BytesMut::new();
    (0..PACKETS).for_each(|_| encode(packet, version, &mut out));
    out
}

fn decode_all(bencher: Bencher<'_, '_>, packet: &Packet, version: ProtocolVersion) {
    let bytes = bytes(packet, version);
    let mut decoder = Decoder { version: Some(version), max_packet_size: u32::MAX, sender: Sender::Client };
    let mut packets = Vec::new();
    bencher.counter(ItemsCount::new(PACKETS)).with_inputs(|| bytes.clone()).bench_local_values(|mut input| {
        packets.clear();
        decoder.decode_all(&mut input, &mut packets).expect("what was encoded can be decoded");
        packets.len()
    });
}

#[divan::bench(args = [16, 64, 1024])]
fn decode_publish_qos1(bencher: Bencher<'_, '_>, payload: usize) {
    let publish = Publish { qos: QoS::AtLeastOnce, packet_id: 7, ..Publish::new(topic(), vec![b'x'; payload]) };
    decode_all(bencher, &Packet::Publish(publish), ProtocolVersion::V5);
}

#[divan::bench]
fn decode_puback(bencher: Bencher<'_, '_>) {
    decode_all(bencher, &Packet::PubAck(Ack::new(7)), ProtocolVersion::V5);
}

#[divan::bench(args = [16, 64, 1024])]
fn encode_publish_qos1(bencher: Bencher<'_, '_>, payload: usize) {
    let (topic, payload) = (topic(), vec![b'x'; payload]);
    let mut out = BytesMut::with_capacity(PACKETS * (payload.len() + 64));
    bencher.counter(ItemsCount::new(PACKETS)).bench_local(|| {
        out.clear();
        for id in 1..=PACKETS as u16 {
            PublishParts::new(&topic, &payload, QoS::AtLeastOnce, id).encode(ProtocolVersion::V5, &mut out);
        }
        out.len()
    });
}
