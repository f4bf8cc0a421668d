//! One server: its links, and how a request is sent to it.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisResult, Value};

use super::dial::{Destination, Learned, Login, describe};
use super::error::{Failure, translate_request};
use super::link::{Link, LinkKind, Live, is_connection_lost};
use super::tracking::SessionHandle;
use crate::clock::Tick;
use crate::error::{Error, ErrorKind, Result};
use crate::store::session::ReadStamp;

/// Whether a request may be sent again when the connection broke before its answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replay {
    /// It only reads.
    Safe,
    /// It may have taken effect: sending it again could undo what happened since, or charge twice.
    Never,
}

pub(super) struct Node {
    /// What the links agree on; nothing in a cluster, whose map says where to go.
    learned: Option<Arc<Learned>>,
    links: Vec<Link>,
    /// Tells what changed of all that was read through it.
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
        lane: Option<SessionHandle>,
    ) -> Self {
        let start = |first, lane| {
            let kind = match (of_cluster, first) {
                (true, _) => LinkKind::OfCluster,
                (false, true) => LinkKind::First,
                (false, false) => LinkKind::Further,
            };
            Link::start(destination.clone(), kind, login.clone(), lane)
        };
        Self {
            learned: (!of_cluster).then(|| login.learned.clone()),
            links: (0..connections.max(1)).map(|number| start(number == 0, None)).collect(),
            tracked: lane.map(|lane| start(false, Some(lane))),
            name: describe(destination),
            moves: destination.moves(),
        }
    }

    /// Waits until every link had its first attempt, and gives the first failure.
    pub(super) async fn ready(&self) -> Result<()> {
        for link in self.links.iter().chain(&self.tracked) {
            link.live().await?;
        }
        Ok(())
    }

    /// How many connections there are.
    pub(super) fn lanes(&self) -> u16 {
        u16::try_from(self.links.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_down(&self) -> bool {
        self.links.iter().all(Link::is_down)
    }

    pub(super) fn close(&self) {
        self.links.iter().chain(&self.tracked).for_each(Link::close);
    }

    pub(super) fn now(&self) -> Option<u64> {
        self.links.first()?.time().now()
    }

    /// The local time at which the server's clock shows `time` (microseconds), at the latest.
    pub(super) fn local_time(&self, time: u64) -> Option<Tick> {
        self.links.first()?.time().local_time(time)
    }

    /// Whatever a future could become is allocated and copied with every call, so only a connection that stands and an
    /// answer that comes are part of this one; the rest is boxed where it is needed.
    pub(super) async fn send(&self, lane: u16, command: &Cmd, replay: Replay) -> Result<Value, Failure> {
        let link = self.link(lane)?;
        let mut live = match link.standing() {
            Some(live) => live,
            None => Box::pin(link.live()).await?,
        };
        match live.connection.send_packed_command(command).await {
            Ok(value @ (Value::BulkString(_) | Value::Nil | Value::Okay | Value::Int(_))) => Ok(value),
            answer => Box::pin(self.settle(link, live, command, replay, answer)).await,
        }
    }

    /// The connection that tells of changes, if it stands and does; it is not waited for. None while the links are divided:
    /// it may lead to another server than the one that takes the writes.
    pub(super) fn tracked(&self) -> Option<(Live, ReadStamp)> {
        if self.learned.as_ref().is_some_and(|learned| learned.agreement.is_divided()) {
            return None;
        }
        let live = self.tracked.as_ref()?.standing()?;
        let seen = live.seen?;
        Some((live, seen))
    }

    /// Sends a command on such a connection. One that breaks on the way is found out by its supervisor.
    pub(super) async fn send_tracked(&self, mut live: Live, command: &Cmd) -> Result<Value, Failure> {
        let answer = live.connection.send_packed_command(command).await;
        self.checked(&live, answer)
    }

    /// The answers to commands sent in one write, if all came and none is an error.
    pub(super) async fn send_all_tracked(&self, mut live: Live, pipeline: &Pipeline) -> Option<Vec<Value>> {
        let answers = live.connection.send_packed_commands(pipeline, 0, pipeline.len()).await.ok()?;
        answers.into_iter().map(|answer| answer.extract_error().ok()).collect()
    }

    /// Sends again what was lost, where that is safe, and tells the server's errors from values.
    async fn settle(
        &self,
        link: &Link,
        mut live: Live,
        command: &Cmd,
        replay: Replay,
        mut answer: RedisResult<Value>,
    ) -> Result<Value, Failure> {
        if answer.as_ref().is_err_and(is_connection_lost) {
            // Not every failure to write makes the driver say that the connection is gone.
            live.give_up();
            if replay == Replay::Safe {
                live = link.live_after(Some(&live)).await?;
                answer = live.connection.send_packed_command(command).await;
            }
        }
        self.checked(&live, answer)
    }

    /// The answers in order, each a value or what the server said to that command.
    pub(super) async fn send_all(
        &self,
        lane: u16,
        pipeline: &Pipeline,
        replay: Replay,
    ) -> Result<Vec<Result<Value, Failure>>> {
        let count = pipeline.len();
        let link = self.link(lane)?;
        let mut live = link.live().await?;
        let mut answers = live.connection.send_packed_commands(pipeline, 0, count).await;
        if answers.as_ref().is_err_and(is_connection_lost) {
            live.give_up();
            if replay == Replay::Safe {
                live = link.live_after(Some(&live)).await?;
                answers = live.connection.send_packed_commands(pipeline, 0, count).await;
            }
        }
        let answers = answers.map_err(|error| translate_request(&error, &self.name))?;
        Ok(answers.into_iter().map(|answer| self.checked(&live, Ok(answer))).collect())
    }

    fn checked(&self, live: &Live, answer: RedisResult<Value>) -> Result<Value, Failure> {
        let failure = match answer.and_then(Value::extract_error) {
            Ok(value) => return Ok(value),
            Err(error) => Failure::of(&error, &self.name),
        };
        // Also what a replica answers that lost its master. Another server may be the master by now.
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
        Err(failure)
    }

    /// Requests of one lane share a connection, and so arrive in the order in which they were sent.
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
        // On this thread nothing else runs until the next await: no supervisor has seen it yet.
        node.learned.as_ref().unwrap().agreement.move_from(before.generation, "the test's server", "a test");
        assert!(link.standing().is_none() && node.tracked().is_none());
        node.ready().await.unwrap();
        assert_ne!(link.standing().unwrap().generation, before.generation);
        assert!(node.tracked().is_some());
    }
}
