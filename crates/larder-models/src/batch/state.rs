//! The server's record, the processes, and what is under way between them. Times are ticks from now.

use super::{Action, BATCH, Mistake, SPAN, WINDOW};

/// Ticks in which a batch may still be spent, including this one, and whether the clock has missed one of
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Left {
    /// Zero: over.
    pub ticks: usize,
    /// It misses at most one.
    pub missed: bool,
}

/// A bucket of the record, by its distance from the last one that can be charged. Past the window it no
/// longer counts.
type Bucket = usize;

/// The current bucket, and the one in which a batch that is taken now ends.
const NOW: Bucket = SPAN;
const BATCH_END: Bucket = 0;
/// How many buckets there are: the oldest is partly in the window.
const BUCKETS: usize = SPAN + WINDOW + 1;

/// Permits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Held {
    /// How many are not used.
    pub left: u8,
    /// For how long they may be used.
    pub time: Left,
    /// Where they were charged.
    pub charged: Bucket,
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    /// It waits for an answer; the ticks would be left after the answer.
    pub asking: Option<Left>,
    /// What it may spend.
    pub held: Option<Held>,
}

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    /// A batch for this process, unless that has given up.
    Batch(Option<usize>),
    /// Gives these permits back to this bucket.
    Refund(u8, Bucket),
}

/// A batch on its way, perhaps empty: for which process, how many, and where they were charged.
pub type Reply = (usize, u8, Bucket);

/// The state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What was charged to each bucket.
    pub charged: [u8; BUCKETS],
    /// What was used, by how many ticks ago.
    pub uses: [u8; WINDOW + 1],
    /// The processes.
    pub processes: Vec<Process>,
    /// Under way to the server, in no order.
    pub requests: Vec<Request>,
    /// Under way from it, in no order.
    pub replies: Vec<Reply>,
}

