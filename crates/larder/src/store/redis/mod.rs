//! The store on Redis and Valkey. No other module depends on these servers.
//!
//! Each operation is one command or one script, and so one round trip. An operation on several names is one for each
//! group of names that the server can process together; all groups are sent at once.

#[cfg(feature = "admin")]
mod admin;
#[cfg(feature = "admin")]
mod admin_locks;
mod agreement;
mod answer;
mod cluster;
mod delete_if;
mod dial;
mod error;
mod full;
mod group;
mod hosts;
mod identity;
mod job;
pub(crate) mod limit;
mod link;
mod lock;
mod lock_names;
mod login;
mod network;
mod node;
mod once;
mod open;
mod permit;
mod presence;
mod replicas;
mod script;
mod sentinel;
mod slots;
mod supervisor;
mod time;
mod tracking;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::watch;

use super::lock::QueueTiming;
use super::session::Sessions;
use super::{
    Claim, Eviction, Expiry, Fencing, FillStart, Force, InvalidationSink, KeptVersion, RefreshClaim,
    RefreshStart, Store, Tracked, read_version,
};
use crate::endpoint::Endpoints;
use crate::envelope::HEADER;
use crate::error::{Error, ErrorKind, Result};
use crate::health::{ConnectionHealth, Purpose};
use crate::keyspace::Keyspace;
use crate::name::Name;
use answer::{bytes, flag, in_order, number, pair, unexpected};
pub(crate) use hosts::Hosts;
use lock_names::TimingArgument;
use login::Learned;
pub(crate) use login::Login;
use network::Network;
use node::Replay;
use replicas::Replicas;
use script::OrderedScripts;
use tracking::Tracking;
pub(crate) use wire::Tls;
use wire::{Reply, Request, frame};

pub(crate) struct RedisStore {
    network: Network,
    reconnects: watch::Receiver<u64>,
    sessions: Arc<Sessions>,
    timing: QueueTiming,
    timing_argument: Box<TimingArgument>,
    learned: Arc<Learned>,
    ordered: Box<OrderedScripts>,
    #[cfg(feature = "admin")]
    tls: Option<Arc<Tls>>,
    /// Boxed, because it is large and rarely used.
    replicas: Box<Replicas>,
}

impl RedisStore {
    /// Starts to connect; with a sink also a tracked connection. [`ready`](Self::ready) waits for the
    /// first attempt.
    pub(crate) fn start(
        deployment: Endpoints,
        login: Login,
        sentinel_login: Login,
        connections: usize,
        sink: Option<Arc<dyn InvalidationSink>>,
    ) -> Self {
        let sessions = Arc::new(Sessions::remote());
        let tracking = sink.map(|sink| {
            let (sessions, clock) = (sessions.clone(), login.clock.clone());
            Tracking { sessions, sink, clock }
        });
        let (learned, reconnects) = (login.learned.clone(), login.hosts.reconnects());
        #[cfg(feature = "admin")]
        let tls = login.tls.clone();
        let replicas = Box::new(Replicas::new(deployment.clone(), login.clone(), sentinel_login.clone()));
        let network = Network::start(deployment, login, sentinel_login, connections, tracking);
        let ordered = Box::new(OrderedScripts::new(&reconnects));
        Self {
            network,
            reconnects,
            sessions,
            timing: QueueTiming::default(),
            timing_argument: Box::new(TimingArgument::of(QueueTiming::default())),
            learned,
            #[cfg(feature = "admin")]
            tls,
            ordered,
            replicas,
        }
    }

    #[cfg(test)]
    pub(in crate::store) fn set_timing(&mut self, timing: QueueTiming) {
        (self.timing, self.timing_argument) = (timing, Box::new(TimingArgument::of(timing)));
    }

