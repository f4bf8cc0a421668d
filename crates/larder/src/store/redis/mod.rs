//! The store on Redis and Valkey: the only room that knows them.
//!
//! Each operation is one command or one script, and so one round trip; those about several names are one for each
//! group of names that the server can serve together, all groups at once.

mod cluster;
mod dial;
mod error;
pub(crate) mod limit;
mod link;
mod network;
mod node;
mod script;
mod slots;
mod time;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use redis::{Cmd, Value, cmd};

use super::{Acquired, Expiry, FillStart, Store};
use crate::endpoint::Deployment;
use crate::envelope::HEADER;
use crate::error::{Error, ErrorKind, Result};
pub(crate) use dial::Login;
use network::Network;
use node::Replay;

pub(crate) struct RedisStore {
    network: Network,
}

impl RedisStore {
    /// Connects, and fails with what stands in the way.
    pub(crate) async fn connect(
        deployment: Deployment,
        login: Login,
        sentinel_login: Login,
        connections: usize,
    ) -> Result<Self> {
        Ok(Self { network: Network::connect(deployment, login, sentinel_login, connections).await? })
    }

    /// Ends the connections, and the tasks that keep them.
    pub(crate) fn close(&self) {
        self.network.close();
    }

    /// One command for each group of names, all at once; the answers in the order of the names.
    async fn read_many<T>(&self, names: &[String], take: impl Fn(Value) -> Result<T>) -> Result<Vec<T>> {
        let groups = self.network.groups(names);
        let answers = try_join_all(groups.iter().map(async |group| {
            let names: Vec<&str> =
                group.places.iter().filter_map(|place| names.get(*place)).map(String::as_str).collect();
            let values = self.network.read_group(group, &names).await?;
            values.into_iter().map(&take).collect::<Result<Vec<T>>>()
        }))
        .await?;
        in_order(names.len(), groups.iter().map(|group| group.places.as_slice()).zip(answers))
    }

    /// A command a name, sent group by group, all at once; the answers in the order of the names. What can be written is,
    /// also where a group fails: a node that is down must not keep the others from being invalidated.
    async fn write_many(&self, names: &[&str], command: impl Fn(usize) -> Cmd) -> Result<Vec<Value>> {
        let groups = self.network.write_groups(names);
        let answers = join_all(groups.iter().map(|group| {
            let commands = group.places.iter().map(|place| command(*place)).collect();
            self.network.run_all(group, commands, Replay::Never)
        }))
        .await;
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        in_order(names.len(), groups.iter().map(|group| group.places.as_slice()).zip(answers))
    }
}

impl Store for RedisStore {
    async fn ping(&self) -> Result<()> {
        self.network.run_anywhere(&cmd("PING")).await.map(drop)
    }

    fn now(&self) -> u64 {
        self.network.now()
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let mut command = Cmd::with_capacity(2, name.len() + 3);
        command.arg("GET").arg(name);
        bytes(self.network.run(name, &command, Replay::Safe).await?)
    }

    async fn get_many(&self, names: &[String]) -> Result<Vec<Option<Bytes>>> {
        self.read_many(names, bytes).await
    }

    async fn peek(&self, name: &str) -> Result<Bytes> {
        let mut command = Cmd::with_capacity(4, name.len() + 12);
        command.arg("GETRANGE").arg(name).arg(0).arg(HEADER - 1);
        Ok(bytes(self.network.run(name, &command, Replay::Safe).await?)?.unwrap_or_default())
    }

    async fn set(&self, name: &str, value: Bytes, expiry: Expiry) -> Result<()> {
        self.network.run(name, &set_command(name, &value, expiry), Replay::Never).await.map(drop)
    }

    async fn set_many(&self, entries: Vec<(String, Bytes, Expiry)>) -> Result<()> {
        let names: Vec<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        let command = |place: usize| match entries.get(place) {
            Some((name, value, expiry)) => set_command(name, value, *expiry),
            None => Cmd::new(),
        };
        self.write_many(&names, command).await.map(drop)
    }

    async fn delete(&self, name: &str) -> Result<bool> {
        let mut command = Cmd::with_capacity(2, name.len() + 6);
        command.arg("UNLINK").arg(name);
        flag(&self.network.run(name, &command, Replay::Never).await?)
    }

