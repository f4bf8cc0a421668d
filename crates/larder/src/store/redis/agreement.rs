//! Makes all links of a node use the same server, and a master.
//!
//! A name or an address may start to lead to another server (a failover behind a virtual IP, a changed DNS record),
//! while the old server keeps running and keeps its connections. If each link redialled on its own, they would be
//! split: writes would go to the new master, while the tracking link reads and gets its invalidations from the old
//! one.
//!
//! So the links share a *generation*. A link that finds a wrong server (its role changed, it refused a request as a
//! replica does, or its run id differs from that of the other links) advances the generation. From that moment no
//! connection of an older generation is used, and each link dials again.
//!
//! A program may connect to a read replica on purpose, so the first server that is reached decides. If it is a
//! replica, replicas are accepted, nothing that was read is cached (a replica's delay has no bound), and the name is
//! looked up from time to time. If it is a master, or once the name has led to a master at another server, replicas
//! are refused, and the links keep dialling until they find a master.
//!
//! A move has to wait if the last one was a moment ago. Until then, a link that reached another master uses it, and
//! the links are *divided*: reads through any of them are invalid, and no request goes to the tracking link, which
//! may lead to the other master.
//!
//! Not guaranteed: the links do not notice a server that was replaced but keeps its connections and stays a master,
//! until one of them dials.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::identity::{Identity, Role};
use crate::error::{Error, ErrorKind};
use crate::store::session::{ReadStamp, Sessions};

/// The pauses between two moves because of run ids, or of a role that the server does not report. There may be
/// several masters behind one name, and then the links never agree.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(crate) struct Agreement {
    /// A copy of the value in `moved`, for comparisons without a lock.
    generation: AtomicU64,
    moved: watch::Sender<u64>,
    /// Whether `strays` is not zero, readable without the lock.
    divided: AtomicBool,
    /// Notified when an accepted replica refuses a request, so that the name is looked up.
    refused: Notify,
    state: Mutex<AgreementState>,
}

#[derive(Default)]
struct AgreementState {
    /// The run id of the master that the links use.
    master: Option<String>,
    /// How many links of this generation are connected to that master.
    links: usize,
    /// How many links of this generation are connected to another master.
    strays: usize,
    /// The generations of tracked connections whose reads are cached.
    kept: Vec<(Arc<Sessions>, ReadStamp)>,
    /// The replica that was reached first, while that is the reason to accept replicas.
    replica: Option<Accepted>,
    reached: bool,
    /// Whether the last server reached was a replica.
    on_replica: bool,
    next_move: Option<Instant>,
    pause: Duration,
}

#[derive(Debug)]
struct Accepted {
    run_id: Option<String>,
}

/// What happens to a connection that was dialled.
#[derive(Debug)]
pub(super) enum Admission {
    Used {
        generation: u64,
        by: ConnectionUse,
    },
    /// The links moved during the dial: dial again.
    Again,
    Refused(Error),
}

/// How a connection is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionUse {
    /// Reads through it may be cached.
    Trusted,
    /// It leads to an accepted replica.
    Replica,
    /// It leads to another master than the connections of the other links.
    Stray,
}

