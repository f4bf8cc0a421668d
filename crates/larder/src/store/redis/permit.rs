//! Semaphores on Redis: each operation is one script; renewals of several permits are one for each slot.

use std::time::Duration;

use redis::Value;

use super::node::Replay;
use super::{RedisStore, flag, millis, number, pair, script, unexpected, version_text};
use crate::error::Result;
use crate::store::lock::{Pace, Ticket, wake_name};
use crate::store::permit::{PermitStore, Taken, bell_name, door_name};

impl PermitStore for RedisStore {
    async fn take_permit(
        &self,
        semaphore: &str,
        token: u64,
        permits: u64,
        ttl: Duration,
        door: Option<u64>,
    ) -> Result<Taken> {
        let door_lock = door_name(semaphore);
        let (line, given_up) = (format!("{door_lock}:line"), wake_name(semaphore, token));
        let door = door.map(version_text).unwrap_or_default();
        let (token, permits, ttl) = (version_text(token), permits.to_string(), millis(ttl));
        let remembered = millis(Pace::REMEMBERED);
        let keys = [semaphore, &door_lock, &line, &given_up];
        let arguments =
            [token.as_bytes(), permits.as_bytes(), ttl.as_bytes(), door.as_bytes(), remembered.as_bytes()];
        let answer = self
            .network
            .run_script(semaphore, &script::TAKE_PERMIT, &keys, &arguments, Replay::Never)
            .await?;
        match pair(answer)? {
            (Value::Int(1), _) => Ok(Taken::Permit),
            (Value::Int(0), left) => Ok(Taken::Full { first_ends: Duration::from_millis(number(&left)?) }),
            (Value::Int(-1), _) => Ok(Taken::Gone),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn renew_permits(
        &self,
        held: &[(Ticket, Duration)],
        patience: Duration,
    ) -> Result<Vec<Option<bool>>> {
        self.renew_by(&script::RENEW_PERMITS, held, patience).await
    }

    async fn give_permit(&self, semaphore: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        let (door, bell, given_up) =
            (door_name(semaphore), bell_name(semaphore), wake_name(semaphore, token));
        let (token, remembered) = (version_text(token), remembered.map_or_else(|| "0".to_owned(), millis));
        let keys = [semaphore, &door, &bell, &given_up];
        let arguments = [token.as_bytes(), remembered.as_bytes()];
        flag(
            &self
                .network
                .run_script(semaphore, &script::GIVE_PERMIT, &keys, &arguments, Replay::Safe)
                .await?,
        )
    }
}
