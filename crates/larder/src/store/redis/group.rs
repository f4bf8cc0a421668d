//! Lock groups on Redis: each operation is one script. Renewals and heartbeats of several groups are one
//! script for each slot.

use std::time::Duration;

use super::lock::{array, attempted, held_by};
use super::lock_names::{FENCE_KEPT, digits, fence_name, group_names, origin_name, with_last};
use super::node::Replay;
use super::{RedisStore, flag, millis, script, version_text};
use crate::error::Result;
use crate::store::group::GroupStore;
use crate::store::lock::{
    Attempted, HeldBy, LockRequest, LockToken, QueueTiming, Renewal, WhenHeld, token_text, wake_name,
};

impl GroupStore for RedisStore {
    async fn take_group(
        &self,
        group: &str,
        token: u64,
        locks: &str,
        LockRequest { ttl, by, quarantine }: LockRequest<'_>,
        queue: WhenHeld,
    ) -> Result<Attempted> {
        let ([held, state, waiters], fence, wake) =
            (group_names(group), fence_name(group), wake_name(group, token));
        let QueueTiming { claim, live } = self.timing;
        let (token, kept, ttl) = (token_text(token), digits(ttl + FENCE_KEPT), digits(ttl));
        let (claim, live) = (digits(claim), digits(live));
        let how = if queue == WhenHeld::Enqueue { "1" } else { "0" };
        let keys = [&*held, &state, &waiters, &fence, &wake];
        let arguments = [&token[..], &ttl, &kept, how, &claim, &live, by, locks].map(str::as_bytes);
        let answer = match quarantine {
            None => {
                self.network.run_script(group, &script::TAKE_GROUP, &keys, &arguments, Replay::Never).await?
            }
            Some(longest) => {
                let (origin, longest) = (origin_name(group), digits(longest));
                let (keys, arguments) =
                    (with_last(&keys, &*origin), with_last(&arguments, longest.as_bytes()));
                let script = &script::TAKE_GROUP_QUARANTINED;
                self.network.run_script(group, script, &keys, &arguments, Replay::Never).await?
            }
        };
        attempted(&answer, false)
    }

    async fn confirm_group(&self, group: &str, token: u64, request: LockRequest<'_>) -> Result<Attempted> {
        let LockRequest { ttl, by, quarantine } = request;
        let ([held, state, waiters], fence, wake) =
            (group_names(group), fence_name(group), wake_name(group, token));
        let QueueTiming { claim, live } = self.timing;
        let (token, kept, ttl) = (token_text(token), digits(ttl + FENCE_KEPT), digits(ttl));
        let (claim, live) = (digits(claim), digits(live));
        let keys = [&*held, &state, &waiters, &fence, &wake];
        let arguments = [&token[..], &ttl, &kept, &claim, &live, by].map(str::as_bytes);
        let answer = match quarantine {
            None => {
                self.network
                    .run_script(group, &script::CONFIRM_GROUP, &keys, &arguments, Replay::Safe)
                    .await?
            }
            Some(longest) => {
                let (origin, longest) = (origin_name(group), digits(longest));
                let (keys, arguments) =
                    (with_last(&keys, &*origin), with_last(&arguments, longest.as_bytes()));
                let script = &script::CONFIRM_GROUP_QUARANTINED;
                self.network.run_script(group, script, &keys, &arguments, Replay::Safe).await?
            }
        };
        attempted(&answer, false)
    }

    async fn renew_groups(
        &self,
        held: &[(LockToken, Duration)],
        max_wait: Duration,
    ) -> Result<Vec<Option<Renewal>>> {
        let keys_of = |group: &str| {
            let [held, state, queue] = group_names(group);
            vec![held, state, queue, fence_name(group)]
        };
        self.renew_by(&script::RENEW_GROUPS, keys_of, held, max_wait).await
    }

    async fn give_group(&self, group: &str, token: u64, remembered: Option<Duration>) -> Result<bool> {
        let ([held, state, queue], wake) = (group_names(group), wake_name(group, token));
        let QueueTiming { claim, live } = self.timing;
        let remembered = remembered.map_or_else(|| "0".to_owned(), millis);
        let keys = [&*held, &state, &queue, &wake];
        let (token, claim, live) = (version_text(token), millis(claim), millis(live));
        let arguments = [&token, &remembered, &claim, &live].map(|text| text.as_bytes());
        let script = &self.ordered.give_group;
        flag(&self.network.run_in_order(group, script, &keys, &arguments, Replay::Safe).await?)
    }

    async fn group_holder(&self, group: &str, name: &str) -> Result<Option<HeldBy>> {
        let [held, state, queue] = group_names(group);
        let live = digits(self.timing.live);
        let (keys, arguments) = ([&*held, &state, &queue], [name.as_bytes(), live.as_bytes()]);
        let script = &script::GROUP_HOLDER;
        held_by(&array(self.network.run_script(group, script, &keys, &arguments, Replay::Safe).await?)?)
    }
}

#[cfg(test)]
impl RedisStore {
    /// Ends everything that is held or claimed.
    pub(in crate::store) async fn end_group(&self, group: &str) {
        use super::wire::{Reply, Request};
        let tokens = Request::new("ZRANGE").arg(group).arg("0").arg("-1");
        let Reply::Array(tokens) = self.network.run(group, &tokens, Replay::Safe).await.unwrap() else {
            panic!("no array")
        };
        for token in tokens {
            let token = super::bytes(token).unwrap().unwrap();
            let end = Request::new("ZADD").arg(group).arg("1").arg(token);
            self.network.run(group, &end, Replay::Safe).await.unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::group::MOST_EXAMINED;

    #[test]
    fn the_scripts_constants_are_those_of_the_seam() {
        let source = script::TAKE_GROUP.source();
        for said in [
            format!("local KEPT = {} ", QueueTiming::KEPT),
            format!("local MOST = {MOST_EXAMINED} "),
            format!("local FENCE_KEPT = {}\n", millis(FENCE_KEPT)),
            format!("redis.call('PEXPIRE', KEYS[5], '{}')", millis(QueueTiming::REMEMBERED)),
        ] {
            assert!(source.contains(&said), "{said}");
        }
    }
}
