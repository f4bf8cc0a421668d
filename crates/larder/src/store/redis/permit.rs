//! Semaphores on Redis: each operation is one script. Renewals and heartbeats of several semaphores are one
//! script for each slot.

use std::time::Duration;

use super::lock_names::{digits, origin_name, semaphore_names, with_last};
use super::node::Replay;
use super::script::Script;
use super::wire::Reply;
use super::{RedisStore, flag, millis, number, script, unexpected, version_text};
use crate::error::Result;
use crate::store::lock::{LockToken, QueueTiming, Renewal, wake_name};
use crate::store::permit::{PermitRequest, PermitStore, Taken, WhenTaken};

impl RedisStore {
    /// Runs a script for one attempt: the second script if there is quarantine.
    async fn run_of_attempt(
        &self,
        semaphore: &str,
        token: u64,
        [script, quarantined]: [&Script; 2],
        arguments: &[String],
        (replay, quarantine): (Replay, Option<Duration>),
    ) -> Result<Reply> {
        let ([held, number, queue, seen], wake) = (semaphore_names(semaphore), wake_name(semaphore, token));
        let keys = [&*held, &number, &queue, &seen, &wake];
        let token = version_text(token);
        let arguments: Vec<&[u8]> =
            [&token].into_iter().chain(arguments).map(|text| text.as_bytes()).collect();
        let Some(longest) = quarantine else {
            return self.network.run_script(semaphore, script, &keys, &arguments, replay).await;
        };
        let (origin, longest) = (origin_name(semaphore), digits(longest));
        let (keys, arguments) = (with_last(&keys, &*origin), with_last(&arguments, longest.as_bytes()));
        self.network.run_script(semaphore, quarantined, &keys, &arguments, replay).await
    }

    /// Loses the number of permits, as a server that evicts does.
    #[cfg(test)]
    pub(in crate::store) async fn lose_number(&self, semaphore: &str) {
        let [_, number, ..] = semaphore_names(semaphore);
        let command = super::wire::Request::new("HDEL").arg(&*number).arg("permits").arg("version");
        self.network.run(semaphore, &command, Replay::Safe).await.unwrap();
    }

    /// Runs a script for a whole semaphore.
    async fn run_of_semaphore(
        &self,
        semaphore: &str,
        script: &Script,
        arguments: &[String],
    ) -> Result<Reply> {
        let [held, number, queue, seen] = semaphore_names(semaphore);
        let keys = [&*held, &number, &queue, &seen];
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        self.network.run_script(semaphore, script, &keys, &arguments, Replay::Safe).await
    }
}

fn taken(answer: Reply) -> Result<Taken> {
    if let Reply::Int(until) = answer
        && until < 0
    {
        return Ok(Taken::Quarantined { until: until.unsigned_abs() });
    }
    let Reply::Array(parts) = answer else { return Err(unexpected(&answer)) };
    let [how, permits, rest @ ..] = parts.as_slice() else { return Err(unexpected(&Reply::Array(parts))) };
    let permits = number(permits)?;
    Ok(match how {
        Reply::Int(1) => {
            let fence = rest.first().map(number).transpose()?.unwrap_or_default();
            Taken::Granted { permits, fence }
        }
        Reply::Int(0) => Taken::Full { permits },
        Reply::Int(2) => Taken::Waiting { permits, notified: false },
        Reply::Int(-1) => Taken::Gone,
        Reply::Int(-2) => Taken::TooHeavy { permits },
        Reply::Int(-3) => Taken::QueueFull { permits },
        other => return Err(unexpected(other)),
    })
}

impl PermitStore for RedisStore {
    async fn take_permit(&self, semaphore: &str, token: u64, request: PermitRequest) -> Result<Taken> {
        let QueueTiming { claim, live } = self.timing;
        let fenced = u8::from(request.fenced).to_string();
        let most = match request.wait {
            WhenTaken::No => "-1".to_owned(),
            WhenTaken::Queue { most } => most.to_string(),
        };
        let arguments =
            [millis(request.ttl), request.permits.to_string(), millis(claim), millis(live), most, fenced];
        let scripts = [&script::TAKE_PERMIT, &script::TAKE_PERMIT_QUARANTINED];
        let how = (Replay::Never, request.quarantine);
        taken(self.run_of_attempt(semaphore, token, scripts, &arguments, how).await?)
    }

