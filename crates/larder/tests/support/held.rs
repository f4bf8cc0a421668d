//! Loads that pause between what they read and what they store, the one moment that matters.

use std::convert::Infallible;
use std::time::Duration;

use larder::{Cache, LoadContext, LoadError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::User;

/// Longer than any wait here takes, unless it would never end.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Awaits `work`, and panics if it takes longer than `limit`.
pub async fn within<T>(what: &str, limit: Duration, work: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(limit, work.into_future()).await {
        Ok(done) => done,
        Err(_) => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// The gate that a loader passes: it reports that it is there, and waits until it may continue.
pub struct Gate {
    reached: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

/// The other side of a [`Gate`]. Dropping it lets the loader continue, too.
pub struct Keeper {
    reached: oneshot::Receiver<()>,
    go: oneshot::Sender<()>,
}

pub fn gate() -> (Gate, Keeper) {
    let ((tell, reached), (go, wait)) = (oneshot::channel(), oneshot::channel());
    (Gate { reached: tell, go: wait }, Keeper { reached, go })
}

impl Gate {
    pub async fn pass(self) {
        let _ = self.reached.send(());
        let _ = self.go.await;
    }
}

impl Keeper {
    /// Waits until the loader is at the gate.
    pub async fn reached(&mut self) {
        within("a loader starts", LIMIT, &mut self.reached).await.expect("a loader that starts");
    }

    /// Whether the loader has reached the gate by now.
    pub fn is_reached(&mut self) -> bool {
        self.reached.try_recv().is_ok()
    }

    /// Whether the loader was dropped before its end, or has ended.
    pub fn is_gone(&self) -> bool {
        self.go.is_closed()
    }

    pub fn open(self) {
        let _ = self.go.send(());
    }
}

/// A load that has read its row, and waits before it returns it.
pub struct Held {
    pub keeper: Keeper,
    pub load: JoinHandle<Result<User, LoadError<Infallible>>>,
}

impl Held {
    /// Starts a `get_or_load` whose loader has read `row` when this returns.
    pub async fn load(users: &Cache<User>, key: &str, row: User) -> Self {
        Self::tagged(users, key, row, &[]).await
    }

    /// The same, with tags on the call.
    pub async fn tagged(users: &Cache<User>, key: &str, row: User, tags: &[&str]) -> Self {
        let (users, key) = (users.clone(), key.to_owned());
        let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
        Self::started(|gate| async move {
            let load = users.get_or_load(&key, move || async move {
                gate.pass().await;
                Ok(row)
            });
            tags.into_iter().fold(load, |load, tag| load.tag(tag)).await
        })
        .await
    }

    /// Starts a `get_or_load_with` whose loader calls `say` with its context when it continues.
    pub async fn with(
        users: &Cache<User>,
        key: &str,
        row: User,
        say: impl FnOnce(&LoadContext<User>) + Send + 'static,
    ) -> Self {
        let (users, key) = (users.clone(), key.to_owned());
        Self::started(|gate| async move {
            users
                .get_or_load_with(&key, move |cx| async move {
                    gate.pass().await;
                    say(&cx);
                    Ok(row)
                })
                .await
        })
        .await
    }

    /// Starts a `refresh` in the same way.
    pub async fn refresh(
        users: &Cache<User>,
        key: &str,
        row: User,
        say: impl FnOnce(&LoadContext<User>) + Send + 'static,
    ) -> Self {
        let (users, key) = (users.clone(), key.to_owned());
        Self::started(|gate| async move {
            users
                .refresh(&key, move |cx| async move {
                    gate.pass().await;
                    say(&cx);
                    Ok(row)
                })
                .await
        })
        .await
    }

    /// Starts any load whose loader passes the gate.
    pub async fn started<F>(load: impl FnOnce(Gate) -> F) -> Self
    where
        F: Future<Output = Result<User, LoadError<Infallible>>> + Send + 'static,
    {
        let (gate, mut keeper) = gate();
        let load = tokio::spawn(load(gate));
        keeper.reached().await;
        Self { keeper, load }
    }

    /// Lets the loader continue, and returns what its caller got.
    pub async fn finish(self) -> User {
        self.keeper.open();
        within("a load that may go on ends", LIMIT, self.load).await.unwrap().unwrap()
    }
}

/// Loads with a loader that has nothing to wait for.
pub async fn load(users: &Cache<User>, key: &str, row: User) -> User {
    let load = users.get_or_load(key, move || async move { Ok::<_, Infallible>(row) });
    within("a load ends", LIMIT, load).await.unwrap()
}