    async fn delete_many(&self, names: &[String]) -> Result<Vec<bool>> {
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        let command = |place: usize| {
            let mut command = cmd("UNLINK");
            command.arg(borrowed.get(place));
            command
        };
        self.write_many(&borrowed, command).await?.iter().map(flag).collect()
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
            (_, Value::Int(-2)) => Ok(None),
            (start, Value::Int(-1)) => Ok(Some((bytes(start)?.unwrap_or_default(), Expiry::Never))),
            (start, Value::Int(millis)) => {
                let left = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
                Ok(Some((bytes(start)?.unwrap_or_default(), Expiry::After(left))))
            }
            (_, other) => Err(unexpected(&other)),
        }
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
        self.network
            .run_script(name, &script::ABANDON_FILL, &[name], &[&*placeholder], Replay::Never)
            .await
            .map(drop)
    }

    async fn versions(&self, names: &[String], candidates: &[u64], span: Duration) -> Result<Vec<u64>> {
        let span = millis(span);
        try_join_all(names.iter().zip(candidates).map(async |(name, candidate)| {
            let candidate = version_text(*candidate);
            let arguments = [candidate.as_bytes(), span.as_bytes()];
            let answer = self
                .network
                .run_script(name, &script::TAG_VERSION, &[name], &arguments, Replay::Never)
                .await?;
            version(answer)?
                .ok_or_else(|| Error::new(ErrorKind::Server, "a tag has no version though one was made"))
        }))
        .await
    }

    async fn known_versions(&self, names: &[String]) -> Result<Vec<Option<u64>>> {
        self.read_many(names, version).await
    }

    async fn renew_version(&self, name: &str, version: u64, span: Duration) -> Result<()> {
        let value = Bytes::from(version_text(version));
        self.set(name, value, Expiry::After(span.saturating_mul(2))).await
    }

    async fn acquire(&self, name: &str, token: u64, ttl: Duration) -> Result<Acquired> {
        let (token, ttl) = (version_text(token), millis(ttl));
        let keys = [name, &format!("{name}:fence")];
        let arguments = [token.as_bytes(), ttl.as_bytes()];
        match pair(self.network.run_script(name, &script::ACQUIRE, &keys, &arguments, Replay::Never).await?)?
        {
            (Value::Int(1), fence) => Ok(Acquired::Granted { fence: number(&fence)? }),
            (Value::Int(0), left) => Ok(Acquired::Held { remaining: Duration::from_millis(number(&left)?) }),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn extend(&self, name: &str, token: u64, ttl: Duration) -> Result<bool> {
        let (token, ttl) = (version_text(token), millis(ttl));
        let arguments = [token.as_bytes(), ttl.as_bytes()];
        flag(&self.network.run_script(name, &script::EXTEND, &[name], &arguments, Replay::Never).await?)
    }

    async fn release(&self, name: &str, token: u64) -> Result<bool> {
        let token = version_text(token);
        flag(
            &self
                .network
                .run_script(name, &script::RELEASE, &[name], &[token.as_bytes()], Replay::Never)
                .await?,
        )
    }
}

fn set_command(name: &str, value: &Bytes, expiry: Expiry) -> Cmd {
    let mut command = Cmd::with_capacity(5, name.len() + value.len() + 32);
    command.arg("SET").arg(name).arg(&**value);
    if let Some(millis) = expiry.as_millis() {
        command.arg("PX").arg(millis);
    }
    command
}

fn millis(span: Duration) -> String {
    Expiry::After(span).as_millis().unwrap_or(1).to_string()
}

/// Sixteen hexadecimal digits: exact in any language, and a person can read them.
fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

fn version(value: Value) -> Result<Option<u64>> {
    let Some(text) = bytes(value)? else { return Ok(None) };
    Ok(str::from_utf8(&text).ok().and_then(|text| u64::from_str_radix(text, 16).ok()))
}

fn bytes(value: Value) -> Result<Option<Bytes>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(Bytes::from(bytes))),
        other => Err(unexpected(&other)),
    }
}

fn flag(value: &Value) -> Result<bool> {
    number(value).map(|number| number > 0)
}

fn number(value: &Value) -> Result<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).map_err(|_| unexpected(value)),
        other => Err(unexpected(other)),
    }
}

fn pair(value: Value) -> Result<(Value, Value)> {
    match value {
        Value::Array(mut parts) if parts.len() == 2 => match (parts.pop(), parts.pop()) {
            (Some(second), Some(first)) => Ok((first, second)),
            _ => Err(Error::new(ErrorKind::Server, "the server's answer is not a pair")),
        },
        other => Err(unexpected(&other)),
    }
}

/// Names the type alone: the value may be anybody's data.
fn unexpected(value: &Value) -> Error {
    let type_name = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "a string",
        Value::Array(_) => "an array",
        Value::Okay => "OK",
        _ => "another type",
    };
    Error::new(
        ErrorKind::Server,
        format!("the server answered with {type_name}, which larder did not expect"),
    )
}

/// Puts the answers of groups back in the order of the names.
fn in_order<'a, T>(
    count: usize,
    mut groups: impl ExactSizeIterator<Item = (&'a [usize], Vec<T>)>,
) -> Result<Vec<T>> {
    if groups.len() == 1
        && let Some((_, answers)) = groups.next()
        && answers.len() == count
    {
        return Ok(answers);
    }
    let mut ordered: Vec<Option<T>> = std::iter::repeat_with(|| None).take(count).collect();
    for (places, answers) in groups {
        for (place, answer) in places.iter().zip(answers) {
            if let Some(slot) = ordered.get_mut(*place) {
                *slot = Some(answer);
            }
        }
    }
    let complete: Option<Vec<T>> = ordered.into_iter().collect();
    complete.ok_or_else(|| Error::new(ErrorKind::Server, "the server answered fewer times than it was asked"))
}
