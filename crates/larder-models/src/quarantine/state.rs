//! The two servers and the callers.

use super::model::Action;
use super::{Failover, Mistake};

/// An attempt: its caller, and which of its attempts.
pub type Token = (usize, u8);

/// The marker beside the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Marker {
    /// The replication id under which the lock was last granted or refused.
    pub id: u8,
    /// The longest lease that was stated.
    pub longest: u8,
    /// Ticks until the end of the quarantine. Zero: it is over.
    pub left: u8,
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its replication id. A replica has that of its master.
    pub id: u8,
    /// Its id when it was last master.
    pub before: u8,
    /// The holder of the lock, and ticks until it is free.
    pub lock: Option<(Token, u8)>,
    /// The marker.
    pub marker: Option<Marker>,
}

/// A caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Which attempt is the next, or holds the lock.
    pub attempt: u8,
    /// Ticks for which its lease is still valid, and whether its clock has missed one of them.
    pub lease: Option<(u8, bool)>,
    /// Whether it was granted by a server that was promoted.
    pub after_failover: bool,
    /// Whether it was renewed by a server in quarantine.
    pub in_quarantine: bool,
}

impl Holder {
    /// Whether its lease is valid, as far as it knows.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.lease.is_some_and(|(ticks, _)| ticks > 0)
    }
}

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Both servers.
    pub servers: [Server; 2],
    /// Which is the master.
    pub master: usize,
    /// Ticks for which the other goes on as a master. `None`: it is a replica.
    pub goes_on: Option<u8>,
    /// The last id.
    pub ids: u8,
    /// The callers.
    pub holders: Vec<Holder>,
}

impl State {
    pub(super) fn new(model: &Failover) -> Self {
        // The lock was used before, and its quarantine is over. The replica has copied that, or nothing.
        let marker = Marker { id: 0, longest: *model.longest.first().unwrap_or(&0), left: 0 };
        let server = Server { id: 0, before: 0, lock: None, marker: Some(marker) };
        Self {
            servers: [server; 2],
            master: 0,
            goes_on: None,
            ids: 0,
            holders: vec![Holder::default(); model.longest.len()],
        }
    }

    /// The servers that answer callers.
    pub(super) fn serving(&self) -> impl Iterator<Item = usize> {
        let other = self.goes_on.map(|_| 1 - self.master);
        [self.master].into_iter().chain(other)
    }

    fn is_promoted(&self, s: usize) -> bool {
        s == self.master && self.ids > 0
    }

    /// `None` if the step is not possible.
    pub(super) fn apply(&mut self, model: &Failover, action: Action) -> Option<()> {
        let master = *self.servers.get(self.master)?;
        match action {
            Action::Tick(misses) => self.tick(misses)?,
            Action::Grant(c, s) => self.grant(model, c, s)?,
            Action::Renew(c, s) => self.renew(model, c, s)?,
            Action::Release(c, s) => {
                let token = (c, self.holders.get(c)?.attempt);
                let server = self.servers.get_mut(s)?;
                server.lock = server.lock.filter(|(held, _)| *held != token);
                self.leave(c)?;
            }
            Action::Die(c) => self.leave(c)?,
            Action::Replicate => {
                let replica = self.servers.get_mut(1 - self.master)?;
                *replica = Server { before: replica.before, ..master };
            }
            Action::Promote => {
                self.goes_on = Some(model.stops_within);
                self.master = 1 - self.master;
                self.renew_id(self.master)?;
                self.stop();
            }
            Action::Restart => {
                self.renew_id(self.master)?;
                let master = self.servers.get_mut(self.master)?;
                (master.lock, master.marker) = (None, None);
            }
            Action::Stop => {
                self.goes_on = Some(0);
                self.stop();
            }
        }
        Some(())
    }

    fn renew_id(&mut self, s: usize) -> Option<()> {
        self.ids += 1;
        self.servers.get_mut(s)?.id = self.ids;
        Some(())
    }

