//! Commands with a large payload, encoded and decoded without copying it.
//! Always true: the bytes are those that postcard makes of the whole command. Only the payload of a message is longer than
//! 65,535 bytes; whatever else claims to be makes the command an error.
use super::SHARED_BYTES_MIN;
use crate::state::Command;
use bytes::Bytes;
use mosquorum_storage::log::Payload;
use postcard::{Deserializer, Error, Result, de_flavors, ser_flavors};
use serde::Deserialize;
use std::{ops::Range, sync::Arc};

/// What comes before and behind a payload, about.
const DESCRIPTION_BYTES: usize = 256;

/// The command in pieces, one of which is `large` itself.
pub(super) fn encode_apart(command: &Command, large: &Bytes) -> Payload {
    let apart = Apart { large, before: Vec::with_capacity(DESCRIPTION_BYTES), behind: None };
    postcard::serialize_with_flavor(command, apart).expect("every command has a postcard form")
}

/// Takes everything into buffers of its own but for `large`, which it recognises by where it lies.
struct Apart<'l> {
    large: &'l Bytes,
    before: Vec<u8>,
    /// Once `large` has come.
    behind: Option<Vec<u8>>,
}

impl Apart<'_> {
    fn open(&mut self) -> &mut Vec<u8> {
        self.behind.as_mut().unwrap_or(&mut self.before)
    }
}

impl ser_flavors::Flavor for Apart<'_> {
    type Output = Payload;

    fn try_extend(&mut self, data: &[u8]) -> Result<()> {
        if self.behind.is_none() && data.as_ptr_range() == self.large.as_ptr_range() {
            self.behind = Some(Vec::with_capacity(DESCRIPTION_BYTES));
        } else {
            self.open().extend_from_slice(data);
        }
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> Result<()> {
        self.open().push(byte);
        Ok(())
    }

    fn finalize(self) -> Result<Payload> {
        let Self { large, before, behind } = self;
        let large = behind.as_ref().map(|_| large.clone());
        let pieces = [Some(before.into()), large, behind.map(Bytes::from)];
        Ok(Payload::of_pieces(pieces.into_iter().flatten()))
    }
}

/// The command that `source` begins with, and its length. Its payload shares `source` if it is most of it.
pub(super) fn decode_sharing(source: &Bytes) -> Result<(Command, usize)> {
    let mut reader = Deserializer::from_flavor(Reader { bytes: source, at: 0, large: None });
    let mut command = Command::deserialize(&mut reader)?;
    let Reader { at, large, .. } = reader.finalize()?;
    if let Some(large) = large {
        let Command::Publish(publish) = &mut command else { return Err(Error::DeserializeUnexpectedEnd) };
        let message = Arc::get_mut(&mut publish.message).filter(|message| message.payload.is_empty());
        let payload = match large.len() > SHARED_BYTES_MIN && large.len() >= source.len() / 2 {
            true => source.slice(large),
            false => Bytes::copy_from_slice(&source[large]),
        };
        message.ok_or(Error::DeserializeUnexpectedEnd)?.payload = payload;
    }
    Ok((command, at))
}

/// Notes where large bytes lie instead of giving them out.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    large: Option<Range<usize>>,
}

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(Error::DeserializeUnexpectedEnd)?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }
}