impl fmt::Debug for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agreement").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Agreement {
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Waits until an accepted replica refuses a request.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Decides about a connection whose dial began in generation `begun`.
    pub(super) fn admit(&self, identity: &Identity, begun: u64, server: &str) -> Admission {
        let mut state = self.state();
        let generation = self.generation();
        let known = identity.run_id.is_some() && identity.run_id == state.master;
        if begun != generation && !known {
            return Admission::Again;
        }
        if identity.is_replica() {
            if state.reached && state.replica.is_none() {
                return Admission::Refused(Error::new(
                    ErrorKind::ReadOnly,
                    format!("{server} is a read-only replica now, and no master is found in its place"),
                ));
            }
            state.reached = true;
            state.on_replica = true;
            state.replica = Some(Accepted { run_id: identity.run_id.clone() });
            return Admission::Used { generation, by: ConnectionUse::Replica };
        }
        state.reached = true;
        let promoted = std::mem::take(&mut state.on_replica);
        if state.replica.as_ref().is_some_and(|it| it.run_id.is_none() || it.run_id != identity.run_id) {
            // The name leads to another server now, a master: refuse replicas from now on.
            state.replica = None;
        }
        // If no link is connected to the other master any more, as after a restart, the links cannot disagree.
        let divided = state.is_other(identity) && state.links > 0;
        if divided && !state.may_move() {
            // Set `divided` and end the cached reads before this connection is used. A write through it goes to the
            // other master, and the tracking link would not report it.
            state.strays += 1;
            self.divided.store(true, Ordering::Release);
            state.kept.drain(..).for_each(|(sessions, stamp)| sessions.end(stamp));
            return Admission::Used { generation, by: ConnectionUse::Stray };
        }
        if identity.run_id.is_some() {
            state.master.clone_from(&identity.run_id);
        }
        let generation = if divided || promoted {
            // This connection is the newest, so its server is the one to which the name leads now.
            let why = if divided { "its name leads to another server now" } else { "there is a master now" };
            self.advance(&mut state, server, why)
        } else {
            generation
        };
        state.links += 1;
        Admission::Used { generation, by: ConnectionUse::Trusted }
    }

    /// Returns whether the links use different masters and have not moved yet.
    #[inline]
    pub(super) fn is_divided(&self) -> bool {
        self.divided.load(Ordering::Acquire)
    }

    /// Caches reads through a connection of this generation from now on. While the links are divided, or if they have
    /// moved, it ends the session's generation instead.
    pub(super) fn keep(&self, generation: u64, sessions: &Arc<Sessions>, stamp: ReadStamp) {
        let mut state = self.state();
        state.kept.retain(|(other, _)| !Arc::ptr_eq(other, sessions));
        if state.strays > 0 || self.generation() != generation {
            sessions.end(stamp);
        } else {
            state.kept.push((sessions.clone(), stamp));
        }
    }

    /// Removes a connection that was admitted in this generation and has ended.
    pub(super) fn leave(&self, generation: u64, by: ConnectionUse) {
        let mut state = self.state();
        if self.generation() == generation {
            match by {
                ConnectionUse::Trusted => state.links = state.links.saturating_sub(1),
                ConnectionUse::Stray => {
                    state.strays = state.strays.saturating_sub(1);
                    self.divided.store(state.strays > 0, Ordering::Release);
                }
                ConnectionUse::Replica => {}
            }
        }
    }

    /// Makes all links dial again, unless they have already left this generation.
    pub(super) fn move_from(&self, generation: u64, server: &str, why: &'static str) {
        let mut state = self.state();
        if self.generation() == generation {
            self.advance(&mut state, server, why);
        }
    }

    /// Handles a read-only answer on a connection of this generation to a server of this role.
    pub(super) fn refused_by(&self, role: Option<Role>, generation: u64, server: &str) {
        match role {
            Some(Role::Master) => self.move_from(generation, server, "it refuses requests as a replica does"),
            Some(Role::Replica) => self.refused.notify_one(),
            None => {
                let may_move = self.state().may_move();
                if may_move {
                    self.move_from(generation, server, "it refuses requests as a replica does");
                }
            }
        }
    }

    /// Returns whether a link should give up its connection to this server and dial again, because the other links
    /// use another master and a move is possible now.
    pub(super) fn is_stray(&self, identity: &Identity) -> bool {
        let state = self.state();
        let now = Instant::now();
        let may_move = state.links == 0 || state.next_move.is_none_or(|next| now >= next);
        state.is_other(identity) && !identity.is_replica() && may_move
    }

    fn advance(&self, state: &mut AgreementState, server: &str, why: &'static str) -> u64 {
        (state.links, state.strays) = (0, 0);
        state.kept.clear();
        let next = self.generation().wrapping_add(1);
        self.generation.store(next, Ordering::Release);
        // Clear `divided` after the generation has advanced. A concurrent `Node::tracked` that sees no division then
        // also sees the new generation, and so uses no connection of the old one.
        self.divided.store(false, Ordering::Release);
        self.moved.send_replace(next);
        tracing::warn!(target: crate::telemetry::target::CONNECTION, %server, why, "all connections to the server dial again");
        next
    }

    fn state(&self) -> MutexGuard<'_, AgreementState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AgreementState {
    /// Returns whether this is another server than the master of the links. Unknown run ids count as equal.
    fn is_other(&self, identity: &Identity) -> bool {
        matches!((&self.master, &identity.run_id), (Some(master), Some(this)) if master != this)
    }

    fn may_move(&mut self) -> bool {
        let now = Instant::now();
        if self.next_move.is_some_and(|next| now < next) {
            return false;
        }
        let calm = self.next_move.is_none_or(|next| now > next + LONGEST_PAUSE);
        self.pause = if calm { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.next_move = Some(now + self.pause);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::AskRole;
    use super::*;
    use crate::clock::Clock;
    use crate::store::Eviction;

    fn server(role: Role, run_id: &str) -> Identity {
        Identity {
            role: Some(role),
            ask_role: AskRole::Hello,
            run_id: Some(run_id.into()),
            major: Some(7),
            delete_if: None,
            eviction: Eviction::Never,
        }
    }

    fn used(agreement: &Agreement, identity: &Identity) -> (u64, bool) {
        match agreement.admit(identity, agreement.generation(), "s") {
            Admission::Used { generation, by } => (generation, by == ConnectionUse::Trusted),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_reaches_another_master_makes_all_links_dial_again() {
        let agreement = Agreement::default();
        let (old, new) = (server(Role::Master, "old"), server(Role::Master, "new"));
        assert_eq!(used(&agreement, &old), (0, true));
        assert_eq!(used(&agreement, &old), (0, true));
        assert_eq!(used(&agreement, &new), (1, true));
        assert_eq!(used(&agreement, &new), (1, true));
        assert!(matches!(agreement.admit(&old, 0, "s"), Admission::Again), "dialled before the move");
        assert_eq!(used(&agreement, &new), (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_restarts_again_and_again_is_no_reason_to_wait() {
        let agreement = Agreement::default();
        for restart in 0..100 {
            let server = server(Role::Master, &restart.to_string());
            assert_eq!((used(&agreement, &server), used(&agreement, &server)), ((0, true), (0, true)));
            agreement.leave(0, ConnectionUse::Trusted);
            agreement.leave(0, ConnectionUse::Trusted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn links_that_had_to_wait_with_their_move_follow_the_master_afterwards() {
        let agreement = Agreement::default();
        used(&agreement, &server(Role::Master, "a"));
        assert_eq!(used(&agreement, &server(Role::Master, "b")), (1, true));
        let third = server(Role::Master, "c");
        assert_eq!(used(&agreement, &third), (1, false), "too soon after the last move");
        assert!(!agreement.is_stray(&third));
        tokio::time::advance(FIRST_PAUSE).await;
        assert!(agreement.is_stray(&third), "it dials again");
        assert_eq!(used(&agreement, &third), (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_move_has_to_wait_nothing_that_was_read_through_any_link_is_valid() {
        let (agreement, sessions) = (Agreement::default(), Arc::new(Sessions::remote()));
        let (a, b, c) = (server(Role::Master, "a"), server(Role::Master, "b"), server(Role::Master, "c"));
        let (session, now) = (sessions.take().unwrap(), Clock::default().moment());
        let read = |generation| {
            let stamp = sessions.open(session);
            agreement.keep(generation, &sessions, stamp);
            sessions.renew(stamp, now);
            stamp
        };
        used(&agreement, &a);
        let (generation, _) = used(&agreement, &b);
        let before = read(generation);
        assert!(sessions.is_valid(before, now) && !agreement.is_divided());

        let Admission::Used { by, .. } = agreement.admit(&c, generation, "s") else { panic!("refused") };
        assert_eq!(by, ConnectionUse::Stray, "too soon after the last move");
        assert!(agreement.is_divided());
        assert!(!sessions.is_valid(before, now), "read from b, while writes go to c");
        assert!(!sessions.is_valid(read(generation), now), "as long as they are divided");

        // The link dials again, and reaches the server of the others.
        agreement.leave(generation, by);
        assert!(!agreement.is_divided());
        let after = read(generation);
        assert!(sessions.is_valid(after, now) && !sessions.is_valid(before, now));
        // A move ends the division, and a late `leave` of an older generation changes nothing.
        let Admission::Used { by, .. } = agreement.admit(&c, generation, "s") else { panic!("refused") };
        agreement.move_from(generation, "s", "a test");
        agreement.leave(generation, by);
        assert!(!agreement.is_divided());
    }

    #[tokio::test(start_paused = true)]
    async fn several_masters_behind_one_name_do_not_end_in_a_loop_of_dials() {
        let agreement = Agreement::default();
        let (one, other) = (server(Role::Master, "one"), server(Role::Master, "other"));
        for _ in 0..600 {
            used(&agreement, &one);
            used(&agreement, &other);
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!(agreement.generation() < 10, "{} moves within a minute", agreement.generation());
        // While the links do not agree, nothing is cached.
        let trusted = [used(&agreement, &one).1, used(&agreement, &other).1];
        assert!(trusted.contains(&false), "{trusted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_is_accepted_where_it_is_the_first_server_reached() {
        let agreement = Agreement::default();
        let replica = server(Role::Replica, "replica");
        assert_eq!(used(&agreement, &replica), (0, false));
        assert_eq!(
            used(&agreement, &server(Role::Replica, "another")),
            (0, false),
            "several behind one name"
        );
        agreement.refused_by(Some(Role::Replica), 0, "s");
        assert_eq!(agreement.generation(), 0, "no reason to dial again");

        // The replica is promoted, and demoted again: replicas are still accepted.
        let agreement = Agreement::default();
        used(&agreement, &replica);
        assert_eq!(used(&agreement, &server(Role::Master, "replica")), (1, true));
        assert_eq!(used(&agreement, &server(Role::Master, "replica")), (1, true), "it has moved already");
        assert!(!used(&agreement, &replica).1);
        // The name leads to a master at another server: replicas are refused from now on.
        assert!(used(&agreement, &server(Role::Master, "master")).1);
        assert!(matches!(agreement.admit(&replica, agreement.generation(), "s"), Admission::Refused(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_master_that_became_a_replica_is_refused() {
        let agreement = Agreement::default();
        assert_eq!(used(&agreement, &server(Role::Master, "a")), (0, true));
        agreement.refused_by(Some(Role::Master), 0, "s");
        agreement.refused_by(Some(Role::Master), 0, "s");
        assert_eq!(agreement.generation(), 1, "the second link's report is of the same move");
        let refused = agreement.admit(&server(Role::Replica, "a"), 1, "s");
        assert!(matches!(refused, Admission::Refused(error) if error.kind() == ErrorKind::ReadOnly));
        assert!(used(&agreement, &server(Role::Master, "b")).1);
    }
}
