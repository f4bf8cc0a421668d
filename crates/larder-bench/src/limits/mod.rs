//! Rate limits: what a decision costs the server, beside the least that any script costs and beside other rules; what it
//! costs the client, with and without a round trip; and what rivals admit.

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

/// larder's own script and its requests, as docs/wire-format.md has them.
pub(crate) mod wire {
    pub(crate) const CHARGE: &str = concat!(
        include_str!("../../../larder/src/store/redis/lua/charge.lua"),
        include_str!("../../../larder/src/store/redis/lua/limit.lua"),
        include_str!("../../../larder/src/store/redis/lua/charge_any.lua"),
    );

    /// Kind, limit and width in microseconds of each quota.
    pub(crate) fn request(cost: u32, terms: &[(u8, u32, u64)]) -> Vec<u8> {
        let mut request = cost.to_be_bytes().to_vec();
        request.push(u8::try_from(terms.len()).unwrap_or_default());
        for (kind, limit, width) in terms {
            request.push(*kind);
            request.extend(width.to_be_bytes().iter().skip(2));
            request.extend(limit.to_be_bytes());
        }
        request
    }
}