    /// An old master whose time has ended copies the new one.
    fn stop(&mut self) {
        let [first, second] = self.servers;
        let master = if self.master == 0 { first } else { second };
        if self.goes_on == Some(0) {
            self.goes_on = None;
            if let Some(old) = self.servers.get_mut(1 - self.master) {
                *old = Server { before: old.id, ..master };
            }
        }
    }

    fn leave(&mut self, c: usize) -> Option<()> {
        let holder = self.holders.get_mut(c)?;
        *holder = Holder { attempt: holder.attempt + 1, ..Holder::default() };
        Some(())
    }

    fn tick(&mut self, misses: Option<usize>) -> Option<()> {
        for (c, holder) in self.holders.iter_mut().enumerate() {
            if let Some((ticks, missed)) = &mut holder.lease {
                if misses == Some(c) {
                    if *missed || *ticks == 0 {
                        return None;
                    }
                    *missed = true;
                } else {
                    *ticks = ticks.saturating_sub(1);
                }
            }
        }
        for server in &mut self.servers {
            server.lock = server.lock.map(|(token, left)| (token, left - 1)).filter(|(_, left)| *left > 0);
            if let Some(marker) = &mut server.marker {
                marker.left = marker.left.saturating_sub(1);
            }
        }
        self.stop();
        self.goes_on = self.goes_on.map(|left| left.saturating_sub(1));
        Some(())
    }

    /// `quarantine.lua`: returns whether the script goes on and grants.
    fn may_grant(&mut self, model: &Failover, c: usize, s: usize, id: u8) -> Option<bool> {
        let asked = *model.longest.get(c)?;
        let server = self.servers.get_mut(s)?;
        let (known, before, left) = match server.marker {
            Some(marker) => (Some(marker.id), marker.longest, marker.left),
            None if model.mistake == Some(Mistake::NoMarkerIsFine) => (Some(id), 0, 0),
            None => (None, 0, 0),
        };
        let longest = asked.max(before);
        let left = if known != Some(id) {
            longest
        } else if left > 0 {
            left + longest - before
        } else {
            0
        };
        let kept = if model.mistake == Some(Mistake::EndNotKept) { 0 } else { left };
        server.marker = Some(Marker { id, longest, left: kept });
        Some(left == 0)
    }

    /// `acquire.lua` or `confirm.lua`, with quarantine.
    fn grant(&mut self, model: &Failover, c: usize, s: usize) -> Option<()> {
        let Server { id, before, .. } = *self.servers.get(s)?;
        let granted = match model.mistake {
            Some(Mistake::None) => true,
            Some(Mistake::RunId) => self.may_grant(model, c, s, u8::try_from(s).ok()?)?,
            Some(Mistake::IdReadBefore) => self.may_grant(model, c, s, before)?,
            _ => self.may_grant(model, c, s, id)?,
        };
        let after_failover = self.is_promoted(s);
        let holder = self.holders.get_mut(c)?;
        let server = self.servers.get_mut(s)?;
        if granted && server.lock.is_none() {
            server.lock = Some(((c, holder.attempt), model.lease));
            holder.lease = Some((model.lease - 1, false));
            holder.after_failover = after_failover;
        }
        Some(())
    }

    /// `extend.lua`, which has no quarantine.
    fn renew(&mut self, model: &Failover, c: usize, s: usize) -> Option<()> {
        let promoted = self.is_promoted(s);
        let holder = self.holders.get_mut(c)?;
        let server = self.servers.get_mut(s)?;
        match &mut server.lock {
            Some((token, left)) if *token == (c, holder.attempt) => {
                *left = model.lease;
                holder.lease = Some((model.lease - 1, false));
                let known = server.marker.is_some_and(|marker| marker.id == server.id && marker.left == 0);
                holder.in_quarantine |= promoted && !known;
            }
            _ => self.leave(c)?,
        }
        Some(())
    }
}
