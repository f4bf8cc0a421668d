//! Limits on the server: each operation is one script.

use std::time::Duration;

use super::wire::Reply;

use super::network::Network;
use super::node::Replay;
use super::slots::slot;
use super::{RedisStore, flag, number, pair, script, unexpected};
use crate::clock::Tick;
use crate::error::{Error, Result};
use crate::store::limit::{
    BUCKETS, Charge, ChargeMode, ChargeStamp, Charged, Label, LimitStore, Override, QuotaSpec, Rule,
};

/// A request to a script: big-endian numbers, one after the other. One argument costs the server less than
/// ten, and numbers cost less than their text.
struct ChargeArguments(Vec<u8>);

impl ChargeArguments {
    fn charge(charge: Charge<'_>) -> Self {
        let mut request = Self(Vec::with_capacity(16 + 10 * charge.specs.len()));
        request.number(4, charge.cost).specs(charge.specs);
        request.0.extend_from_slice(itoa::Buffer::new().format(lives(charge.specs)).as_bytes());
        request
    }

    /// Writes the options of a charge; `None` to charge all or nothing now.
    fn more(charge: Charge<'_>) -> Option<Self> {
        let Charge { mode, charge_at, max_wait, .. } = charge;
        let (special, penalty) =
            (mode != ChargeMode::All || charge_at > 0 || max_wait > 0, charge.penalty_if_refused());
        (special || penalty.is_some()).then(|| {
            let mut more = Self(Vec::with_capacity(34));
            if special {
                more.number(1, mode.number())
                    .number(7, charge_at)
                    .number(7, max_wait)
                    .number(4, mode.least());
            }
            if let Some(penalty) = penalty {
                more.number(7, penalty.first).number(1, penalty.factor).number(7, penalty.most);
            }
            more
        })
    }