    /// Waits for the first attempt to connect, and returns its failure.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.network.ready().await
    }

    pub(crate) fn connections(&self, purpose: Purpose) -> Vec<ConnectionHealth> {
        self.network.connections(purpose)
    }

    pub(crate) fn is_tracking(&self) -> bool {
        self.network.is_tracking()
    }

    pub(crate) fn eviction(&self) -> Eviction {
        self.learned.eviction()
    }

    /// A counter that changes each time a lost connection is up again.
    pub(crate) fn reconnects(&self) -> watch::Receiver<u64> {
        self.reconnects.clone()
    }

    /// Closes the connections, and ends the tasks that keep them.
    pub(crate) fn close(&self) {
        self.network.close();
        self.replicas.close();
    }

    /// Sends one command for each name, group by group, all groups at once. The results are in the order of
    /// the names. If a group fails, the others are written all the same: a node that is down must not keep
    /// the others from being invalidated.
    async fn write_many(&self, names: &[&str], command: impl Fn(usize) -> Request) -> Vec<Result<Reply>> {
        let groups = self.network.write_groups(names);
        let answers = join_all(groups.iter().map(|group| {
            let commands = group.places.iter().map(|place| command(*place)).collect();
            self.network.run_each(group, commands, Replay::Never)
        }))
        .await;
        let answers = groups.iter().zip(answers).map(|(group, answers)| {
            // A group that failed as a whole failed for each of its names.
            let answers = answers.unwrap_or_else(|error| vec![Err(error); group.places.len()]);
            (group.places.as_slice(), answers)
        });
        in_order(names.len(), answers).unwrap_or_else(|error| vec![Err(error); names.len()])
    }
}

impl Store for RedisStore {
    async fn ping(&self) -> Result<()> {
        self.network.run_anywhere(&Request::new("PING")).await.map(drop)
    }

    fn now(&self) -> u64 {
        self.network.now()
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        bytes(self.network.run(name, &get_command(name), Replay::Safe).await?)
    }

    async fn get_many(&self, names: &[Name]) -> Result<Vec<Option<Bytes>>> {
        let groups = self.network.groups(names);
        let answers = try_join_all(groups.iter().map(async |group| {
            let names: Vec<&str> =
                group.places.iter().filter_map(|place| names.get(*place)).map(Name::as_str).collect();
            let values = self.network.read_group(group, &names).await?;
            values.into_iter().map(bytes).collect::<Result<Vec<_>>>()
        }))
        .await?;
        in_order(names.len(), groups.iter().map(|group| group.places.as_slice()).zip(answers))
    }

    async fn get_tracked(&self, name: &str) -> Result<Tracked> {
        let (answer, stamp) = self.network.run_tracked(name, &get_command(name)).await?;
        Ok(Tracked { bytes: bytes(answer)?, stamp, left: None })
    }

    async fn get_many_tracked(&self, names: &[Name]) -> Result<Vec<Tracked>> {
        let groups = self.network.groups(names);
        let answers = try_join_all(groups.iter().map(async |group| {
            let names: Vec<&str> =
                group.places.iter().filter_map(|place| names.get(*place)).map(Name::as_str).collect();
            let (values, stamp) = self.network.read_group_tracked(group, &names).await?;
            let tracked = |value| Ok(Tracked { bytes: bytes(value)?, stamp, left: None });
            values.into_iter().map(tracked).collect::<Result<Vec<_>>>()
        }))
        .await?;
        in_order(names.len(), groups.iter().map(|group| group.places.as_slice()).zip(answers))
    }

    #[inline]
    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn node(&self, name: &str) -> usize {
        self.network.node(name)
    }

    async fn peek(&self, name: &str) -> Result<Bytes> {
        let last = u64::try_from(HEADER - 1).unwrap_or(u64::MAX);
        let command = Request::new("GETRANGE").arg(name).number(0).number(last);
        Ok(bytes(self.network.run(name, &command, Replay::Safe).await?)?.unwrap_or_default())
    }

    async fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> Result<()> {
        self.network.run(name, &set_command(name, &value, expiry), Replay::Never).await.map(drop)
    }

    async fn set_many(&self, entries: Vec<(Name, Bytes, Expiry)>) -> Vec<Result<()>> {
        let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        let command = |place: usize| match entries.get(place) {
            Some((name, value, expiry)) => set_command(name, value, *expiry),
            None => Request::new("PING"),
        };
        self.write_many(&names, command).await.into_iter().map(|answer| answer.map(drop)).collect()
    }

    async fn delete(&self, name: &str) -> Result<bool> {
        flag(&self.network.run(name, &unlink_command(name), Replay::Never).await?)
    }

    async fn delete_many(&self, names: &[Name]) -> Vec<Result<bool>> {
        let borrowed: Vec<&str> = names.iter().map(Name::as_str).collect();
        let command = |place: usize| {
            borrowed.get(place).map_or_else(|| Request::new("PING"), |name| unlink_command(name))
        };
        let answers = self.write_many(&borrowed, command).await;
        answers.into_iter().map(|answer| answer.and_then(|value| flag(&value))).collect()
    }

