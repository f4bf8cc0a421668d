//! Sends what is queued, and retries until everything is confirmed.
//!
//! Items are kept separately for each node that serves them. Each node has up to [`WINDOW`] requests under
//! way, so that a thousand items do not take a thousand round trips. When a request fails because its node is
//! unavailable, only that node pauses, longer each time, and is then tried with a single item. The node of an
//! item is looked up again each time the item is about to be sent, because a replica may have been promoted.
//!
//! An item that the server refuses for another reason (for example an ACL) stays queued and is retried every
//! few seconds.
//!
//! The sender keeps the `Larder` alive only while a request is under way. What is still queued when the last
//! handle is dropped is not sent.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::queue::{InvalidationQueue, Next, Work};
use super::table::Invalidation;
use super::throttle::Throttle;
use crate::backoff::Backoff;
use crate::error::{ErrorKind, Result};
use crate::telemetry::target;

/// How many requests are under way at one node.
const WINDOW: usize = 128;
/// How long a refused item waits before it is retried.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// What a sender needs from its `Larder`.
pub(crate) trait Delivery: Send + Sync + 'static {
    /// Returns a number for the node that serves a name now.
    fn node(&self, name: &str) -> usize;

    /// Carries out an item, within the time that any request may take.
    fn deliver(&self, name: &str, kind: &Invalidation) -> impl Future<Output = Result<()>> + Send;
}

/// The items of one node.
#[derive(Default)]
struct NodeQueue {
    names: VecDeque<Arc<str>>,
    in_flight: usize,
    backoff: Backoff,
    /// When the node is tried again; `None` while it answers.
    resume: Option<Instant>,
    /// How many items were sent since this queue was last empty.
    deleted: usize,
    replaced: usize,
}

impl NodeQueue {
    fn may_send(&self, now: Instant) -> bool {
        let window = if self.resume.is_none() { WINDOW } else { 1 };
        self.in_flight < window && self.resume.is_none_or(|resume| resume <= now)
    }

    fn answered(&mut self, kind: &Invalidation) {
        (self.backoff, self.resume) = (Backoff::default(), None);
        match kind {
            Invalidation::Delete(_) => self.deleted += 1,
            Invalidation::Clear | Invalidation::Epoch | Invalidation::Tag => self.replaced += 1,
        }
    }

    fn failed(&mut self, now: Instant) {
        // Requests that were under way together fail together, and count as one failure.
        if self.resume.is_none_or(|resume| resume <= now) {
            self.resume = Some(now + self.backoff.pause());
        }
    }

    fn report_if_empty(&mut self) {
        let sent = self.deleted + self.replaced;
        if sent > 0 && self.in_flight == 0 && self.names.is_empty() {
            tracing::info!(target: target::INVALIDATION, names = self.deleted, versions = self.replaced, "queued invalidations sent");
            (self.deleted, self.replaced) = (0, 0);
        }
    }
}

/// The end of one request: its node, its item and the result.
type Ended = (usize, Work, Result<()>);

struct QueueSender {
    queue: Arc<InvalidationQueue>,
    nodes: HashMap<usize, NodeQueue>,
    in_flight: FuturesUnordered<Pin<Box<dyn Future<Output = Ended> + Send>>>,
    /// Tags that wait for the epoch.
    after_epoch: Vec<Arc<str>>,
    /// Refused items, by the time at which they are retried.
    refused: VecDeque<(Instant, Arc<str>)>,
    refusals: Throttle,
}

/// Tells the queue if its sender is dropped before it has finished, together with the runtime on which it
/// ran.
struct RunningSender {
    queue: Arc<InvalidationQueue>,
    finished: bool,
}

impl Drop for RunningSender {
    fn drop(&mut self) {
        if !self.finished {
            self.queue.sender_ended();
        }
    }
}

/// Sends until the queue is empty, the `Larder` is closed, or its last handle is dropped. A queue has one
/// sender at a time.
pub(crate) async fn send<D: Delivery>(delivery: Weak<D>, queue: Arc<InvalidationQueue>) {
    let mut running = RunningSender { queue: queue.clone(), finished: false };
    let mut sender = QueueSender {
        queue: queue.clone(),
        nodes: HashMap::new(),
        in_flight: FuturesUnordered::new(),
        after_epoch: Vec::new(),
        refused: VecDeque::new(),
        refusals: Throttle::default(),
    };
    let mut ended = None;
    loop {
        {
            // Upgraded only here and in requests, never while the sender waits.
            let Some(delivery) = delivery.upgrade() else { return };
            if let Some(ended) = ended.take()
                && !sender.ended(&delivery, ended)
            {
                return;
            }
            sender.list(&*delivery, queue.take_fresh());
            sender.start(&delivery);
        }
        if sender.in_flight.is_empty() && queue.end_if_empty() {
            // `end_if_empty` has marked the queue as without a sender, so it may have another one by now.
            running.finished = true;
            return;
        }
        let next_turn = sender.next_turn();
        tokio::select! {
            Some(answered) = sender.in_flight.next(), if !sender.in_flight.is_empty() => {
                ended = Some(answered);
            }
            () = queue.changed() => {}
            () = wake_at(next_turn) => {}
        }
    }
}