    /// Writes the requests for several keys, and after them the penalty of each, if any has one.
    fn together(charges: &[(&str, Charge<'_>)]) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = charges.iter().map(|(_, charge)| Self::charge(*charge).0).collect();
        if charges.iter().any(|(_, charge)| charge.penalty.is_some()) {
            let penalty = |charge: &Charge<'_>| Self::more(*charge).map(|more| more.0).unwrap_or_default();
            all.extend(charges.iter().map(|(_, charge)| penalty(charge)));
        }
        all
    }

    fn refund(permits: u64, stamp: ChargeStamp) -> Self {
        let mut request = Self(Vec::with_capacity(22));
        request.number(4, permits).number(7, stamp.when).number(7, stamp.created_at).number(4, stamp.burst);
        request
    }

    fn override_of(key: &Override) -> Self {
        let specs: Vec<QuotaSpec> = key.specs.iter().map(|(spec, _)| *spec).collect();
        let mut request = Self(Vec::with_capacity(22 + 10 * key.own.len() + 25 * specs.len()));
        let span = u64::try_from(key.lasts.as_micros()).unwrap_or(u64::MAX);
        request.number(7, span).number(7, lives(&specs)).number(7, lives(&key.own)).specs(&key.own);
        for (spec, label) in &key.specs {
            request.number(6, spec.unit()).number(4, spec.limit);
            request.0.extend_from_slice(label);
        }
        request
    }

    /// Writes the lowest bytes of a number, or the largest number that fits into them.
    fn number(&mut self, bytes: usize, number: u64) -> &mut Self {
        let all = number.to_be_bytes();
        let (above, kept) = all.split_at(all.len() - bytes);
        if above.iter().any(|byte| *byte != 0) {
            self.0.resize(self.0.len() + bytes, u8::MAX);
        } else {
            self.0.extend_from_slice(kept);
        }
        self
    }

    fn specs(&mut self, specs: &[QuotaSpec]) {
        self.number(1, u64::try_from(specs.len()).unwrap_or(u64::MAX));
        for spec in specs {
            self.number(6, spec.unit()).number(4, spec.limit);
        }
    }
}

/// Returns how many milliseconds a record lives: all windows, and a sixth of the longest, so that charge.lua
/// need not set the time with every charge. GCRA computes its own end.
fn lives(specs: &[QuotaSpec]) -> u64 {
    let whole = |spec: &QuotaSpec| match spec.rule {
        Rule::Buckets => spec.width.saturating_mul(BUCKETS + 1 + BUCKETS / 6),
        Rule::Log => spec.width.saturating_add(spec.width.div_ceil(6)),
        Rule::Gcra => 0,
    };
    // Add a millisecond, because the rest of the current one is lost.
    specs.iter().map(whole).max().unwrap_or(0).div_ceil(1000) + 1
}

/// Reads the reply of charge.lua. `burst` is that of the request.
fn charged(answer: &[u8], burst: u64) -> Option<Charged> {
    // A refusal, a grant or a turn, with a label after it.
    let (answer, label) = match answer.len() {
        38 | 45 | 52 => answer.split_at_checked(answer.len() - 15)?,
        _ => (answer, &[][..]),
    };
    let label = Label::try_from(label).ok();
    let mut rest = answer;
    let mut number = |bytes: usize| {
        let (number, tail) = rest.split_at_checked(bytes)?;
        rest = tail;
        Some(number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let granted = number(4)?;
    let (binding, remaining, reset) = (usize::try_from(number(1)?).ok()?, number(4)?, number(7)?);
    let (stamp, wait) = if granted == 0 {
        (ChargeStamp::default(), number(7)?)
    } else {
        // Only a turn that was booked has a wait.
        (ChargeStamp { when: number(7)?, created_at: number(7)?, burst }, number(7).unwrap_or(0))
    };
    Some(Charged { granted, binding, remaining, wait, reset, stamp, label })
}

impl LimitStore for RedisStore {
    async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged> {
        let (request, more) = (ChargeArguments::charge(charge).0, ChargeArguments::more(charge));
        let both = [&*request, more.as_ref().map_or(&[], |more| &*more.0)];
        let arguments = if more.is_some() { &both[..] } else { &both[..1] };
        let replay = if charge.mode == ChargeMode::Peek { Replay::Safe } else { Replay::Never };
        match self.network.run_script(name, &script::CHARGE, &[name], arguments, replay).await? {
            Reply::Bulk(answer) => {
                charged(&answer, charge.burst()).ok_or_else(|| unexpected(&Reply::Bulk(answer)))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn charge_together(&self, charges: &[(&str, Charge<'_>)]) -> Result<Vec<Charged>> {
        let names: Vec<&str> = charges.iter().map(|(name, _)| *name).collect();
        let Some(first) = names.first() else { return Ok(Vec::new()) };
        let across = |name: &&str| slot(name) != slot(first);
        if matches!(self.network, Network::Cluster(_)) && names.iter().any(across) {
            return Err(Error::invalid(
                "the keys are in several slots of the cluster, and one decision needs them in one slot: \
                 put their limiters into one group by RateLimiter::in_group()",
            ));
        }
        let requests = ChargeArguments::together(charges);
        let arguments: Vec<&[u8]> = requests.iter().map(Vec::as_slice).collect();
        let script = &script::CHARGE_TOGETHER;
        match self.network.run_script(first, script, &names, &arguments, Replay::Never).await? {
            Reply::Array(answers) => {
                let read = |(answer, (_, charge)): (&Reply, &(&str, Charge<'_>))| match answer {
                    Reply::Bulk(answer) => charged(answer, charge.burst()),
                    _ => None,
                };
                let read: Option<Vec<Charged>> = answers.iter().zip(charges).map(read).collect();
                let whole = read.filter(|_| answers.len() == charges.len());
                whole.ok_or_else(|| unexpected(&Reply::Array(answers)))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn refund(&self, name: &str, permits: u64, stamp: ChargeStamp) -> Result<u64> {
        let request = ChargeArguments::refund(permits, stamp).0;
        number(&self.network.run_script(name, &script::REFUND, &[name], &[&request], Replay::Never).await?)
    }

    async fn set_override(&self, name: &str, specs: &Override) -> Result<()> {
        let request = ChargeArguments::override_of(specs).0;
        self.network.run_script(name, &script::OVERRIDE, &[name], &[&request], Replay::Safe).await.map(drop)
    }

    async fn override_of(&self, name: &str) -> Result<Option<(Vec<Label>, Duration)>> {
        let answer = self.network.run_script(name, &script::OVERRIDE, &[name], &[], Replay::Safe).await?;
        let (left, specs) = pair(answer)?;
        let Reply::Bulk(specs) = specs else { return Err(unexpected(&specs)) };
        let labels = specs.chunks(25).filter_map(|spec| Label::try_from(spec.get(10..)?).ok()).collect();
        let left = number(&left)?;
        Ok((left > 0).then(|| (labels, Duration::from_micros(left))))
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        flag(&self.network.run_script(name, &script::RESET, &[name], &[], Replay::Never).await?)
    }

    fn local_time(&self, name: &str, time: u64) -> Option<Tick> {
        self.network.local_time(name, time)
    }

    fn domain(&self, name: &str) -> usize {
        match &self.network {
            Network::Single(_) => 0,
            // A node serves neighbouring slots, so names with slots near each other fail together.
            Network::Cluster(_) => usize::from(slot(name) >> 10),
        }
    }
}

/// For the tests, which run the scripts at times that they choose.
#[cfg(test)]
pub(crate) mod raw {
    use super::*;

    /// The sources of charge.lua and refund.lua.
    pub(crate) fn scripts() -> (&'static str, &'static str) {
        (script::CHARGE.source(), script::REFUND.source())
    }

    pub(crate) fn over() -> &'static str {
        script::OVERRIDE.source()
    }

    pub(crate) fn reset() -> &'static str {
        script::RESET.source()
    }

    pub(crate) fn over_request(key: &Override) -> Vec<u8> {
        ChargeArguments::override_of(key).0
    }

    pub(crate) fn together() -> &'static str {
        script::CHARGE_TOGETHER.source()
    }

    pub(crate) fn charge_together(charges: &[(&str, Charge<'_>)]) -> Vec<Vec<u8>> {
        ChargeArguments::together(charges)
    }

    pub(crate) fn charge(charge: Charge<'_>) -> (Vec<u8>, Option<Vec<u8>>) {
        (ChargeArguments::charge(charge).0, ChargeArguments::more(charge).map(|more| more.0))
    }

    pub(crate) fn refund(permits: u64, stamp: ChargeStamp) -> Vec<u8> {
        ChargeArguments::refund(permits, stamp).0
    }

    pub(crate) fn answer(answer: &[u8], charge: Charge<'_>) -> Charged {
        charged(answer, charge.burst()).unwrap()
    }

    #[test]
    fn numbers_take_their_lowest_bytes_and_never_wrap() {
        let mut request = ChargeArguments(Vec::new());
        request.number(1, 7).number(4, 0x0102_0304).number(2, 70_000);
        assert_eq!(request.0, [7, 1, 2, 3, 4, 255, 255]);
    }
}
