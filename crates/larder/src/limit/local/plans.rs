//! The sets of quotas that handles use, so that handles with equal quotas share their local knowledge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::Plan;
use super::super::quota::Quotas;

/// The number of sets that are remembered. A set beyond them is checked and converted again for each decision; what is
/// known of its keys stays.
const PLANS: usize = 64;

/// The most recently used plan is last.
#[derive(Default)]
pub(in super::super) struct Plans(Mutex<Vec<Arc<Plan>>>);

impl Plans {
    /// Returns the plan that handles with these quotas share.
    pub(in super::super) fn share(&self, plan: Plan) -> Arc<Plan> {
        let mut plans = self.all();
        let same = match plans.iter().position(|known| known.quotas == plan.quotas) {
            Some(place) => plans.remove(place),
            None => Arc::new(plan),
        };
        if plans.len() >= PLANS {
            plans.remove(0);
        }
        plans.push(same.clone());
        same
    }

    /// Returns the plan of these quotas, if handles share one, and makes it the most recently used.
    pub(in super::super) fn known(&self, quotas: &Quotas) -> Option<Arc<Plan>> {
        let mut plans = self.all();
        let place = plans.iter().rposition(|known| known.quotas == quotas.0)?;
        let known = plans.remove(place);
        plans.push(known.clone());
        Some(known)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Plan>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Quota;

    #[test]
    fn handles_with_the_same_quotas_share_a_plan_whatever_others_use_between() {
        let plans = Plans::default();
        let plan = |limit| plans.share(Plan::new(Quota::per_hour(limit).into()).unwrap());
        let (free, paid) = (plan(5), plan(10));
        for _ in 0..3 {
            assert_eq!((plan(5).id, plan(10).id), (free.id, paid.id));
        }
        (100..1000).for_each(|limit| drop(plan(limit)));
        assert!(plans.all().len() <= PLANS);
        // What is known locally belongs to the quotas, also after more sets than are remembered.
        assert_eq!((plan(5).id, plan(10).id), (free.id, paid.id));
    }
}
