//! Work that runs once, on a server: each operation is one script.

use std::time::Duration;

use super::wire::Reply;
use bytes::Bytes;

use super::node::Replay;
use super::{RedisStore, bytes, flag, millis, number, script, unexpected, version_text};
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::store::once::{GIVEN_UP, OnceRun, OnceStart, OnceStore};
use crate::store::{Expiry, FillStart};

impl OnceStore for RedisStore {
    async fn set_if_absent(
        &self,
        name: &str,
        value: Bytes,
        expiry: Expiry,
        in_place_of: Option<Bytes>,
    ) -> Result<FillStart> {
        let millis = expiry.as_millis().unwrap_or(0).to_string();
        let in_place_of = in_place_of.unwrap_or_default();
        let arguments = [&*value, millis.as_bytes(), &*in_place_of];
        let answer =
            self.network.run_script(name, &script::BEGIN_FILL, &[name], &arguments, Replay::Never).await?;
        Ok(bytes(answer)?.map_or(FillStart::Begun, FillStart::Occupied))
    }

    async fn begin_once(&self, name: &str, run: OnceRun, in_place_of: Option<Bytes>) -> Result<OnceStart> {
        let (token, liveness, kept) = (version_text(run.token), millis(run.liveness), millis(run.kept));
        let in_place_of = in_place_of.unwrap_or_default();
        let takes_over: &[u8] = if run.takes_over { b"1" } else { b"0" };
        let given_up = Keyspace::given_up(name, run.token);
        let keys = [name, &Keyspace::once(name), &Keyspace::pulse(name), &given_up];
        let arguments = [token.as_bytes(), liveness.as_bytes(), kept.as_bytes(), &*in_place_of, takes_over];
        let answer =
            self.network.run_script(name, &script::BEGIN_ONCE, &keys, &arguments, Replay::Never).await?;
        let Reply::Array(parts) = answer else { return Err(unexpected(&answer)) };
        let mut parts = parts.into_iter();
        match (parts.next(), parts.next()) {
            (Some(Reply::Int(0)), None) => Ok(OnceStart::Begun),
            (Some(Reply::Int(1)), Some(there)) => Ok(OnceStart::Done(bytes(there)?.unwrap_or_default())),
            (Some(Reply::Int(2)), Some(left)) => {
                Ok(OnceStart::Running(Duration::from_millis(number(&left)?)))
            }
            (Some(Reply::Int(3)), None) => Ok(OnceStart::Interrupted),
            (Some(Reply::Int(4)), None) => Ok(OnceStart::GivenUp),
            (first, _) => Err(unexpected(&first.unwrap_or(Reply::Nil))),
        }
    }

    async fn renew_once(&self, name: &str, run: OnceRun) -> Result<bool> {
        let (token, liveness, kept) = (version_text(run.token), millis(run.liveness), millis(run.kept));
        let keys = [&*Keyspace::once(name), &Keyspace::pulse(name)];
        let arguments = [token.as_bytes(), liveness.as_bytes(), kept.as_bytes()];
        flag(&self.network.run_script(name, &script::RENEW_ONCE, &keys, &arguments, Replay::Never).await?)
    }

    async fn commit_once(&self, name: &str, token: u64, value: Bytes, expiry: Expiry) -> Result<bool> {
        let (token, millis) = (version_text(token), expiry.as_millis().unwrap_or(0).to_string());
        let keys = [name, &Keyspace::once(name), &Keyspace::pulse(name)];
        let arguments = [token.as_bytes(), &*value, millis.as_bytes()];
        flag(&self.network.run_script(name, &script::COMMIT_ONCE, &keys, &arguments, Replay::Never).await?)
    }

    async fn abandon_once(&self, name: &str, token: u64) -> Result<()> {
        let given_up = Keyspace::given_up(name, token);
        let (token, remembered) = (version_text(token), millis(GIVEN_UP));
        let keys = [&*Keyspace::once(name), &Keyspace::pulse(name), &given_up];
        let arguments = [token.as_bytes(), remembered.as_bytes()];
        self.network.run_script(name, &script::ABANDON_ONCE, &keys, &arguments, Replay::Never).await.map(drop)
    }
}
