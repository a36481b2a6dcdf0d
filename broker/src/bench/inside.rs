//! The way of a publish inside one node, without sockets and with one thread, so that the number of instructions is
//! nearly the same each time: one client publishes in batches, three receive. For `.ci/instructions`, not for rates.
use super::{
    client::{Error, Result},
    options::Options,
    report::Report,
};
use crate::{
    auth::SecuritySet,
    broker::Broker,
    carrier::Prepared,
    config::{Settings, Sources},
    connect,
    listener::{Listener, Peer},
    live_hub::LiveHub,
    stream::Stream,
};
use bytes::BytesMut;
use mosquorum_cluster::{Alone, memory::MemoryConsensus};
use mosquorum_proto::mqtt::{
    Ack, Connect, Decoder, Packet, ProtocolVersion, Publish, QoS, Subscribe, Subscription, TopicFilter, TopicName,
    Utf8, encode,
};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const PIPE_BYTES: usize = 1 << 20;
/// Messages that one write brings: no more than a client may have in flight by default.
const BATCH: usize = 20;
const SUBSCRIBERS: usize = 3;

struct Client {
    wire: DuplexStream,
    version: ProtocolVersion,
    decoder: Decoder,
    input: BytesMut,
}

impl Client {
    async fn connect(
        broker: &Arc<Broker>,
        listener: &Arc<Listener>,
        version: ProtocolVersion,
        name: &str,
    ) -> Result<Self> {
        let (wire, theirs) = tokio::io::duplex(PIPE_BYTES);
        let prepared = Prepared::plain(Stream::Other(Box::new(theirs)));
        let peer = Peer { address: String::new(), port: 0 };
        tokio::spawn(connect::serve(broker.clone(), listener.clone(), prepared, peer));
        let decoder = Decoder::for_client(version, u32::MAX);
        let mut client = Self { wire, version, decoder, input: BytesMut::new() };
        client.send(&[Packet::Connect(Box::new(Connect::new(version, name)))]).await?;
        client.receive().await?;
        Ok(client)
    }

    async fn send(&mut self, packets: &[Packet]) -> Result<()> {
        let mut out = BytesMut::new();
        packets.iter().for_each(|packet| encode(packet, self.version, &mut out));
        Ok(self.wire.write_all(&out).await?)
    }

    async fn receive(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input).map_err(|_| Error::Malformed)? {
                return Ok(packet);
            }
            if self.wire.read_buf(&mut self.input).await? == 0 {
                return Err(Error::Closed);
            }
        }
    }
}

/// # Errors
/// When the broker inside does not do what it must.
pub(super) async fn run(options: &Options) -> Result<Report> {
    crate::logging::set_types(crate::config::LogTypes::NONE);
    let (broker, listener) = node()?;
    let mut publisher = Client::connect(&broker, &listener, options.version, "publisher").await?;
    let mut subscribers = Vec::new();
    for number in 0..SUBSCRIBERS {
        let name = format!("subscriber-{number}");
        let mut subscriber = Client::connect(&broker, &listener, options.version, &name).await?;
        let filter = TopicFilter::new(Utf8::from("site/+/power")).map_err(|_| Error::Malformed)?;
        let subscription = Subscription::new(filter, QoS::ExactlyOnce);
        subscriber.send(&[Packet::Subscribe(Subscribe::new(1, vec![subscription]))]).await?;
        subscriber.receive().await?;
        subscribers.push(subscriber);
    }
    let topic = TopicName::new(Utf8::from("site/kitchen/power")).map_err(|_| Error::Malformed)?;
    let payload = bytes::Bytes::from(vec![b'x'; options.payload]);
    let message = |number: usize| {
        let packet_id = if options.qos == QoS::AtMostOnce { 0 } else { number as u16 + 1 };
        Packet::Publish(Publish { qos: options.qos, packet_id, ..Publish::new(topic.clone(), payload.clone()) })
    };
    let batch: Vec<Packet> = (0..BATCH).map(message).collect();
    let batches = options.messages.div_ceil(BATCH as u64);
    for _ in 0..batches {
        round(&mut publisher, &mut subscribers, options.qos, &batch).await?;
    }
    let mut report = Report::default();
    report.count("published", batches * BATCH as u64);
    report.count("delivered", batches * (BATCH * SUBSCRIBERS) as u64);
    Ok(report)
}

/// A node in memory with default settings, which nobody can reach.
fn node() -> Result<(Arc<Broker>, Arc<Listener>)> {
    let wrong = |error: &dyn std::fmt::Display| Error::Settings(error.to_string());
    let sources = Sources { file: None, environment: Vec::new(), ports: vec![1883], log_all: Some(false) };
    let settings = Settings::load(&sources).map_err(|error| wrong(&error))?;
    let security = SecuritySet::load(&settings).map_err(|error| wrong(&error))?;
    let rules = security.iter().next().ok_or(Error::Closed)?.clone();
    let listener = Arc::new(Listener::new(settings.listeners[0].clone(), rules, None));
    let hub = Arc::new(LiveHub::default());
    let consensus = MemoryConsensus::new("bench", hub.clone());
    let broker = Broker::new(settings, consensus, Arc::new(Alone::new()), false);
    hub.attach(broker.clone());
    Ok((broker, listener))
}

/// One batch out, and everything that follows from it.
async fn round(publisher: &mut Client, subscribers: &mut [Client], qos: QoS, batch: &[Packet]) -> Result<()> {
    publisher.send(batch).await?;
    for subscriber in subscribers {
        let mut acks = Vec::new();
        while acks.len() < batch.len() {
            let Packet::Publish(publish) = subscriber.receive().await? else { return Err(Error::Malformed) };
            acks.push(Packet::PubAck(Ack::new(publish.packet_id)));
        }
        if qos == QoS::AtLeastOnce {
            subscriber.send(&acks).await?;
        }
    }
    if qos == QoS::AtLeastOnce {
        for _ in batch {
            publisher.receive().await?;
        }
    }
    Ok(())
}