    async fn touch(&self, name: &str, expiry: Expiry) -> Result<bool> {
        let millis = expiry.as_millis().unwrap_or(0).to_string();
        let answer = self
            .network
            .run_script(name, &script::TOUCH, &[name], &[millis.as_bytes()], Replay::Never)
            .await?;
        flag(&answer)
    }

    async fn remaining(&self, name: &str) -> Result<Option<(Bytes, Expiry)>> {
        let header = (HEADER - 1).to_string();
        let answer = self
            .network
            .run_script(name, &script::REMAINING, &[name], &[header.as_bytes()], Replay::Safe)
            .await?;
        match pair(answer)? {
            (_, Reply::Int(-2)) => Ok(None),
            (start, Reply::Int(-1)) => Ok(Some((bytes(start)?.unwrap_or_default(), Expiry::Never))),
            (start, Reply::Int(millis)) => {
                let left = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
                Ok(Some((bytes(start)?.unwrap_or_default(), Expiry::After(left))))
            }
            (_, other) => Err(unexpected(&other)),
        }
    }

    async fn remaining_many(&self, names: &[Name]) -> Result<Vec<Option<Duration>>> {
        let groups = self.network.groups(names);
        let answers = try_join_all(groups.iter().map(async |group| {
            let names = group.places.iter().filter_map(|place| names.get(*place));
            let commands = names.map(|name| Request::new("PTTL").arg(name.as_str())).collect();
            let answers = self.network.run_all(group, commands, Replay::Safe).await?;
            // The reply is negative if the name does not exist or never expires.
            answers.iter().map(|left| Ok(number(left).ok().map(Duration::from_millis))).collect()
        }))
        .await?;
        in_order(names.len(), groups.iter().map(|group| group.places.as_slice()).zip(answers))
    }

