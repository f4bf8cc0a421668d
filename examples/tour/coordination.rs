//! What processes agree on: locks, work that runs once, elections, and rate limits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::limit::DecidedBy;
use larder::lock::{JobRun, Leader};
use larder::{Larder, Quota};

use crate::{Outcome, millis, result, step, yes_no};

/// A number that no other run has used, so that a second run on the same server starts from zero.
fn fresh() -> Result<u128, Box<dyn std::error::Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())
}

pub(crate) async fn handover(larder: &Larder) -> Outcome {
    step("Two workers want one lock. A holds it for 50 ms, and B waits.");
    let lock = larder.lock("nightly-report").ttl(Duration::from_secs(10));
    let a = lock.acquire().await?;
    if lock.try_acquire().await?.is_some() {
        return Err("two workers hold the lock".into());
    }
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move {
            let guard = lock.acquire().await?;
            Ok::<_, larder::Error>((guard.fence(), Instant::now(), guard.release().await?))
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let first = a.fence();
    let released = Instant::now();
    a.release().await?;
    let (second, granted, _) = waiter.await??;
    let after = millis(granted.saturating_duration_since(released));
    result(format!(
        "B has it {after:.2} ms after A's release. Its fence is higher: {}",
        yes_no(second > first)
    ));
    Ok(())
}

pub(crate) async fn once(larder: &Larder) -> Outcome {
    let run = fresh()?;
    step("One payment is sent twice.");
    let receipts = larder.cache::<u32>("receipt").ttl(Duration::from_secs(60)).build()?;
    let charges = Arc::new(AtomicU32::new(0));
    let pay = || {
        let charges = charges.clone();
        receipts.run_once(run, move || async move {
            Ok::<_, io::Error>(charges.fetch_add(1, Ordering::SeqCst) + 1)
        })
    };
    let (first, second) = (pay().await?, pay().await?);
    if first != second {
        return Err("the two callers got different receipts".into());
    }
    let charged = charges.load(Ordering::SeqCst);
    result(format!("It is charged {charged} time; both callers get receipt {first}."));

    step("Two clerks change the same version of a cart.");
    let carts = larder.cache::<u32>("cart").ttl(Duration::from_secs(60)).build()?;
    carts.set(run, &1).await?;
    let read = carts.get_entry(run).await?.and_then(|cart| cart.version()).ok_or("the cart is gone")?;
    let first = carts.set(run, &2).if_version(read).await?;
    let second = carts.set(run, &3).if_version(read).await?;
    result(format!("The first change is stored. The second is refused: {}", yes_no(first && !second)));

    step("Two processes start the nightly job.");
    let job = larder.job("tour").every(Duration::from_secs(3600));
    let mut runs = 0;
    for _ in ["A", "B"] {
        let run = job.run_slot(&format!("tour {run}"), |_| async { Ok::<_, io::Error>(()) }).await?;
        runs += u32::from(matches!(run, JobRun::Ran(Ok(()))));
    }
    result(format!("It runs {runs} time."));
    Ok(())
}

pub(crate) async fn who_may_work(larder: &Larder) -> Outcome {
    let run = format!("tour {}", fresh()?);
    step("A process stands for election; another watches.");
    let election = larder.election(&run).value("process A");
    let mut leaders = election.observe().await?;
    let before = leads(leaders.next().await.flatten());
    let leadership = election.campaign().await?;
    let after = leads(leaders.next().await.flatten());
    result(format!("The watcher saw {before}, and then: {after}"));
    leadership.resign().await?;

    step("Two readers hold a read-write lock, and a writer queues.");
    let catalogue = larder.rw_lock(&run);
    let (one, two) = (catalogue.read().await?, catalogue.read().await?);
    let kept_out = catalogue.try_write().await?.is_none();
    one.release().await?;
    two.release().await?;
    let writer = catalogue.try_write().await?;
    result(format!(
        "The writer may not enter: {}. When both have left it may: {}",
        yes_no(kept_out),
        yes_no(writer.is_some())
    ));
    if let Some(writer) = writer {
        writer.release().await?;
    }

    step("One caller holds the locks of an invoice and a parcel, another wants parcel and stock.");
    let order = larder.lock_group(&run);
    let both = order.locks(["invoice", "parcel"]).acquire().await?;
    let other = order.locks(["parcel", "stock"]).try_acquire().await?;
    result(format!("The other gets neither: {}", yes_no(other.is_none())));
    both.release().await?;
    Ok(())
}

pub(crate) async fn limits(larder: &Larder) -> Outcome {
    let visitor = fresh()?;
    step("Ten requests meet a limit of 5 in 10 seconds.");
    let limiter =
        larder.rate_limiter("tour", [Quota::new(5, Duration::from_secs(10)), Quota::per_hour(100)])?;
    let (mut passed, mut refused, mut known) = (0, 0, 0);
    for _ in 0..10 {
        let decision = limiter.check(visitor).await?;
        passed += u32::from(decision.is_allowed());
        refused += u32::from(!decision.is_allowed());
        known += u32::from(decision.decided_by() == DecidedBy::Refusal);
    }
    result(format!("{passed} pass and {refused} are refused, {known} of them without asking the store."));

    step("Twelve mails wait for their turn, 5 in 200 ms.");
    let mails = larder.rate_limiter("tour-mails", Quota::new(5, Duration::from_millis(200)))?;
    let since = Instant::now();
    for _ in 0..12 {
        if !mails.acquire(visitor, Duration::from_secs(10)).await?.is_allowed() {
            return Err("no turn within ten seconds".into());
        }
    }
    result(format!("The last is sent after {:.0} ms.", millis(since.elapsed())));
    Ok(())
}

fn leads(leader: Option<Leader>) -> String {
    leader.map_or_else(|| "no leader".to_owned(), |leader| format!("{} leads", leader.value))
}
