//! One server: its links, and the sending of requests to it.

use std::sync::Arc;

use super::dial::{Destination, describe};
use super::error::{Failure, translate_request};
use super::link::{Link, Live};
use super::login::{Learned, Login};
use super::supervisor::{self, LinkKind};
use super::tracking::SessionHandle;
use super::wire::{Reply, Request, RequestFailure};
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{ConnectionHealth, Purpose};
use crate::store::session::ReadStamp;

/// Whether a request may be sent again after the connection broke before its answer arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replay {
    /// The request only reads, or a second run changes nothing.
    Safe,
    /// The first request may have taken effect. A second one could undo a later change, or charge twice.
    Never,
}

/// How often a request is sent again after its connection broke.
const MOST_RESENDS: u32 = 2;

/// Returns whether the request may be sent again: it was not sent at all, or a second run is harmless.
fn may_resend(failure: &RequestFailure, replay: Replay) -> bool {
    failure.is_unsent() || replay == Replay::Safe
}

pub(super) struct Node {
    /// What the links agree on. `None` in a cluster, whose map says where to connect.
    learned: Option<Arc<Learned>>,
    links: Vec<Link>,
    /// The tracking connection: the server reports changes of everything that was read through it.
    tracked: Option<Link>,
    name: String,
    moves: bool,
}

impl Node {
    pub(super) fn start(
        destination: &Destination,
        login: &Arc<Login>,
        connections: usize,
        of_cluster: bool,
        session: Option<SessionHandle>,
    ) -> Self {
        let start = |first, session| {
            let kind = match (of_cluster, first) {
                (true, _) => LinkKind::OfCluster,
                (false, true) => LinkKind::First,
                (false, false) => LinkKind::Further,
            };
            supervisor::start(destination.clone(), kind, login.clone(), session)
        };
        Self {
            learned: (!of_cluster).then(|| login.learned.clone()),
            links: (0..connections.max(1)).map(|number| start(number == 0, None)).collect(),
            tracked: session.map(|session| start(false, Some(session))),
            name: describe(destination),
            moves: destination.moves(),
        }
    }

    /// Waits for the first attempt of every link, and returns the first failure.
    pub(super) async fn ready(&self) -> Result<()> {
        for link in self.links.iter().chain(&self.tracked) {
            link.live().await?;
        }
        Ok(())
    }

