//! Who is not read while log or links hold too much, until they do not.
//! Always true: whoever waits is woken once the congestion is over, by one task for all of them; that task exists only while
//! somebody waits.
use parking_lot::Mutex;
use std::{num::NonZeroU64, sync::Arc, task::Waker, time::Duration};
use tokio::{runtime::Handle, time::sleep};

/// How often the one task looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Congestion(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    wakers: Vec<Waker>,
    /// One more each time that everybody was woken.
    round: u64,
}

/// Where a connection is on the list: it need not enter itself again in the same round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed(NonZeroU64);

impl Congestion {
    /// Has the task woken when it is over; `is_over` is asked from time to time.
    pub fn wait(
        self: &Arc<Self>,
        listed: Option<Listed>,
        waker: &Waker,
        runtime: &Handle,
        is_over: impl Fn() -> bool + Send + 'static,
    ) -> Listed {
        let mut waiting = self.0.lock();
        let now = Listed(NonZeroU64::MIN.saturating_add(waiting.round));
        if listed == Some(now) {
            return now;
        }
        waiting.wakers.push(waker.clone());
        if waiting.wakers.len() == 1 {
            let this = self.clone();
            runtime.spawn(async move {
                while !is_over() {
                    sleep(LOOK_EVERY).await;
                }
                let wakers = {
                    let mut waiting = this.0.lock();
                    waiting.round += 1;
                    std::mem::take(&mut waiting.wakers)
                };
                wakers.into_iter().for_each(Waker::wake);
            });
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicBool, Ordering::SeqCst},
        task::Poll,
    };

    /// Twice in a row, as a connection does that is held up again.
    #[tokio::test]
    async fn everybody_who_waits_is_woken_when_the_congestion_is_over_however_long_it_lasted() {
        let (congestion, over) = (Arc::new(Congestion::default()), Arc::new(AtomicBool::new(true)));
        for _ in 0..2 {
            over.store(false, SeqCst);
            let waits = |number: u32| {
                let (congestion, over) = (congestion.clone(), over.clone());
                let mut listed = None;
                poll_fn(move |cx| {
                    if over.load(SeqCst) {
                        return Poll::Ready(number);
                    }
                    let over = over.clone();
                    let is_over = move || over.load(SeqCst);
                    listed = Some(congestion.wait(listed, cx.waker(), &Handle::current(), is_over));
                    Poll::Pending
                })
            };
            let tasks: Vec<_> = (0..50).map(|number| tokio::spawn(waits(number))).collect();
            // Longer than the look of the one task takes.
            tokio::time::sleep(4 * LOOK_EVERY).await;
            assert!(tasks.iter().all(|task| !task.is_finished()));
            over.store(true, SeqCst);
            for task in tasks {
                tokio::time::timeout(Duration::from_secs(10), task).await.expect("it is woken").unwrap();
            }
        }
    }
}
