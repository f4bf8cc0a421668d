//! Many decisions at once, each independent of the others.
//!
//! A bounded number is in flight at a time, so that replies arrive in time for any number of keys. Only futures
//! that were woken are polled, so the work grows linearly with the number of keys.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::decision::Decision;
use crate::call;
use crate::error::Result;

/// The number of decisions in flight at once.
pub(super) const AT_ONCE: usize = 1024;

/// A decision and its place among the others.
struct Placed<F> {
    place: usize,
    work: Pin<Box<F>>,
}

impl<F: Future<Output = Result<Decision>>> Future for Placed<F> {
    type Output = (usize, F::Output);

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let place = self.place;
        self.work.as_mut().poll(cx).map(|decided| (place, decided))
    }
}

/// Returns all decisions in the order of the futures, or the first error.
///
/// A call that has timed out is polled once more. Every future is polled then, woken or not, so that each one
/// decides by the outage policy.
pub(super) async fn all_of<F>(futures: impl Iterator<Item = Pin<Box<F>>>) -> Result<Vec<Decision>>
where
    F: Future<Output = Result<Decision>>,
{
    let mut waiting = futures.enumerate().map(|(place, work)| Placed { place, work });
    let mut running = FuturesUnordered::new();
    let mut decided: Vec<(usize, Decision)> = Vec::new();
    poll_fn(|cx| {
        if call::is_late() {
            let under_way = std::mem::take(&mut running).into_iter();
            for mut one in under_way.chain(waiting.by_ref()) {
                match Pin::new(&mut one).poll(cx) {
                    Poll::Ready((place, decision)) => decided.push((place, decision?)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            running.extend(waiting.by_ref().take(AT_ONCE.saturating_sub(running.len())));
            match running.poll_next_unpin(cx) {
                Poll::Ready(Some((place, decision))) => decided.push((place, decision?)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await?;
    decided.sort_unstable_by_key(|(place, _)| *place);
    Ok(decided.into_iter().map(|(_, decision)| decision).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::task::Waker;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_answer_polls_only_its_own_key() {
        const KEYS: usize = 10 * AT_ONCE;
        let polls = Cell::new(0);
        let wakers: RefCell<Vec<Waker>> = RefCell::default();
        let answered = Cell::new(0);
        let work = |place: usize| {
            let (polls, wakers, answered) = (&polls, &wakers, &answered);
            Box::pin(poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                if place < answered.get() {
                    return Poll::Ready(Ok(Decision::refused(crate::Quota::per_second(1))));
                }
                wakers.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }))
        };
        let mut all = Box::pin(all_of((0..KEYS).map(work)));
        // One answer after the other, each woken by itself, as from a server.
        let decided = loop {
            if let Some(decided) = all.as_mut().now_or_never() {
                break decided.unwrap();
            }
            assert!(wakers.borrow().len() <= AT_ONCE, "no more are under way");
            answered.set(answered.get() + 1);
            wakers.borrow_mut().remove(0).wake();
        };
        assert_eq!(decided.len(), KEYS);
        assert!(polls.get() <= 2 * KEYS, "{} polls for {KEYS} keys", polls.get());
    }
}
