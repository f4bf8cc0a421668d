//! The first part of a round, in which only leaders fail: it measures how long other processes take to lead.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use larder_testkit::Direction;
use larder_testkit::history::now;

use crate::fleet::Fleet;
use crate::ground::Ground;

/// The delay of each message, so that round trips are longer than the delays of a busy machine.
const ONE_WAY: Duration = Duration::from_millis(5);
/// Time for resignations.
const CALM: Duration = Duration::from_secs(4);
const KILLS: u32 = 8;
/// The pause after a kill: longer than the bound, and longer than a new process takes until it campaigns.
const AFTER_KILL: Duration = Duration::from_millis(1800);

impl Fleet {
    /// Leaves the processes alone behind slow links, and then kills some, one after another.
    pub(crate) fn measure(&mut self, faults: &mut BTreeMap<&'static str, u64>) {
        if !matches!(self.ground, Ground::One(_)) {
            return;
        }
        for slot in 0..self.members.len() {
            self.proxy(slot).delay(Direction::Both, ONE_WAY);
        }
        sleep(CALM / 4);
        let from = now();
        sleep(CALM);
        for number in 0..KILLS {
            let slot = usize::try_from(number).unwrap() % self.members.len();
            *faults.entry(self.strike_with("worker killed", slot)).or_default() += 1;
            sleep(AFTER_KILL);
        }
        self.book.note("measured", &[from, now()]).unwrap();
        for slot in 0..self.members.len() {
            self.proxy(slot).restore();
        }
    }
}