    /// Returns the number of connections for commands.
    pub(super) fn connections(&self) -> u16 {
        u16::try_from(self.links.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_down(&self) -> bool {
        self.links.iter().all(Link::is_down)
    }

    /// Returns the state of its connections now.
    pub(super) fn health(&self, purpose: Purpose) -> impl Iterator<Item = ConnectionHealth> {
        self.links.iter().chain(&self.tracked).map(move |link| {
            let (role, state, error) = link.health();
            ConnectionHealth { server: self.name.clone(), purpose, role, state, error }
        })
    }

    /// Returns whether the server reports the changes of what is read through the tracking connection now.
    pub(super) fn is_tracking(&self) -> bool {
        self.tracked().is_some() && self.tracked.as_ref().is_some_and(Link::is_tracking)
    }

    pub(super) fn close(&self) {
        self.links.iter().chain(&self.tracked).for_each(Link::close);
    }

    pub(super) fn now(&self) -> Option<u64> {
        self.links.first()?.time().now()
    }

    /// Returns the local time at which the server's clock shows `time` (microseconds), at the latest.
    pub(super) fn local_time(&self, time: u64) -> Option<Tick> {
        self.links.first()?.time().local_time(time)
    }

    /// Sends a request and waits for its answer. The size of this future is paid with every call, so it holds only
    /// the fast path: a connection that is up, and an answer that arrives. The rest is boxed when it is needed.
    pub(super) async fn send(&self, lane: u16, request: &Request, replay: Replay) -> Result<Reply, Failure> {
        let link = self.link(lane)?;
        let live = match link.standing() {
            Some(live) => live,
            None => Box::pin(link.live()).await?,
        };
        match live.connection.send(request).await {
            Ok(reply) => Ok(reply),
            Err(failure) => Box::pin(self.settle(link, live, request, replay, failure)).await,
        }
    }

    /// Deletes a key if it has this value, in one command and at most once. Returns whether it had; `None` if the
    /// server has no such command or refuses it, and then nothing was changed.
    pub(super) async fn delete_if(
        &self,
        lane: u16,
        key: &str,
        value: &str,
    ) -> Result<Option<Reply>, Failure> {
        let link = self.link(lane)?;
        let Some(live) = link.standing() else { return Ok(None) };
        let Some(command) = live.delete_if.command() else { return Ok(None) };
        let request = command.request(key, value);
        match live.connection.send(&request).await {
            Ok(reply) => Ok(Some(reply)),
            Err(RequestFailure::Refused(error)) => {
                live.delete_if.note(&error);
                Ok(None)
            }
            Err(failure) if failure.is_unsent() => Ok(None),
            Err(failure) => {
                Box::pin(self.settle(link, live, &request, Replay::Never, failure)).await.map(Some)
            }
        }
    }

    /// Returns the tracking connection if it is up and its session is current; does not wait for it. Returns `None`
    /// while the links are divided: the connection may lead to another server than the one that takes the writes.
    pub(super) fn tracked(&self) -> Option<(Arc<Live>, ReadStamp)> {
        if self.learned.as_ref().is_some_and(|learned| learned.agreement.is_divided()) {
            return None;
        }
        let live = self.tracked.as_ref()?.standing()?;
        let stamp = live.read_stamp()?;
        Some((live, stamp))
    }

    /// Sends a command on the tracking connection. If the connection breaks meanwhile, its supervisor notices.
    pub(super) async fn send_tracked(&self, live: &Live, request: &Request) -> Result<Reply, Failure> {
        live.connection.send(request).await.map_err(|failure| match failure.is_unsent() {
            true => Failure::NotSent,
            false => self.checked(live, failure),
        })
    }

    /// Handles a failed request: sends it again after a broken connection, if it was unsent or is safe to repeat, and
    /// translates an error of the server.
    async fn settle(
        &self,
        link: &Link,
        mut live: Arc<Live>,
        request: &Request,
        replay: Replay,
        mut failure: RequestFailure,
    ) -> Result<Reply, Failure> {
        let mut unsent = true;
        for _ in 0..MOST_RESENDS {
            if !failure.is_of_connection() {
                break;
            }
            unsent &= failure.is_unsent();
            live.give_up();
            if !may_resend(&failure, replay) {
                break;
            }
            live = match link.live_after(Some(&live)).await {
                Ok(live) => live,
                // The link reports an unsent request, but an earlier attempt of this one was sent. Mark the error as
                // sent.
                Err(error) if !unsent => return Err(error.sent().into()),
                Err(error) => return Err(error.into()),
            };
            failure = match live.connection.send(request).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
        }
        let failure = match failure {
            RequestFailure::NotSent(error) if !unsent => RequestFailure::Lost(error),
            failure => failure,
        };
        Err(self.checked(&live, failure))
    }

    /// Sends all requests in one write. Returns the answers in order, each a value or the server's error for that
    /// request.
    pub(super) async fn send_all(
        &self,
        lane: u16,
        requests: &[Request],
        replay: Replay,
    ) -> Result<Vec<Result<Reply, Failure>>> {
        let link = self.link(lane)?;
        let mut live = match link.standing() {
            Some(live) => live,
            None => link.live().await?,
        };
        let (mut resends, mut unsent) = (0, true);
        loop {
            let failure = match live.connection.send_all(requests).await {
                Ok(answers) => {
                    let checked =
                        |answer: Reply| answer.into_result().map_err(|failure| self.checked(&live, failure));
                    return Ok(answers.into_iter().map(checked).collect());
                }
                Err(failure) => failure,
            };
            unsent &= failure.is_unsent();
            live.give_up();
            if resends == MOST_RESENDS || !may_resend(&failure, replay) {
                let error = translate_request(&failure.into(), &self.name);
                return Err(if unsent { error.unsent() } else { error });
            }
            resends += 1;
            let next = link.live_after(Some(&live)).await;
            live = next.map_err(|error| if unsent { error } else { error.sent() })?;
        }
    }

    fn checked(&self, live: &Live, failure: RequestFailure) -> Failure {
        let failure = Failure::of(failure, &self.name);
        // A replica that lost its master answers in this way, too. Another server may be the master by now.
        if let Failure::Error(error) = &failure
            && error.kind() == ErrorKind::ReadOnly
            && live.has_settled()
        {
            match &self.learned {
                Some(learned) => learned.agreement.refused_by(live.role, live.generation, &self.name),
                None if self.moves => live.give_up(),
                None => {}
            }
        }
        failure
    }

    /// Returns the link of a lane. Requests of one lane share a connection, so they arrive in the order in which they
    /// were sent.
    fn link(&self, lane: u16) -> Result<&Link> {
        let place = usize::from(lane).checked_rem(self.links.len());
        place.and_then(|place| self.links.get(place)).ok_or_else(Error::closed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::Network;
    use crate::store::equivalence::real_store;

    #[tokio::test]
    async fn from_the_moment_of_a_move_no_connection_from_before_it_is_used() {
        let store = real_store().await;
        let Network::Single(node) = &store.network else { panic!("a cluster") };
        let link = node.link(0).unwrap();
        let before = link.standing().unwrap();
        assert!(node.tracked().is_some());
        // The test runs on one thread, so no supervisor can notice the move before the next await.
        node.learned.as_ref().unwrap().agreement.move_from(before.generation, "the test's server", "a test");
        assert!(link.standing().is_none() && node.tracked().is_none());
        node.ready().await.unwrap();
        assert_ne!(link.standing().unwrap().generation, before.generation);
        assert!(node.tracked().is_some());
    }
}
