//! Rate limits: what a decision costs the server, compared with the least that any script costs and with other
//! algorithms; what it costs the client, with and without a round trip; and how much rivals admit.

mod local;
#[cfg(feature = "rivals")]
mod rivals;
mod script;
mod throughput;

use crate::figures::Findings;
use crate::lane::Outcome;

pub(crate) fn run(rounds: usize) -> Outcome<Findings> {
    let mut findings = script::run(rounds.min(20))?;
    findings.join(throughput::run(rounds)?);
    findings.join(local::run()?);
    #[cfg(feature = "rivals")]
    findings.join(rivals::run(rounds.min(20))?);
    Ok(findings)
}

/// larder's own script and its requests, in the format of docs/wire-format.md.
pub(crate) mod wire {
    pub(crate) const CHARGE: &str = concat!(
        include_str!("../../../larder/src/store/redis/lua/limit/charge.lua"),
        include_str!("../../../larder/src/store/redis/lua/limit/limit.lua"),
        include_str!("../../../larder/src/store/redis/lua/limit/charge_any.lua"),
    );

    /// The script for several keys, which includes [`CHARGE`].
    pub(crate) fn charge_together() -> String {
        include_str!("../../../larder/src/store/redis/lua/limit/together.lua")
            .replace("-- include limit/charge.lua: the whole operation\n", CHARGE)
    }

    /// One quota: its kind, its limit, and its width in microseconds.
    pub(crate) type QuotaSpec = (u64, u32, u64);

    fn unit(kind: u64, width: u64) -> impl Iterator<Item = u8> {
        (kind << 45 | width).to_be_bytes().into_iter().skip(2)
    }

    pub(crate) fn request(cost: u32, specs: &[QuotaSpec]) -> Vec<u8> {
        let mut request = cost.to_be_bytes().to_vec();
        request.push(u8::try_from(specs.len()).unwrap_or_default());
        let mut lives = 0;
        for (kind, limit, width) in specs {
            request.extend(unit(*kind, *width));
            request.extend(limit.to_be_bytes());
            lives = lives.max(if *kind < 4 { width * 71 } else { width + width.div_ceil(6) });
        }
        request.extend((lives.div_ceil(1000) + 1).to_string().into_bytes());
        request
    }

    /// The prefix of the record of a key whose limits are overridden by these quotas until a time, or that was blocked
    /// until a time.
    pub(crate) fn before(specs: &[QuotaSpec], overridden_until: u64, blocked_until: u64) -> Vec<u8> {
        let mut bytes = vec![255];
        let length = u16::try_from(30 + 25 * specs.len()).unwrap_or_default();
        bytes.extend(length.to_be_bytes());
        for number in [overridden_until, 86_400_000] {
            bytes.extend(number.to_be_bytes().into_iter().skip(1));
        }
        bytes.push(u8::try_from(specs.len()).unwrap_or_default());
        bytes.extend(blocked_until.to_be_bytes().into_iter().skip(1));
        // One block, so that another one within a day counts as the second.
        let (level, quiet): (u8, u32) = if blocked_until > 0 { (1, 86_400) } else { (0, 0) };
        bytes.push(level);
        bytes.extend(quiet.to_be_bytes());
        for (kind, limit, width) in specs {
            bytes.extend(unit(*kind, *width));
            bytes.extend(limit.to_be_bytes());
            bytes.extend([0; 15]);
        }
        bytes
    }

    /// A record of two-byte buckets that have one permit each, all 61 of every quota.
    pub(crate) fn full(specs: &[QuotaSpec], now: u64) -> Vec<u8> {
        let mut record = vec![u8::try_from(specs.len()).unwrap_or_default()];
        for _ in 0..2 {
            record.extend(now.to_be_bytes().into_iter().skip(1));
        }
        for (kind, _, width) in specs {
            record.extend(unit(*kind, *width));
            record.extend([0, 0, 0, 61, 0, 1, 0, 60]);
        }
        record.extend([0, 1].repeat(60 * specs.len()));
        record
    }
}