impl State {
    pub(super) fn new(processes: usize) -> Self {
        Self {
            charged: [0; BUCKETS],
            uses: [0; WINDOW + 1],
            processes: vec![Process::default(); processes],
            requests: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// What was used in a window of ticks plus one.
    #[must_use]
    pub fn used(&self) -> u8 {
        self.uses.iter().sum()
    }

    /// Whether everything that was charged lies ahead, at the ends of batches.
    #[must_use]
    pub fn all_ahead(&self) -> bool {
        self.charged.iter().skip(NOW).all(|charged| *charged == 0)
    }

    pub(super) fn normalise(&mut self) {
        for process in &mut self.processes {
            process.held = process.held.filter(|held| held.left > 0);
        }
        // A refund that arrives too late changes nothing, and is not answered.
        self.requests.retain(|request| !matches!(request, Request::Refund(_, bucket) if *bucket >= BUCKETS));
        self.sort();
        // Processes are alike: it does not matter which of two does something.
        if let [first, second] = self.processes.as_slice()
            && (first, self.way_of(0)) > (second, self.way_of(1))
        {
            let other = |p: &mut usize| *p = 1 - *p;
            self.processes.swap(0, 1);
            self.requests.iter_mut().for_each(|request| {
                if let Request::Batch(Some(p)) = request {
                    other(p);
                }
            });
            self.replies.iter_mut().for_each(|(p, ..)| other(p));
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.requests.sort_unstable();
        self.replies.sort_unstable();
    }

    /// What a process has under way: its request, or the answer to it.
    fn way_of(&self, p: usize) -> (bool, Option<(u8, Bucket)>) {
        let reply = self.replies.iter().find(|(whose, ..)| *whose == p);
        (
            self.requests.contains(&Request::Batch(Some(p))),
            reply.map(|(_, granted, bucket)| (*granted, *bucket)),
        )
    }

    pub(super) fn apply(&mut self, limit: u8, mistake: Option<Mistake>, action: Action) -> Option<()> {
        let margin = usize::from(mistake != Some(Mistake::NoMargin));
        let full = Left { ticks: SPAN + 1 - margin, missed: false };
        match action {
            Action::Tick(misses) => self.tick(misses)?,
            Action::Check => {
                if self.room(limit, mistake) == 0 {
                    return None;
                }
                *self.charged.get_mut(NOW)? += 1;
                *self.uses.first_mut()? += 1;
            }
            Action::Ask(p) => {
                self.processes.get_mut(p)?.asking = Some(full);
                self.requests.push(Request::Batch(Some(p)));
            }
            Action::GiveUp(p) => {
                let time = self.stop_asking(p)?;
                if mistake == Some(Mistake::LostReplySpent) {
                    let held = Held { left: BATCH, time, charged: BATCH_END };
                    self.processes.get_mut(p)?.held = Some(held);
                }
            }
            Action::Spend(p) => {
                let held = self.processes.get_mut(p)?.held.as_mut()?;
                if held.time.ticks == 0 && mistake != Some(Mistake::SpentAfterEnd) {
                    return None;
                }
                held.left -= 1;
                *self.uses.first_mut()? += 1;
            }
            Action::GiveBack(p) => self.give_back(mistake, p)?,
            Action::Die(p) => {
                self.stop_asking(p);
                *self.processes.get_mut(p)? = Process::default();
            }
            Action::Serve(i) => {
                let request = self.requests.remove(i);
                self.serve(limit, mistake, request)?;
            }
            Action::Lose(i) => drop(self.requests.remove(i)),
            Action::Deliver(i) => {
                let (p, left, charged) = self.replies.remove(i);
                let asked = self.processes.get_mut(p)?.asking.take()?;
                let time = if mistake == Some(Mistake::DeadlineFromAnswer) { full } else { asked };
                if left > 0 {
                    // What is left of the batch before is no longer spent.
                    self.give_back(mistake, p);
                    self.processes.get_mut(p)?.held = Some(Held { left, time, charged });
                }
            }
        }
        Some(())
    }

    /// What the process had asked may still be carried out, but the answer is not received.
    fn stop_asking(&mut self, p: usize) -> Option<Left> {
        for request in &mut self.requests {
            if *request == Request::Batch(Some(p)) {
                *request = Request::Batch(None);
            }
        }
        self.replies.retain(|(whose, ..)| *whose != p);
        self.processes.get_mut(p)?.asking.take()
    }

    fn give_back(&mut self, mistake: Option<Mistake>, p: usize) -> Option<()> {
        let held = self.processes.get(p)?.held?;
        let times = if mistake == Some(Mistake::GivenBackTwice) { 2 } else { 1 };
        for _ in 0..times {
            self.requests.push(Request::Refund(held.left, held.charged));
        }
        if mistake != Some(Mistake::SpentAndGivenBack) {
            self.processes.get_mut(p)?.held = None;
        }
        Some(())
    }

    fn room(&self, limit: u8, mistake: Option<Mistake>) -> u8 {
        let from = if mistake == Some(Mistake::AheadLeftOut) { NOW } else { BATCH_END };
        let oldest = usize::from(mistake == Some(Mistake::OldestLeftOut));
        let counted: u8 = self.charged.iter().take(BUCKETS - oldest).skip(from).sum();
        limit.saturating_sub(counted)
    }

    fn serve(&mut self, limit: u8, mistake: Option<Mistake>, request: Request) -> Option<()> {
        match request {
            Request::Batch(whose) => {
                let granted = self.room(limit, mistake).div_ceil(2).min(BATCH);
                let bucket = if mistake == Some(Mistake::ChargedWhenTaken) { NOW } else { BATCH_END };
                *self.charged.get_mut(bucket)? += granted;
                self.replies.extend(whose.map(|p| (p, granted, bucket)));
            }
            Request::Refund(permits, bucket) => {
                let charged = self.charged.get_mut(bucket)?;
                *charged = charged.saturating_sub(permits);
            }
        }
        Some(())
    }

    fn tick(&mut self, misses: Option<usize>) -> Option<()> {
        for (p, process) in self.processes.iter_mut().enumerate() {
            let times = [process.asking.as_mut(), process.held.as_mut().map(|held| &mut held.time)];
            for time in times.into_iter().flatten() {
                if misses == Some(p) {
                    // One clock measures both, so neither may have missed a tick.
                    if time.missed {
                        return None;
                    }
                    time.missed = true;
                } else {
                    time.ticks = time.ticks.saturating_sub(1);
                }
            }
            if let Some(held) = process.held.as_mut() {
                held.charged = (held.charged + 1).min(BUCKETS);
            }
        }
        for request in &mut self.requests {
            if let Request::Refund(_, bucket) = request {
                *bucket += 1;
            }
        }
        for (_, _, bucket) in &mut self.replies {
            *bucket = (*bucket + 1).min(BUCKETS);
        }
        self.charged.rotate_right(1);
        *self.charged.first_mut()? = 0;
        self.uses.rotate_right(1);
        *self.uses.first_mut()? = 0;
        Some(())
    }
}
