//! Tokens of attempts at locks and permits, and of loads: numbers that no other attempt or load has, and that name
//! their process.
//!
//! A token is a random id of this `Larder` (32 bits) and a counter (32 bits) that begins at a random number. The token
//! of a permit ends in its weight (16 bits), so its counter has 16 bits. A counter that is used up begins again under a
//! new id. The ids in use are in the record of a process that announces itself ([`presence`](crate::presence)), so the
//! holder of a lock can be named. Making a token takes no request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::random::Random;
use crate::store::permit::token_of;

/// How many ids of each kind are remembered: those whose tokens may still hold something.
const MOST_IDS: usize = 8;
const COUNTER_BITS: u32 = 32;
const PERMIT_COUNTER_BITS: u32 = 16;

pub(crate) struct Tokens {
    random: Random,
    plain: TokenCounter,
    permits: TokenCounter,
}

/// An id and a counter, in one number. 0 before the first use.
struct TokenCounter {
    bits: u32,
    last: AtomicU64,
    /// Newest first.
    ids: Mutex<VecDeque<u32>>,
}

/// Returns the id in a token.
pub(crate) fn id_of(token: u64) -> u32 {
    u32::try_from(token >> 32).unwrap_or_default()
}

impl Tokens {
    pub(crate) fn new(random: Random) -> Self {
        let counter = |bits| TokenCounter { bits, last: AtomicU64::new(0), ids: Mutex::default() };
        Self { random, plain: counter(COUNTER_BITS), permits: counter(PERMIT_COUNTER_BITS) }
    }

    /// Makes a token. Never 0.
    pub(crate) fn next(&self) -> u64 {
        self.plain.next(&self.random)
    }

    /// Makes the token of an attempt at permits of this weight.
    pub(crate) fn of_weight(&self, weight: u64) -> u64 {
        token_of(self.permits.next(&self.random) << PERMIT_COUNTER_BITS, weight)
    }

    /// Returns the ids of tokens that this `Larder` made and of those that it makes next, newest first. Those of
    /// permits are last.
    pub(crate) fn ids(&self) -> Vec<u32> {
        for counter in [&self.plain, &self.permits] {
            // A record that is written before the first token names it all the same.
            counter.begin(&self.random, 0);
        }
        self.plain.ids().iter().chain(self.permits.ids().iter()).copied().collect()
    }
}

impl TokenCounter {
    fn next(&self, random: &Random) -> u64 {
        let full = (1 << self.bits) - 1;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            if last == 0 || last & full == full {
                last = self.begin(random, last);
                continue;
            }
            match self.last.compare_exchange_weak(last, last + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return last + 1,
                Err(current) => last = current,
            }
        }
    }

    /// Draws an id, and a number from the lower half of the counter to begin with, if the last token is still `seen`.
    /// The id is remembered before any token has it. Other threads wait here meanwhile, so each id that is drawn is
    /// used: no thread changes a last token that is 0 or the last of its id.
    fn begin(&self, random: &Random, seen: u64) -> u64 {
        let mut ids = self.ids();
        let current = self.last.load(Ordering::Relaxed);
        if current != seen {
            return current;
        }
        let id = loop {
            match id_of(random.nonce()) {
                0 => {}
                id => break id,
            }
        };
        ids.push_front(id);
        ids.truncate(MOST_IDS);
        let count = random.nonce() & ((1 << (self.bits - 1)) - 1);
        let first = u64::from(id) << self.bits | count;
        self.last.store(first, Ordering::Relaxed);
        first
    }

    fn ids(&self) -> MutexGuard<'_, VecDeque<u32>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::store::permit::weight;

    #[test]
    fn tokens_differ_and_name_their_larder() {
        let tokens = Tokens::new(Random::default());
        let made: HashSet<u64> = (0..1000).map(|_| tokens.next()).collect();
        assert_eq!(made.len(), 1000);
        let ids: HashSet<u32> = made.iter().map(|token| id_of(*token)).collect();
        assert_eq!(ids, HashSet::from([tokens.ids()[0]]));
        let permits = tokens.ids()[1];
        assert_eq!(id_of(tokens.of_weight(1)), permits, "it was there before the first token");
        assert!(!ids.contains(&0));
    }

    #[test]
    fn a_permits_token_has_its_weight_and_a_new_id_when_its_counter_is_used_up() {
        let tokens = Tokens::new(Random::default());
        let made: HashSet<u64> = (0..100_000).map(|_| tokens.of_weight(7)).collect();
        assert_eq!(made.len(), 100_000);
        assert!(made.iter().all(|token| weight(*token) == 7));
        let ids: HashSet<u32> = made.iter().map(|token| id_of(*token)).collect();
        assert!((2..=4).contains(&ids.len()), "{ids:?}");
        assert_eq!(ids, tokens.permits.ids().iter().copied().collect(), "all of them are still remembered");
    }

    #[test]
    fn a_counter_that_is_used_up_begins_again_under_a_new_id() {
        let tokens = Tokens::new(Random::default());
        let first = id_of(tokens.next());
        tokens.plain.last.store(u64::from(first) << 32 | u64::from(u32::MAX), Ordering::Relaxed);
        let next = tokens.next();
        assert_eq!(*tokens.plain.ids(), [id_of(next), first]);
        assert_ne!(id_of(next), first);
    }
}
