//! MQTT packets over a byte stream, for the first exchange of a connection: one out, one in.
use bytes::BytesMut;
use mosquorum_proto::mqtt::{ConnAck, Connect, Decoder, Packet, ProtocolVersion, Sender, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A stream on which CONNECT was answered.
pub(super) struct Wire<S> {
    pub stream: S,
    pub decoder: Decoder,
    /// Read and not decoded.
    pub partial: BytesMut,
    pub version: ProtocolVersion,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, version: ProtocolVersion, max_packet_size: u32) -> Self {
        // A remote that is itself a bridge, or a test, may send PINGREQ.
        let decoder = Decoder { sender: Sender::Any, ..Decoder::for_client(version, max_packet_size) };
        Self { stream, decoder, partial: BytesMut::new(), version }
    }

    /// # Errors
    /// Why there is no CONNACK.
    pub(super) async fn connect(&mut self, connect: Connect) -> Result<ConnAck, String> {
        self.send(&Packet::Connect(Box::new(connect))).await?;
        match self.receive().await? {
            Packet::ConnAck(connack) => Ok(*connack),
            other => Err(format!("{} came instead of CONNACK", other.packet_type())),
        }
    }

    pub(super) async fn send(&mut self, packet: &Packet) -> Result<(), String> {
        let mut out = BytesMut::new();
        encode(packet, self.version, &mut out);
        self.stream.write_all(&out).await.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())
    }

    pub(super) async fn receive(&mut self) -> Result<Packet, String> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.partial).map_err(|error| error.to_string())? {
                return Ok(packet);
            }
            let read = self.stream.read_buf(&mut self.partial).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }
}