impl<'b> de_flavors::Flavor<'b> for Reader<'b> {
    type Remainder = Self;
    type Source = &'b [u8];

    fn pop(&mut self) -> Result<u8> {
        self.take(1).map(|taken| self.bytes[taken.start])
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.bytes.len() - self.at)
    }

    fn try_take_n(&mut self, count: usize) -> Result<&'b [u8]> {
        self.take(count).map(|taken| &self.bytes[taken])
    }

    /// For values that own their bytes.
    fn try_take_n_temp<'a>(&'a mut self, count: usize) -> Result<&'a [u8]>
    where
        'b: 'a,
    {
        let taken = self.take(count)?;
        if count <= usize::from(u16::MAX) {
            return Ok(&self.bytes[taken]);
        }
        match self.large.replace(taken) {
            None => Ok(&[]),
            Some(_) => Err(Error::DeserializeUnexpectedEnd),
        }
    }

    fn finalize(self) -> Result<Self> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::{decode_commands, encode_batch, encode_commands},
        ids::{Incarnation, Millis, NodeId},
        state::{Message, Origin, PublishCommand},
    };
    use mosquorum_proto::mqtt::{PublishProperties, QoS};

    fn publish(len: usize) -> Command {
        let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let mut message = Message::new("a/b".try_into().unwrap(), payload.into(), QoS::AtLeastOnce, Millis(7));
        let correlation_data = Some(Bytes::from(vec![9; 60_000]));
        message.properties = Some(Box::new(PublishProperties { correlation_data, ..PublishProperties::default() }));
        message.publisher_id = "publisher".into();
        Command::Publish(PublishCommand::new(Arc::new(message)))
    }

    fn message(command: &Command) -> &Arc<Message> {
        let Command::Publish(publish) = command else { panic!("{command:?}") };
        &publish.message
    }

    fn batch(commands: &[Command]) -> Payload {
        let origin = Origin { node: NodeId(3), incarnation: Incarnation(9) };
        encode_batch(origin, 7, Millis(1), commands.len() as u32, &encode_commands(commands, 0))
    }

    #[test]
    fn a_large_payload_is_shared_by_its_batch_and_the_bytes_are_the_same() {
        let command = publish(SHARED_BYTES_MIN + 1);
        let payload = batch(std::slice::from_ref(&command));
        let large = &message(&command).payload;
        assert!(payload.pieces().iter().any(|piece| piece.as_ptr_range() == large.as_ptr_range()));
        assert_eq!(payload.joined()[37..], postcard::to_stdvec(&command).unwrap());
        let small = publish(1000);
        assert_eq!(batch(std::slice::from_ref(&small)).pieces().len(), 1);
    }

    #[test]
    fn a_large_message_shares_the_buffer_that_it_came_in() {
        let command = publish(3 << 20);
        let in_pieces = batch(std::slice::from_ref(&command));
        let whole = in_pieces.joined();
        let came = Payload::from(whole.clone());
        let behind_header = Payload::of_pieces([whole.slice(..37), whole.slice(37..)]);
        for (payload, shares) in [(&came, true), (&behind_header, true), (&in_pieces, false)] {
            let [decoded] = &decode_commands(payload).unwrap()[..] else { panic!("one command") };
            assert_eq!(message(decoded), message(&command));
            let lies = message(decoded).payload.as_ptr_range();
            let outer = whole.as_ptr_range();
            assert_eq!(outer.contains(&lies.start), shares);
        }
    }

    #[test]
    fn a_message_that_is_a_small_part_of_a_batch_does_not_hold_it() {
        let commands = [publish(100_000), publish(10), publish(SHARED_BYTES_MIN + 1), publish(3 << 20)];
        let whole = batch(&commands).joined();
        let decoded = decode_commands(&whole.clone().into()).unwrap();
        for (command, decoded) in commands.iter().zip(&decoded) {
            assert_eq!(message(command), message(decoded));
        }
        drop(decoded.into_iter().next_back());
        let decoded = decode_commands(&whole.clone().into()).unwrap();
        let shares = |command: &Command| whole.as_ptr_range().contains(&message(command).payload.as_ptr());
        assert_eq!(decoded.iter().map(shares).collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn cut_and_foreign_bytes_of_a_large_command_are_an_error() {
        let whole = batch(&[publish(2 << 20)]).joined();
        for len in [40, 1 << 20, (1 << 20) + 100, whole.len() - 1] {
            assert!(decode_commands(&whole.slice(..len).into()).is_err());
        }
        // A client identifier of 2 MiB.
        let mut foreign = whole[..37].to_vec();
        let name = "x".repeat(2 << 20);
        foreign.extend(postcard::to_stdvec(&(15_u32, &name)).unwrap());
        assert!(decode_commands(&Bytes::from(foreign).into()).is_err());
    }
}
