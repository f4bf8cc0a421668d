//! Work that must not happen twice: idempotency keys, writes that expect a version, and jobs. And locks that decide who
//! may work: elections, read-write locks and lock groups.

use std::io;
use std::time::Duration;

use larder::Larder;
use larder::lock::{JobRun, Leader};

use crate::{Outcome, heading, yes_no};

pub(crate) async fn once(larder: &Larder) -> Outcome {
    heading("Work that runs once");
    // Each run of the tour uses new keys, so that a second run on the same server starts from zero.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let receipts = larder.cache::<u128>("receipt").ttl(Duration::from_secs(60)).build()?;
    let pay = |receipt| {
        let receipts = receipts.clone();
        async move { receipts.run_once(now, move || async move { Ok::<_, io::Error>(receipt) }).await }
    };
    let (first, second) = (pay(1).await?, pay(2).await?);
    println!("one payment, sent twice   → receipts {first} and {second}");

    let carts = larder.cache::<u32>("cart").ttl(Duration::from_secs(60)).build()?;
    carts.set(now, &1).await?;
    let entry = carts.get_entry(now).await?.ok_or("the cart is gone")?;
    let read = entry.version().ok_or("a value of the server has a version")?;
    let mine = carts.set(now, &2).if_version(read).await?;
    let late = carts.set(now, &3).if_version(read).await?;
    println!("two edits of one version  → stored: {}, {}", yes_no(mine), yes_no(late));

    let job = larder.job("tour").every(Duration::from_secs(3600));
    let slot = format!("tour {now}");
    for process in ["A", "B"] {
        let run = job.run_slot(&slot, |_| async { Ok::<_, io::Error>(()) }).await?;
        let ran = matches!(run, JobRun::Ran(Ok(())));
        println!(
            "process {process} runs the job    → {}",
            if ran { "it runs" } else { "it was done already" }
        );
    }

    heading("Who may work");
    let election = larder.election(&format!("tour {now}")).value("process A");
    let mut leaders = election.observe().await?;
    println!("before the campaign       → {}", leads(leaders.next().await.flatten()));
    let leadership = election.campaign().await?;
    println!("after it, pushed          → {}", leads(leaders.next().await.flatten()));
    leadership.resign().await?;

    let catalogue = larder.rw_lock(&format!("tour {now}"));
    let (one, two) = (catalogue.read().await?, catalogue.read().await?);
    let writer = catalogue.try_write().await?;
    println!("two readers, one writer   → the writer enters: {}", yes_no(writer.is_some()));
    one.release().await?;
    two.release().await?;
    let write = catalogue.write().await?;
    println!("the readers have left     → the writer enters with fence {}", write.fence());
    write.release().await?;

    let order = larder.lock_group(&format!("tour {now}"));
    let both = order.locks(["invoice", "parcel"]).acquire().await?;
    let other = order.locks(["parcel", "stock"]).try_acquire().await?;
    println!("two locks in one command  → another set with one of them: {}", yes_no(other.is_some()));
    both.release().await?;
    Ok(())
}

fn leads(leader: Option<Leader>) -> String {
    leader.map_or_else(|| "no leader".to_owned(), |leader| format!("{} leads", leader.value))
}
