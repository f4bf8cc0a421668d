//! Sends one request about several locks on two connections if needed.
//!
//! The problem: heartbeats and renewals use the background connection, which no caller can block. That connection
//! may be down alone: a server at its `maxclients` accepts no new one. The mechanism: if the reply is late or
//! incomplete, the request is also sent on the callers' connection.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::join;
use tokio::time::timeout;

use crate::background::HEDGE;
use crate::context::Context;
use crate::error::Result;
use crate::store::AnyStore;

/// Returns the answers by place. If both connections answered, `both` decides; its second argument is the callers'
/// answer.
///
/// Fails if the `Larder` is closed, or if neither connection answered.
pub(super) async fn hedged<'a, T, F>(
    context: &'a Context,
    max_wait: Duration,
    ask: impl Fn(&'a AnyStore, Duration) -> F,
    both: impl Fn(T, T) -> T,
) -> Result<Vec<Option<T>>>
where
    F: Future<Output = Result<Vec<Option<T>>>>,
{
    let (own, callers) = (context.background_coordination()?, context.coordination()?);
    let mut first = pin!(ask(own, max_wait));
    if std::ptr::eq(own, callers) {
        return first.await;
    }
    let hedge = HEDGE.min(max_wait / 2);
    let second = || ask(callers, max_wait.saturating_sub(hedge));
    match timeout(hedge, &mut first).await {
        Ok(Ok(answers)) if answers.iter().all(Option::is_some) => Ok(answers),
        Ok(answer) => either(answer, second().await, both),
        Err(_) => {
            let (answer, other) = join(first, second()).await;
            either(answer, other, both)
        }
    }
}

fn either<T>(
    one: Result<Vec<Option<T>>>,
    other: Result<Vec<Option<T>>>,
    both: impl Fn(T, T) -> T,
) -> Result<Vec<Option<T>>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok(one
            .into_iter()
            .zip(other)
            .map(|(one, other)| match (one, other) {
                (Some(one), Some(other)) => Some(both(one, other)),
                (one, other) => other.or(one),
            })
            .collect()),
        (Ok(answers), Err(_)) | (Err(_), Ok(answers)) => Ok(answers),
        (Err(error), Err(_)) => Err(error),
    }
}
