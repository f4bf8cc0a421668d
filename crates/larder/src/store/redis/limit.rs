//! Limits on the server: each operation one script.

use std::time::Duration;

use redis::{Value, cmd};

use super::network::Network;
use super::node::Replay;
use super::slots::slot;
use super::{RedisStore, flag, millis, number, pair, script, unexpected, version_text};
use crate::error::Result;
use crate::store::limit::{Charge, Charged, Entered, LimitStore, Take, Term};

/// Numbers as text, each with a place of its own in one buffer.
#[derive(Default)]
struct Arguments {
    text: String,
    ends: Vec<usize>,
}

impl Arguments {
    fn word(&mut self, word: &str) -> &mut Self {
        self.text.push_str(word);
        self.ends.push(self.text.len());
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        // Most are short: digits from the back of a small buffer.
        let mut digits = [0u8; 20];
        let (mut rest, mut at) = (number, digits.len());
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            (rest, at) = (rest / 10, place);
            if rest == 0 {
                break;
            }
        }
        let word = digits.get(at..).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or("0");
        self.word(word)
    }

    fn terms(&mut self, terms: &[Term]) -> &mut Self {
        for term in terms {
            self.number(u64::from(term.kind())).number(term.limit).number(term.width);
        }
        self
    }

    fn list(&self) -> Vec<&[u8]> {
        let mut from = 0;
        let piece = |end: &usize| {
            let piece = self.text.as_bytes().get(from..*end).unwrap_or_default();
            from = *end;
            piece
        };
        self.ends.iter().map(piece).collect()
    }
}

impl LimitStore for RedisStore {
    async fn charge(&self, name: &str, charge: Charge<'_>) -> Result<Charged> {
        let Charge { terms, take, cost, ahead, patience } = charge;
        let mut arguments = Arguments::default();
        arguments.word(take.word()).number(cost).number(ahead).number(patience).terms(terms);
        let replay = if take == Take::Look { Replay::Safe } else { Replay::Never };
        let answer =
            self.network.run_script(name, &script::CHARGE, &[name], &arguments.list(), replay).await?;
        let Value::Array(parts) = &answer else { return Err(unexpected(&answer)) };
        let [granted, binding, remaining, wait, reset, stamp] = parts.as_slice() else {
            return Err(unexpected(&answer));
        };
        Ok(Charged {
            granted: number(granted)?,
            binding: usize::try_from(number(binding)?).unwrap_or_default(),
            remaining: number(remaining)?,
            wait: number(wait)?,
            reset: number(reset)?,
            stamp: number(stamp)?,
        })
    }

    async fn refund(&self, name: &str, terms: &[Term], permits: u64, stamp: u64) -> Result<u64> {
        let mut arguments = Arguments::default();
        arguments.number(permits).number(stamp).terms(terms);
        let (keys, list) = ([name], arguments.list());
        number(&self.network.run_script(name, &script::REFUND, &keys, &list, Replay::Never).await?)
    }

    async fn forget(&self, name: &str) -> Result<bool> {
        let mut command = cmd("UNLINK");
        command.arg(name);
        flag(&self.network.run(name, &command, Replay::Never).await?)
    }

    async fn enter(&self, name: &str, permits: u64, token: u64, ttl: Duration) -> Result<Entered> {
        let (permits, token, ttl) = (permits.to_string(), version_text(token), millis(ttl));
        let arguments = [permits.as_bytes(), token.as_bytes(), ttl.as_bytes()];
        match pair(self.network.run_script(name, &script::ENTER, &[name], &arguments, Replay::Never).await?)? {
            (Value::Int(1), left) => Ok(Entered::Granted { left: number(&left)? }),
            (Value::Int(0), first) => {
                Ok(Entered::Full { first_ends: Duration::from_micros(number(&first)?) })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn renew(&self, name: &str, token: u64, ttl: Duration) -> Result<bool> {
        let (token, ttl) = (version_text(token), millis(ttl));
        let arguments = [token.as_bytes(), ttl.as_bytes()];
        flag(&self.network.run_script(name, &script::RENEW, &[name], &arguments, Replay::Never).await?)
    }

    async fn leave(&self, name: &str, token: u64) -> Result<bool> {
        let mut command = cmd("ZREM");
        command.arg(name).arg(version_text(token));
        flag(&self.network.run(name, &command, Replay::Never).await?)
    }

    async fn inside(&self, name: &str) -> Result<u64> {
        number(&self.network.run_script(name, &script::INSIDE, &[name], &[], Replay::Safe).await?)
    }

    fn domain(&self, name: &str) -> usize {
        match &self.network {
            Network::Single(_) => 0,
            // A node serves neighbouring slots, so names whose slots are near share its fate.
            Network::Cluster(_) => usize::from(slot(name) >> 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        let mut arguments = Arguments::default();
        arguments.word("all").number(0).number(7).number(1234567890).number(u64::MAX);
        let list: Vec<&str> =
            arguments.list().into_iter().map(|word| str::from_utf8(word).unwrap()).collect();
        assert_eq!(list, ["all", "0", "7", "1234567890", "18446744073709551615"]);
    }
}