    async fn confirm_permit(&self, semaphore: &str, token: u64, request: PermitRequest) -> Result<Taken> {
        let QueueTiming { claim, live } = self.timing;
        let fenced = u8::from(request.fenced).to_string();
        let arguments = [millis(request.ttl), millis(claim), millis(live), fenced];
        let scripts = [&script::CONFIRM_PERMIT, &script::CONFIRM_PERMIT_QUARANTINED];
        let how = (Replay::Safe, request.quarantine);
        taken(self.run_of_attempt(semaphore, token, scripts, &arguments, how).await?)
    }

    async fn renew_permits(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> Result<Vec<Option<Renewal>>> {
        let keys_of = |semaphore: &str| {
            let [held, number, ..] = semaphore_names(semaphore);
            vec![held, number]
        };
        self.renew_by(&script::RENEW_PERMITS, keys_of, held, max_wait).await
    }

    async fn give_permit(&self, semaphore: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        let QueueTiming { claim, live } = self.timing;
        let remembered = remembered.map_or_else(|| "0".to_owned(), millis);
        let (claim, live) = (millis(claim), millis(live));
        let ([held, number, queue, seen], wake) = (semaphore_names(semaphore), wake_name(semaphore, token));
        let keys = [&*held, &number, &queue, &seen, &wake];
        let token = version_text(token);
        let arguments = [&token, &remembered, &claim, &live].map(|text| text.as_bytes());
        let script = &self.ordered.give_permit;
        flag(&self.network.run_in_order(semaphore, script, &keys, &arguments, Replay::Safe).await?)
    }

    async fn exchange_permits(&self, semaphore: &str, token: u64, other: u64, ttl: Duration) -> Result<bool> {
        let QueueTiming { claim, live } = self.timing;
        let arguments = [version_text(token), millis(ttl), millis(claim), millis(live)];
        // The exchanged permits are known to this server, and quarantine is about new grants.
        let (scripts, how) = ([&script::EXCHANGE_PERMITS; 2], (Replay::Safe, None));
        flag(&self.run_of_attempt(semaphore, other, scripts, &arguments, how).await?)
    }

    async fn set_permits(&self, semaphore: &str, permits: u64, version: u64) -> Result<bool> {
        let QueueTiming { claim, live } = self.timing;
        let arguments = [permits.to_string(), version.to_string(), millis(claim), millis(live)];
        flag(&self.run_of_semaphore(semaphore, &script::SET_PERMITS, &arguments).await?)
    }

    async fn permits_in_use(&self, semaphore: &str) -> Result<u64> {
        number(&self.run_of_semaphore(semaphore, &script::PERMITS_IN_USE, &[]).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::permit::{HEAVIEST, MOST_GRANTS, NUMBER_KEPT, token_of, weight};

    #[test]
    fn the_scripts_constants_are_those_of_the_seam() {
        let source = script::TAKE_PERMIT.source();
        for said in [
            format!("local KEPT = {} ", QueueTiming::KEPT),
            format!("local MOST_GRANTS = {MOST_GRANTS}\n"),
            format!("local DAYS_30 = {}\n", millis(NUMBER_KEPT)),
            format!("redis.call('PEXPIRE', KEYS[5], '{}')", millis(QueueTiming::REMEMBERED)),
        ] {
            assert!(source.contains(&said), "{said}");
        }
        let kept = format!("local DAYS_30 = {}\n", millis(NUMBER_KEPT));
        assert!(script::RENEW_PERMITS.source().contains(&kept));
        let token = token_of(u64::MAX, 7);
        assert_eq!((weight(token), &version_text(token)[12..]), (7, "0007"));
        assert_eq!(weight(token_of(0, HEAVIEST)), HEAVIEST);
    }
}