async fn wake_at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl QueueSender {
    fn list(&mut self, delivery: &impl Delivery, names: Vec<Arc<str>>) {
        for name in names {
            self.nodes.entry(delivery.node(&name)).or_default().names.push_back(name);
        }
        // Names that were queued and removed in another way must not accumulate behind a node that is
        // unavailable.
        for waiting in self.nodes.values_mut() {
            self.queue.prune(&mut waiting.names);
        }
    }

    /// Sends what may be sent now.
    fn start<D: Delivery>(&mut self, delivery: &Arc<D>) {
        let now = Instant::now();
        while self.refused.front().is_some_and(|(due, _)| *due <= now) {
            let due = self.refused.pop_front();
            self.list(&**delivery, due.map(|(_, name)| name).into_iter().collect());
        }
        loop {
            let mut moved = Vec::new();
            for (node, waiting) in &mut self.nodes {
                while waiting.may_send(now)
                    && let Some(name) = waiting.names.pop_front()
                {
                    if delivery.node(&name) != *node {
                        moved.push(name);
                        continue;
                    }
                    match self.queue.take(&name) {
                        Next::Send(work) => {
                            waiting.in_flight += 1;
                            self.in_flight.push(Box::pin(request(delivery.clone(), *node, work)));
                        }
                        Next::AfterEpoch => self.after_epoch.push(name),
                        Next::Nothing => {}
                    }
                }
            }
            self.nodes.retain(|_, waiting| waiting.in_flight > 0 || !waiting.names.is_empty());
            if moved.is_empty() {
                return;
            }
            self.list(&**delivery, moved);
        }
    }

    /// Records the end of a request. Returns false if the sender must end.
    fn ended(&mut self, delivery: &Arc<impl Delivery>, (node, work, answer): Ended) -> bool {
        let queue = self.queue.clone();
        let waiting = self.nodes.entry(node).or_default();
        waiting.in_flight = waiting.in_flight.saturating_sub(1);
        match answer {
            Ok(()) => {
                waiting.answered(&work.kind);
                if queue.answered(&work) {
                    waiting.names.push_back(work.name);
                }
                waiting.report_if_empty();
                if work.kind == Invalidation::Epoch {
                    let tags = std::mem::take(&mut self.after_epoch);
                    self.list(&**delivery, tags);
                }
            }
            Err(error) if error.kind() == ErrorKind::Closed => {
                queue.failed(&work, false);
                return false;
            }
            Err(error) if error.is_outage() => {
                queue.failed(&work, false);
                waiting.failed(Instant::now());
                waiting.names.push_front(work.name);
            }
            Err(error) => {
                let now = Instant::now();
                if let Some(times) = self.refusals.note(now) {
                    let (kind, error) = (error.kind(), error.unnamed());
                    tracing::warn!(target: target::INVALIDATION, times, %kind, error, "the server refuses queued invalidations: retrying");
                }
                queue.failed(&work, true);
                if let Some(due) = now.checked_add(REFUSED_PAUSE) {
                    self.refused.push_back((due, work.name));
                }
            }
        }
        true
    }

    /// Returns the next time at which something can be sent without another event.
    fn next_turn(&self) -> Option<Instant> {
        let now = Instant::now();
        // A pause that is over has been used, or the node waits for a request that is under way.
        let paused = self.nodes.values().filter_map(|waiting| waiting.resume.filter(|resume| *resume > now));
        paused.chain(self.refused.front().map(|(due, _)| *due)).min()
    }
}

