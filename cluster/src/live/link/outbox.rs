//! The sending end of one lane of a link.
//! Always true: items keep the numbers they got; those up to `acknowledged` are gone, all others are here.
use super::LinkError;
use std::collections::{VecDeque, vec_deque::Drain};

#[derive(Debug)]
pub(crate) struct Outbox<T> {
    /// Number n is at `n - acknowledged - 1`.
    items: VecDeque<(T, u32)>,
    acknowledged: u64,
    /// Highest number given to the present connection.
    sent: u64,
    bytes: usize,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), acknowledged: 0, sent: 0, bytes: 0 }
    }
}

impl<T> Outbox<T> {
    pub(crate) fn push(&mut self, item: T, size: usize) {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.bytes += size as usize;
        self.items.push_back((item, size));
    }

    /// What is held, sent or not.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The last item, if any is held.
    pub(crate) fn last_mut(&mut self) -> Option<&mut T> {
        self.items.back_mut().map(|(item, _)| item)
    }

    #[cfg(test)]
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent_at() < self.items.len()
    }

    fn unsent_at(&self) -> usize {
        (self.sent - self.acknowledged) as usize
    }

    /// The next items to send: at least one if there is any, then as many as stay below both bounds. Gives each to
    /// `take` and returns the number of the first.
    pub(crate) fn next_batch(&mut self, bytes_max: usize, items_max: usize, mut take: impl FnMut(&T)) -> Option<u64> {
        let from = self.unsent_at();
        let (mut bytes, mut count) = (0, 0);
        for (item, size) in self.items.range(from..).take(items_max) {
            bytes += *size as usize;
            if count > 0 && bytes > bytes_max {
                break;
            }
            take(item);
            count += 1;
        }
        let first = self.sent + 1;
        self.sent += count;
        (count > 0).then_some(first)
    }

    /// The other end has handled everything up to `number`.
    /// # Errors
    /// It names an item that was never sent, or one more than it did before.
    pub(crate) fn acknowledge(&mut self, number: u64) -> Result<Drain<'_, (T, u32)>, LinkError> {
        if number > self.sent || number < self.acknowledged {
            let (acknowledged, sent) = (self.acknowledged, self.sent);
            return Err(LinkError::Acknowledgement { number, acknowledged, sent });
        }
        Ok(self.remove((number - self.acknowledged) as usize))
    }

    /// A new connection: the other end has everything up to `number`, the rest is sent again.
    /// # Errors
    /// As for [`Outbox::acknowledge`].
    pub(crate) fn resume(&mut self, number: u64) -> Result<Drain<'_, (T, u32)>, LinkError> {
        let last = self.acknowledged + self.items.len() as u64;
        if number > last || number < self.acknowledged {
            let (acknowledged, sent) = (self.acknowledged, self.sent);
            return Err(LinkError::Acknowledgement { number, acknowledged, sent });
        }
        self.sent = number;
        Ok(self.remove((number - self.acknowledged) as usize))
    }

    /// One of the ends has begun a new incarnation: numbering starts again, nothing held is sent any more.
    pub(crate) fn reset(&mut self) -> VecDeque<(T, u32)> {
        std::mem::take(self).items
    }

    fn remove(&mut self, count: usize) -> Drain<'_, (T, u32)> {
        self.acknowledged += count as u64;
        self.bytes -= self.items.range(..count).map(|(_, size)| *size as usize).sum::<usize>();
        self.items.drain(..count)
    }
}
