//! The two ways to load: a method of the cache, and a function with `#[larder::cached]`.

use larder::{Cache, CacheKey, Larder, LoadError, LoaderError};

use super::held::Held;
use super::{User, each_store};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum By {
    Method,
    Attribute,
}

impl By {
    pub const BOTH: [Self; 2] = [Self::Method, Self::Attribute];

    /// Loads a value that must exist.
    pub async fn load<K, F, Fut, E, Sort>(
        self,
        users: &Cache<User>,
        key: K,
        loader: F,
    ) -> Result<User, LoadError<E>>
    where
        K: CacheKey + Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<User, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        match self {
            Self::Method => users.get_or_load(key, loader).await,
            Self::Attribute => user(users, key, loader).await,
        }
    }

    /// Loads a value that may not exist.
    pub async fn load_optional<K, F, Fut, E, Sort>(
        self,
        users: &Cache<User>,
        key: K,
        loader: F,
    ) -> Result<Option<User>, LoadError<E>>
    where
        K: CacheKey + Clone + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<User>, E>> + Send + 'static,
        E: LoaderError<Sort>,
    {
        match self {
            Self::Method => users.get_or_load_optional(key, |_| loader()).await,
            Self::Attribute => user_if_any(users, key, loader).await,
        }
    }

    /// Starts a load whose loader has read `row` when this returns.
    pub async fn hold(self, users: &Cache<User>, key: &str, row: User) -> Held {
        let (users, key) = (users.clone(), key.to_owned());
        Held::started(|gate| async move {
            self.load(&users, key, move || async move {
                gate.pass().await;
                Ok(row)
            })
            .await
        })
        .await
    }
}

#[larder::cached(cache = users, key = key)]
async fn user<K, F, Fut, E, Sort>(users: &Cache<User>, key: K, loader: F) -> Result<User, LoadError<E>>
where
    K: CacheKey + Clone + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<User, E>> + Send + 'static,
    E: LoaderError<Sort>,
{
    loader().await
}

#[larder::cached(cache = users, key = key)]
async fn user_if_any<K, F, Fut, E, Sort>(
    users: &Cache<User>,
    key: K,
    loader: F,
) -> Result<Option<User>, LoadError<E>>
where
    K: CacheKey + Clone + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Option<User>, E>> + Send + 'static,
    E: LoaderError<Sort>,
{
    loader().await
}

/// Each store, once for each way to load.
pub async fn each_way() -> Vec<(String, Larder, By)> {
    let mut all = Vec::new();
    for by in By::BOTH {
        all.extend(
            each_store().await.into_iter().map(|(store, larder)| (format!("{store}, {by:?}"), larder, by)),
        );
    }
    all
}
