//! One lane's connection to another node: greets, sends what the link holds, takes acknowledgements, and begins again
//! when it breaks, for as long as the node is a member.
use super::{
    PeerLinks,
    peer_link::{CONTROL, PeerLink},
};
use crate::transport::{MESSAGE_BYTES_MAX, Purpose, services::live::peer_client::PeerClient};
use mosquorum_proto::peer::live::{Address, LinkBatch, LinkHello};
use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tokio_stream::Stream;
use tracing::{debug, warn};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Runs until the node is a member no more (its link is dropped) or this node's live side ends.
pub(super) async fn run(peers: Weak<PeerLinks>, link: Weak<PeerLink>, lane: usize) {
    let mut pause = PAUSE_MIN;
    loop {
        let (Some(peers), Some(link)) = (peers.upgrade(), link.upgrade()) else { return };
        match connect(&peers, &link, lane).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(reason) => {
                debug!(peer = %link.node, lane, reason, "link not connected");
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        drop((peers, link));
        sleep(pause).await;
    }
}

/// `Ok` when the connection worked for a while.
async fn connect(peers: &Arc<PeerLinks>, link: &Arc<PeerLink>, lane: usize) -> Result<(), String> {
    let stream = link.begin(lane);
    let me = peers.me().ok_or("this node is between two incarnations")?;
    let channel = peers.context.channel(link.node, Purpose::Data).ok_or("no such member")?;
    let mut client = PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let address = Address { cluster: peers.context.cluster().into(), from: me.node.0, to: link.node.0 };
    let hello = LinkHello { address: Some(address), incarnation: me.incarnation.0, lane: lane as i32 };
    let sending = Sending { link: link.clone(), lane, stream, hello: Some(hello) };
    let answer = timeout(ANSWER_TIMEOUT, client.link(sending)).await.map_err(|_| "no answer")?;
    let mut replies = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let first = timeout(ANSWER_TIMEOUT, replies.message()).await.map_err(|_| "no answer")?;
    let first = first.map_err(|status| status.message().to_owned())?.ok_or("closed")?;
    let incarnation = crate::ids::Incarnation(first.incarnation);
    let settled = link.opened(lane, stream, incarnation, first.received).map_err(|error| error.to_string())?;
    peers.settle(settled);
    if lane == CONTROL {
        peers.sync(link);
    }
    loop {
        match replies.message().await {
            Ok(Some(reply)) => match link.acknowledge(lane, stream, reply.received) {
                Ok(settled) => settled.settle(),
                Err(error) => {
                    debug!(peer = %link.node, lane, %error, "link closed");
                    return Ok(());
                }
            },
            Ok(None) => return Ok(()),
            Err(status) => {
                warn!(peer = %link.node, lane, reason = status.message(), "link broken");
                return Ok(());
            }
        }
    }
}

/// The messages of one stream.
struct Sending {
    link: Arc<PeerLink>,
    lane: usize,
    stream: u64,
    hello: Option<LinkHello>,
}

impl Stream for Sending {
    type Item = LinkBatch;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LinkBatch>> {
        match self.hello.take() {
            Some(hello) => Poll::Ready(Some(LinkBatch { hello: Some(hello), first: 0, items: Vec::new() })),
            None => self.link.poll_batch(self.lane, self.stream, cx),
        }
    }
}