    async fn begin_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        liveness: Duration,
        unreadable: Option<Bytes>,
    ) -> Result<FillStart> {
        let millis = millis(liveness);
        let unreadable = unreadable.unwrap_or_default();
        let arguments = [&*placeholder, millis.as_bytes(), &*unreadable];
        let answer =
            self.network.run_script(name, &script::BEGIN_FILL, &[name], &arguments, Replay::Never).await?;
        Ok(bytes(answer)?.map_or(FillStart::Begun, FillStart::Occupied))
    }

    async fn commit_fill(
        &self,
        name: &str,
        placeholder: Bytes,
        value: Bytes,
        expiry: Expiry,
    ) -> Result<bool> {
        let millis = expiry.as_millis().unwrap_or(0).to_string();
        let arguments = [&*placeholder, &*value, millis.as_bytes()];
        flag(&self.network.run_script(name, &script::COMMIT_FILL, &[name], &arguments, Replay::Never).await?)
    }

    async fn abandon_fill(&self, name: &str, placeholder: Bytes) -> Result<()> {
        let (script, arguments) = (&self.ordered.abandon_fill, [&*placeholder]);
        self.network.run_in_order(name, script, &[name], &arguments, Replay::Never).await.map(drop)
    }

    async fn begin_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        liveness: Duration,
        force: Force,
    ) -> Result<RefreshStart> {
        let liveness = millis(liveness);
        let force: &[u8] = if force == Force::Yes { b"1" } else { b"0" };
        let keys = [name, &Keyspace::refresh_claim(name)];
        let arguments = [&claim.nonce.to_be_bytes(), &*claim.write(), liveness.as_bytes(), force];
        match self.network.run_script(name, &script::BEGIN_REFRESH, &keys, &arguments, Replay::Never).await? {
            Reply::Int(1) => Ok(RefreshStart::Begun),
            Reply::Int(0) => Ok(RefreshStart::Busy),
            Reply::Int(-1) => Ok(RefreshStart::Changed),
            other => Err(unexpected(&other)),
        }
    }

    async fn commit_refresh(
        &self,
        name: &str,
        claim: RefreshClaim,
        value: Option<Bytes>,
        expiry: Expiry,
    ) -> Result<bool> {
        let keys = [name, &Keyspace::refresh_claim(name)];
        let millis = match value {
            Some(_) => expiry.as_millis().unwrap_or(0).to_string(),
            None => "-1".to_owned(),
        };
        let value = value.unwrap_or_default();
        let arguments = [&claim.nonce.to_be_bytes(), &*claim.write(), &*value, millis.as_bytes()];
        flag(&self.network.run_script(name, &script::COMMIT_REFRESH, &keys, &arguments, Replay::Never).await?)
    }

    async fn abandon_refresh(&self, name: &str, claim: RefreshClaim) -> Result<()> {
        let key = Keyspace::refresh_claim(name);
        let (script, arguments) = (&self.ordered.abandon_refresh, [&*claim.write()]);
        self.network.run_in_order(name, script, &[&key], &arguments, Replay::Never).await.map(drop)
    }

    async fn renew_load(&self, name: &str, claim: Claim, liveness: Duration) -> Result<bool> {
        let (key, bytes) = match claim {
            Claim::Placeholder(bytes) => (Name::from(name), bytes),
            Claim::Refresh(claim) => (Keyspace::refresh_claim(name), claim.write()),
        };
        let liveness = millis(liveness);
        let arguments = [&*bytes, liveness.as_bytes()];
        flag(&self.network.run_script(name, &script::RENEW_LOAD, &[&key], &arguments, Replay::Never).await?)
    }

    async fn restamp(&self, name: &str, nonce: u64, value: Bytes, expiry: Option<Expiry>) -> Result<bool> {
        let millis = expiry.map(|expiry| expiry.as_millis().unwrap_or(0).to_string()).unwrap_or_default();
        let arguments = [&nonce.to_be_bytes(), &*value, millis.as_bytes()];
        flag(&self.network.run_script(name, &script::RESTAMP, &[name], &arguments, Replay::Never).await?)
    }

    async fn version(&self, name: &str, candidate: u64, span: Duration) -> Result<KeptVersion> {
        let (candidate, span) = (version_text(candidate), millis(span));
        let arguments = [candidate.as_bytes(), span.as_bytes()];
        let (answer, stamp) =
            self.network.run_script_tracked(name, &script::VERSION, &[name], &arguments).await?;
        let (text, left) = pair(answer)?;
        let odd = || {
            Error::new(
                ErrorKind::Server,
                "a stored version is not one that larder wrote: another program uses its key",
            )
        };
        let version = bytes(text)?.as_deref().and_then(read_version).ok_or_else(odd)?;
        // A key without an expiry never expires.
        let left = number(&left).map_or(Duration::MAX, Duration::from_millis);
        Ok(KeptVersion { version, left, stamp })
    }

    async fn renew_version(&self, name: &str, version: u64, span: Duration) -> Result<()> {
        let value = Bytes::from(version_text(version));
        match self.set(name, value, Expiry::After(span.saturating_mul(2))).await {
            Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                self.network.run(name, &unlink_command(name), Replay::Never).await.map(drop)
            }
            answer => answer,
        }
    }

    async fn set_fenced(&self, name: &str, value: Bytes, expiry: Expiry, fence: Fencing) -> Result<bool> {
        let px = expiry.as_millis().unwrap_or(0).to_string();
        let (number, kept) = (fence.number.to_string(), millis(fence.kept));
        let keys = [name, &Keyspace::fence(name)];
        let arguments = [&*value, px.as_bytes(), number.as_bytes(), kept.as_bytes()];
        // While a cluster moves their slot, the two keys may be on two nodes.
        let run = self.network.run_script_through_moves(
            name,
            &script::SET_FENCED,
            &keys,
            &arguments,
            Replay::Never,
        );
        flag(&run.await?)
    }
}

fn unlink_command(name: &str) -> Request {
    Request::with_capacity("UNLINK", frame(name.len())).arg(name)
}

fn get_command(name: &str) -> Request {
    Request::with_capacity("GET", frame(name.len())).arg(name)
}

fn set_command(name: &str, value: &Bytes, expiry: Expiry) -> Request {
    let request = Request::with_capacity("SET", frame(name.len()) + 60).arg(name).value(value);
    match expiry.as_millis() {
        Some(millis) => request.arg("PX").number(millis),
        None => request,
    }
}

fn millis(span: Duration) -> String {
    Expiry::After(span).as_millis().unwrap_or(1).to_string()
}

/// Writes sixteen hexadecimal digits: exact in every language, and a person can read them.
fn version_text(version: u64) -> String {
    format!("{version:016x}")
}
