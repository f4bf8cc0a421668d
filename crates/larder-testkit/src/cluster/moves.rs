//! Slots that change their master: handed over, moved key by key, taken over after a crash.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Cluster, LIMIT, is_master};
use crate::{Server, eventually};

/// How many keys of a slot move one after another with a pause in between; the others, of which there may be thousands,
/// move at once.
const SLOWLY: u32 = 16;
/// A failover that was asked for is given up by the replica after five seconds; then it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(7);

impl Cluster {
    /// Hands the slots of `masters()[i]` to its replica, as an operator would, and returns that new master once all
    /// nodes agree. Nothing that was acknowledged is lost.
    ///
    /// # Panics
    ///
    /// If there is no such master, it has no replica, or they do not agree within a minute.
    pub fn failover(&self, i: usize) -> &Server {
        let (_, replica) = self.pair(i);
        let mut asked = None::<Instant>;
        eventually("the replica becomes master", LIMIT, || {
            if asked.is_none_or(|at| at.elapsed() > ASK_AGAIN) {
                asked = Some(Instant::now());
                // Refused while one is under way.
                let _ = replica.try_query::<String>(&["CLUSTER", "FAILOVER"]);
            }
            is_master(replica).then_some(())
        });
        self.wait_until_ok();
        replica
    }

    /// Waits until the replica of `masters()[i]` has all that this master had acknowledged before the call. What it
    /// acknowledges after the call may be lost when it is killed.
    ///
    /// # Panics
    ///
    /// If that takes more than a minute.
    pub fn wait_until_in_step(&self, i: usize) {
        let (master, replica) = self.pair(i);
        let offset = |server: &Server, field: &str| {
            server.info("replication").get(field).and_then(|offset| offset.parse::<u64>().ok())
        };
        let wanted = offset(master, "master_repl_offset").expect("a master has an offset");
        eventually("the replica is in step", LIMIT, || {
            (offset(replica, "slave_repl_offset")? >= wanted).then_some(())
        });
    }

    /// SIGKILL for `masters()[i]`. Returns when its replica is the master of its slots, and calls `replaced` at that
    /// moment; then starts the killed node again, as the replica of the other, and waits until all is well.
    ///
    /// # Panics
    ///
    /// If there is no such master, it has no replica, or a step takes more than a minute.
    pub fn replace(&self, i: usize, replaced: impl FnOnce()) {
        let (master, replica) = self.pair(i);
        master.kill();
        eventually("the replica becomes master", LIMIT, || is_master(replica).then_some(()));
        self.wait_until_ok();
        replaced();
        master.restart();
        self.wait_until_ok();
    }

    /// Moves a slot, with all that is in it, to `masters()[to]`: one key after the other, as an operator would, with a
    /// pause after each of the first sixteen. Does nothing where that master has it.
    ///
    /// # Panics
    ///
    /// If a node refuses a step again and again, or they do not agree within a minute.
    pub fn move_slot(&self, slot: u16, to: usize, pause: Duration) {
        let masters = self.masters();
        let from = self.master_of_slot(slot);
        let to = *masters.get(to).expect("a master of that number");
        if from.port() == to.port() {
            return;
        }
        let slot = slot.to_string();
        let id = |node: &Server| node.query::<String>(&["CLUSTER", "MYID"]);
        let (from_id, to_id, port) = (id(from), id(to), to.port().to_string());
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        let deadline = Instant::now() + LIMIT;
        for moved in 0.. {
            let count = if moved < SLOWLY { "1" } else { "100" };
            let keys: Vec<String> = from.query(&["CLUSTER", "GETKEYSINSLOT", &slot, count]);
            if keys.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "the keys of slot {slot} do not move");
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000"];
            command.extend(self.password.iter().flat_map(|password| ["AUTH", password]));
            command.push("KEYS");
            command.extend(keys.iter().map(String::as_str));
            // Fails where the other node is busy for a moment; a key that has expired meanwhile is no error.
            let _ = from.try_query::<String>(&command);
            if moved < SLOWLY {
                sleep(pause);
            }
        }
        // The new owner first: every client would be refused a slot without an owner.
        for node in [to, from].into_iter().chain(masters.iter().copied()) {
            node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
        self.wait_until_ok();
    }

    /// `masters()[i]` and its replica.
    fn pair(&self, i: usize) -> (&Server, &Server) {
        let master = *self.masters().get(i).expect("a master of that number");
        (master, self.replica_of(master).expect("a replica of that master"))
    }
}