async fn request<D: Delivery>(delivery: Arc<D>, node: usize, work: Work) -> Ended {
    let answer = delivery.deliver(&work.name, &work.kind).await;
    (node, work, answer)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    /// A node for each first letter of a name; a round trip takes 5 ms.
    #[derive(Default)]
    struct Nodes {
        queue: Arc<InvalidationQueue>,
        away: Mutex<HashSet<char>>,
        refusing: Mutex<HashSet<String>>,
        /// How many requests there were for each name.
        asked: Mutex<HashMap<String, usize>>,
        order: Mutex<Vec<String>>,
    }

    impl Nodes {
        fn asked(&self, name: &str) -> usize {
            self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
        }

        fn order(&self) -> Vec<String> {
            self.order.lock().unwrap().clone()
        }
    }

    impl Delivery for Nodes {
        fn node(&self, name: &str) -> usize {
            name.chars().next().map_or(0, |first| first as usize)
        }

        async fn deliver(&self, name: &str, _: &Invalidation) -> Result<()> {
            *self.asked.lock().unwrap().entry(name.to_owned()).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            if self.away.lock().unwrap().contains(&name.chars().next().unwrap()) {
                return Err(Error::new(ErrorKind::Refused, "away"));
            }
            if self.refusing.lock().unwrap().contains(name) {
                return Err(Error::new(ErrorKind::Permission, "refused"));
            }
            self.order.lock().unwrap().push(name.to_owned());
            Ok(())
        }
    }

    async fn send(nodes: Arc<Nodes>) {
        super::send(Arc::downgrade(&nodes), nodes.queue.clone()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_sender_ends_with_the_last_handle_though_something_is_queued() {
        let nodes = Arc::new(Nodes::default());
        nodes.away.lock().unwrap().insert('d');
        nodes.refusing.lock().unwrap().insert("a1".into());
        delete(&nodes, &["d1", "a1"]);
        let sending = tokio::spawn(super::send(Arc::downgrade(&nodes), nodes.queue.clone()));
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(nodes.queue.is_pending() && !sending.is_finished());
        let gone = Arc::downgrade(&nodes);
        drop(nodes);
        tokio::time::timeout(Duration::from_secs(6), sending).await.expect("it goes on").unwrap();
        assert_eq!(gone.strong_count(), 0);
    }

    fn delete(nodes: &Nodes, names: &[&str]) {
        let _ = nodes.queue.delete(names.iter().copied(), Some("clear"), Vec::new);
    }

    #[tokio::test(start_paused = true)]
    async fn hundreds_of_tags_take_a_few_round_trips_and_follow_the_epoch() {
        let nodes = Arc::new(Nodes::default());
        for tag in 0..600 {
            let _ = nodes.queue.tag(&format!("tag {tag}"), "the epoch", Vec::new);
        }
        let begun = Instant::now();
        send(nodes.clone()).await;
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        let order = nodes.order();
        assert_eq!((order.len(), &*order[0]), (601, "the epoch"));
        assert!(!nodes.queue.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_away_holds_up_no_other_and_is_asked_ever_less() {
        let nodes = Arc::new(Nodes::default());
        nodes.away.lock().unwrap().insert('d');
        let dead: Vec<String> = (0..1000).map(|number| format!("d{number}")).collect();
        delete(&nodes, &dead.iter().map(String::as_str).collect::<Vec<_>>());
        delete(&nodes, &["a1", "a2"]);
        let sending = tokio::spawn(send(nodes.clone()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!nodes.queue.covers("a1", "") && !nodes.queue.covers("a2", ""));
        assert_eq!((nodes.asked("a1"), nodes.asked("a2")), (1, 1));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let asked: usize = nodes.asked.lock().unwrap().values().sum();
        assert!(asked < 2 + WINDOW + 80, "asked {asked} times in a minute");
        delete(&nodes, &["a1"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!nodes.queue.covers("a1", ""));

        nodes.away.lock().unwrap().clear();
        let back = Instant::now();
        sending.await.unwrap();
        assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
        assert!(!nodes.queue.is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_refuses_stays_and_holds_up_nothing() {
        let nodes = Arc::new(Nodes::default());
        nodes.refusing.lock().unwrap().insert("a1".into());
        delete(&nodes, &["a1", "a2"]);
        let sending = tokio::spawn(send(nodes.clone()));
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(nodes.queue.covers("a1", "") && !nodes.queue.covers("a2", ""));
        assert_eq!((nodes.asked("a1"), nodes.asked("a2")), (3, 1));
        assert_eq!(nodes.queue.counts().refused, 3);
        nodes.refusing.lock().unwrap().clear();
        sending.await.unwrap();
    }

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_names_that_the_server_refuses_are_a_line_of_the_log_in_ten_seconds() {
        let lines = Arc::<AtomicUsize>::default();
        let _logging = tracing::subscriber::set_default(Warnings(lines.clone()));
        let nodes = Arc::new(Nodes::default());
        let names: Vec<String> = (0..1000).map(|number| format!("a{number}")).collect();
        nodes.refusing.lock().unwrap().extend(names.iter().cloned());
        delete(&nodes, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let sending = tokio::spawn(send(nodes.clone()));
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(nodes.queue.counts().refused >= 5000, "{:?}", nodes.queue.counts());
        assert_eq!(lines.load(Ordering::Relaxed), 3);
        nodes.refusing.lock().unwrap().clear();
        sending.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_queued_again_while_it_is_on_its_way_is_sent_again() {
        let nodes = Arc::new(Nodes::default());
        delete(&nodes, &["a1"]);
        let sending = tokio::spawn(send(nodes.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        delete(&nodes, &["a1"]);
        sending.await.unwrap();
        assert_eq!(nodes.asked("a1"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_a_write_is_sent_when_the_write_has_failed() {
        let nodes = Arc::new(Nodes::default());
        delete(&nodes, &["a1"]);
        let began = nodes.queue.begin_write(&["a1"]).unwrap();
        let sending = tokio::spawn(send(nodes.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(nodes.asked("a1"), 0);
        nodes.queue.end_write("a1", began, false);
        sending.await.unwrap();
        assert_eq!(nodes.asked("a1"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_is_dropped_lets_the_next_send_everything() {
        let nodes = Arc::new(Nodes::default());
        delete(&nodes, &["a1", "a2"]);
        let sending = tokio::spawn(send(nodes.clone()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        sending.abort();
        assert!(sending.await.is_err());
        assert_eq!(nodes.queue.clear("a3"), super::super::Started::No);
        send(nodes.clone()).await;
        assert!(!nodes.queue.is_pending());
    }
}
