//! What one key was charged, as a plain list, and the rules that hold for it.

use crate::store::limit::{Charge, ChargeMode, ChargeStamp, Charged, Penalty, QuotaSpec, Rule};

/// Something that was charged, and when each part of it was used.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) charged: ChargeStamp,
    pub(super) granted: u64,
    pub(super) used: Vec<u64>,
}

/// When the last block ends, how many there were, and how long after it the next counts as a further one.
#[derive(Debug, Default)]
struct Blocked {
    until: u64,
    times: i32,
    quiet: u64,
}

#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) uses: Vec<Use>,
    /// Other limits, and when they end.
    pub(super) over: Option<(Vec<QuotaSpec>, u64)>,
    blocked: Blocked,
    /// Something was charged beyond the limit.
    pub(super) in_debt: bool,
}

impl List {
    /// The specs that hold for a request with these specs.
    pub(super) fn specs<'a>(&'a self, asked: &'a [QuotaSpec], now: u64) -> &'a [QuotaSpec] {
        self.over.as_ref().filter(|(_, end)| now < *end).map_or(asked, |(specs, _)| specs)
    }

    /// What was charged after a time.
    fn after(&self, time: u64) -> u64 {
        self.uses.iter().filter(|one| one.charged.when > time).map(|one| one.granted).sum()
    }

    /// Checks an answer to a request at `now` against the list. Begins the block that a refusal leads to.
    pub(super) fn check(
        &mut self,
        asked: Charge<'_>,
        windows: &[u64],
        found: Charged,
        now: u64,
    ) -> Result<(), String> {
        let specs = self.specs(asked.specs, now).to_vec();
        let blocked = now < self.blocked.until && asked.mode != ChargeMode::Debt;
        let each = || specs.iter().zip(windows);
        // A grant must fit into each window that ends when the grant counts.
        if found.granted > 0 {
            let at = now + found.wait;
            // A turn is booked for a time after the block.
            if blocked && at < self.blocked.until {
                return Err(format!("granted during a block until {}", self.blocked.until));
            }
            for (spec, window) in each() {
                // A debt is charged up to twice the limit.
                let most = if asked.mode == ChargeMode::Debt { 2 * spec.limit } else { spec.limit };
                let counted = self.after(at - window);
                if counted + found.granted > most {
                    return Err(format!("{counted} and {} of {most} in {window}", found.granted));
                }
            }
            return Ok(());
        }
        // A refusal needs a reason: a block, or a limit that the cost would exceed, also with one more
        // bucket.
        let wanted = match asked.mode {
            ChargeMode::All => asked.cost,
            ChargeMode::Turns { least } | ChargeMode::Half { least } => least,
            _ => 1,
        };
        let reasonable = each().any(|(spec, window)| {
            let late = if spec.rule == Rule::Log { 0 } else { spec.width };
            let counted = self.after(now.saturating_sub(window.max(&spec.window()) + late));
            let most = if asked.mode == ChargeMode::Debt { 2 * spec.limit } else { spec.limit };
            counted + wanted > most
        });
        if blocked {
            if found.wait < self.blocked.until - now || found.remaining > 0 {
                return Err(format!("blocked until {}", self.blocked.until));
            }
        } else if !reasonable {
            return Err("refused without reason".into());
        }
        // A refusal that begins a block must say so.
        let payable = specs.iter().all(|spec| wanted <= spec.limit);
        if let Some(penalty) = asked.penalty
            && matches!(asked.mode, ChargeMode::All | ChargeMode::Half { .. })
            && payable
            && !blocked
        {
            let span = self.block(penalty, now);
            if found.wait < span {
                return Err(format!("blocked for {span}"));
            }
        }
        Ok(())
    }

    /// How long the block is that begins.
    fn block(&mut self, penalty: Penalty, now: u64) -> u64 {
        let Penalty { first, factor, most } = penalty;
        if now >= self.blocked.until + self.blocked.quiet {
            self.blocked.times = 0;
        }
        let longer = (factor as f64).powi(self.blocked.times) * first as f64;
        let span = if longer > most as f64 { most } else { longer as u64 };
        let quiet = most.div_ceil(1_000_000) * 1_000_000;
        self.blocked = Blocked { until: now + span, times: self.blocked.times + 1, quiet };
        span
    }
}
