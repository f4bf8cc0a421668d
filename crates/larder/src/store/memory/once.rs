//! Work that runs once, in the embedded store. The stripe of an entry's name also covers the mark and the
//! pulse of its run.

use bytes::Bytes;

use super::MemoryStore;
use super::entries::{Entries, write_version};
use crate::clock::Tick;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::store::once::{GIVEN_UP, OnceRun, OnceStart, OnceStore};
use crate::store::{Expiry, FillStart};

impl OnceStore for MemoryStore {
    async fn set_if_absent(
        &self,
        name: &str,
        value: Bytes,
        expiry: Expiry,
        in_place_of: Option<Bytes>,
    ) -> Result<FillStart> {
        self.entries.set_if_absent(name, value, expiry, in_place_of, self.clock.now())
    }

    async fn begin_once(&self, name: &str, run: OnceRun, in_place_of: Option<Bytes>) -> Result<OnceStart> {
        self.entries.begin_once(name, run, in_place_of, self.clock.now())
    }

    async fn renew_once(&self, name: &str, run: OnceRun) -> Result<bool> {
        self.entries.renew_once(name, run, self.clock.now())
    }

    async fn commit_once(&self, name: &str, token: u64, value: Bytes, expiry: Expiry) -> Result<bool> {
        self.entries.commit_once(name, token, value, expiry, self.clock.now())
    }

    async fn abandon_once(&self, name: &str, token: u64) -> Result<()> {
        self.entries.abandon_once(name, token, self.clock.now())
    }
}

impl Entries {
    fn begin_once(
        &self,
        name: &str,
        run: OnceRun,
        in_place_of: Option<Bytes>,
        now: Tick,
    ) -> Result<OnceStart> {
        let (mark, pulse) = (Keyspace::once(name), Keyspace::pulse(name));
        let _stripe = self.stripe(name);
        if self.get(&Keyspace::given_up(name, run.token), now).is_some() {
            return Ok(OnceStart::GivenUp);
        }
        if let Some(there) = self.get(name, now)
            && !there.is_empty()
            && Some(&there) != in_place_of.as_ref()
        {
            return Ok(OnceStart::Done(there));
        }
        if self.get(&mark, now).is_some() {
            if let Some((_, left)) = self.get_with_left(&pulse, now) {
                return Ok(OnceStart::Running(left.unwrap_or_default()));
            }
            if !run.takes_over {
                return Ok(OnceStart::Interrupted);
            }
        }
        let token = write_version(run.token);
        self.put(&mark, token.clone(), Expiry::After(run.kept), now)?;
        self.put(&pulse, token, Expiry::After(run.liveness), now)?;
        Ok(OnceStart::Begun)
    }

    fn renew_once(&self, name: &str, run: OnceRun, now: Tick) -> Result<bool> {
        let _stripe = self.stripe(name);
        let (mark, token) = (Keyspace::once(name), write_version(run.token));
        let Some((there, left)) = self.get_with_left(&mark, now) else { return Ok(false) };
        if there != token {
            return Ok(false);
        }
        self.put(&Keyspace::pulse(name), token.clone(), Expiry::After(run.liveness), now)?;
        if left.is_some_and(|left| left < run.kept / 2) {
            self.put(&mark, token, Expiry::After(run.kept), now)?;
        }
        Ok(true)
    }

    fn commit_once(&self, name: &str, token: u64, value: Bytes, expiry: Expiry, now: Tick) -> Result<bool> {
        let _stripe = self.stripe(name);
        let marked = self.holds(&Keyspace::once(name), &write_version(token), now);
        if marked {
            self.put(name, value, expiry, now)?;
            self.end_once(name, now);
        }
        Ok(marked)
    }

    fn abandon_once(&self, name: &str, token: u64, now: Tick) -> Result<()> {
        let _stripe = self.stripe(name);
        let given_up = Keyspace::given_up(name, token);
        let token = write_version(token);
        if self.holds(&Keyspace::once(name), &token, now) {
            self.end_once(name, now);
            return Ok(());
        }
        self.put(&given_up, token, Expiry::After(GIVEN_UP), now)
    }

    fn end_once(&self, name: &str, now: Tick) {
        self.take(&Keyspace::once(name), now);
        self.take(&Keyspace::pulse(name), now);
    }
}
