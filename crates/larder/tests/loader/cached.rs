//! What `#[larder::cached]` adds to `get_or_load`: its options, its functions, and that a hit clones nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::{Cache, Expiry, Larder, LoadError, Near};

use super::HOUR;
use crate::support::{User, connect, each_store, user};

/// Something that counts how often it is cloned.
#[derive(Default)]
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn clones(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::SeqCst);
        Self(self.0.clone())
    }
}

#[derive(Debug, Clone, PartialEq)]
struct AppError(String);

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for AppError {}

impl From<LoadError<AppError>> for AppError {
    fn from(error: LoadError<AppError>) -> Self {
        error.loader().cloned().unwrap_or_else(|| Self(error.to_string()))
    }
}

#[derive(Clone)]
struct Site {
    users: Cache<User>,
    counted: Counted,
    loads: Arc<AtomicU64>,
}

impl Site {
    fn new(users: Cache<User>) -> Self {
        Self { users, counted: Counted::default(), loads: Arc::default() }
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.loads.fetch_add(1, Ordering::SeqCst);
    }

    /// All options at once.
    #[larder::cached(
        cache = self.users, key = (lang, path), ttl = Duration::from_secs(age.into()),
        tags = [format!("lang:{lang}")], tags_of = |user| [format!("name:{}", user.name)],
        store_if = |user| user.age == age && self.is_public(user), refresh_if = preview, error = AppError,
    )]
    async fn page(&self, lang: &str, path: &str, age: u32, preview: bool) -> Result<User, AppError> {
        self.count();
        if path.is_empty() {
            return Err(AppError(format!("no page in {lang}")));
        }
        Ok(User { name: path.to_owned(), age })
    }

    fn is_public(&self, user: &User) -> bool {
        user.name != "secret"
    }

    #[larder::cached(cache = self.users, key = name)]
    async fn by_name(&self, name: String, _counted: &Counted) -> Result<User, LoadError<AppError>> {
        self.count();
        Ok(user(&name))
    }

    #[larder::cached(cache = self.users, key = id, refresh_if = again)]
    async fn if_any(&self, id: u32, again: bool) -> Result<Option<User>, LoadError<AppError>> {
        self.count();
        Ok(id.is_multiple_of(2).then(|| user("even")))
    }

    #[larder::cached(cache = self.users, key = ("shared", &mut_id))]
    async fn shared(self: &Arc<Self>, mut mut_id: u32) -> Result<User, LoadError<AppError>> {
        mut_id += 1;
        Ok(user(&mut_id.to_string()))
    }

    #[larder::cached(cache = self.users, key = ("moved", parts.len()))]
    async fn moved(self, parts: &[&'static str]) -> Result<User, LoadError<AppError>> {
        Ok(user(&parts.concat()))
    }

    #[larder::cached(cache = Self::users(larder), key = path.to_string_lossy())]
    async fn of_file(larder: &Larder, path: &Path) -> Result<User, LoadError<AppError>> {
        Ok(user(&path.display().to_string()))
    }

    fn users(larder: &Larder) -> Cache<User> {
        super::users(larder)
    }
}

/// Names of arguments that are also names in the expansion.
#[larder::cached(cache = value, key = (this, cx), ttl = setup)]
async fn colliding(
    value: &Cache<User>,
    this: &str,
    cx: u32,
    setup: Duration,
) -> Result<User, LoadError<AppError>> {
    Ok(user(&format!("{this} {cx}")))
}

#[tokio::test]
async fn a_hit_clones_neither_self_nor_an_argument() {
    let larder = connect("memory:").await;
    let far = super::users(&larder);
    let near = larder.cache("near").ttl(HOUR).near(Near::bytes(1 << 20)).build().unwrap();
    for users in [far, near] {
        let (site, argument) = (Site::new(users), Counted::default());
        site.by_name("ann".into(), &argument).await.unwrap();
        assert_eq!((site.counted.clones(), argument.clones(), site.loads()), (1, 1, 1), "a miss");
        for _ in 0..3 {
            assert_eq!(site.by_name("ann".into(), &argument).await.unwrap(), user("ann"));
        }
        assert_eq!((site.counted.clones(), argument.clones(), site.loads()), (1, 1, 1), "a hit");
    }
}

#[tokio::test]
async fn options_choose_the_key_the_time_to_live_the_tags_and_what_is_stored() {
    for (store, larder) in each_store().await {
        let site = Site::new(super::users(&larder));
        let page = site.page("en", "a:b", 60, false).await.unwrap();
        let key = site.page_key("en", "a:b");
        assert_eq!((key.as_str(), key.to_string().as_str()), ("en:a%3Ab", "en:a%3Ab"), "{store}");
        assert_eq!(site.users.get(&key).await.unwrap(), Some(page.clone()), "{store}");
        assert_eq!(site.users.get(("en", "a:b")).await.unwrap(), Some(page), "{store}");
        let ttl = site.users.ttl(&key).await.unwrap();
        let minute = Duration::from_secs(60);
        assert!(
            matches!(ttl, Some(Expiry::After(left)) if left <= minute && left > minute / 2),
            "{store}: {ttl:?}"
        );

        site.page("en", "a:b", 60, false).await.unwrap();
        assert_eq!(site.loads(), 1, "{store}");
        site.page("en", "a:b", 60, true).await.unwrap();
        assert_eq!(site.loads(), 2, "{store}: refresh_if");
        for tag in ["lang:en", "name:a:b"] {
            larder.tag(tag).invalidate().await.unwrap();
            assert!(!site.users.exists(&key).await.unwrap(), "{store}: {tag}");
            site.page("en", "a:b", 60, false).await.unwrap();
        }
        site.users.delete(site.page_key("en", "a:b")).await.unwrap();
        assert!(!site.users.exists(&key).await.unwrap(), "{store}");

        assert_eq!(site.page("en", "secret", 60, false).await.unwrap().name, "secret");
        assert_eq!(site.users.get(site.page_key("en", "secret")).await.unwrap(), None, "{store}: store_if");
        let error = site.page("en", "", 60, false).await.unwrap_err();
        assert_eq!(error, AppError("no page in en".into()), "{store}");
        assert_eq!(
            site.page_uncached("de", "c", 7, false).await,
            Ok(User { name: "c".into(), age: 7 }),
            "{store}"
        );
        assert_eq!(site.users.get(site.page_key("de", "c")).await.unwrap(), None, "{store}");
    }
}

#[tokio::test]
async fn an_absence_is_remembered_and_refreshed() {
    for (store, larder) in each_store().await {
        let site = Site::new(super::remembering(&larder));
        for _ in 0..2 {
            assert_eq!(site.if_any(1, false).await.unwrap(), None, "{store}");
            assert_eq!(site.if_any(2, false).await.unwrap(), Some(user("even")), "{store}");
        }
        assert_eq!(site.loads(), 2, "{store}");
        assert_eq!(site.if_any(1, true).await.unwrap(), None, "{store}");
        assert_eq!(site.if_any(2, true).await.unwrap(), Some(user("even")), "{store}");
        assert_eq!(site.loads(), 4, "{store}");
        assert_eq!(site.if_any(1, false).await.unwrap(), None, "{store}");
        assert_eq!(site.loads(), 4, "{store}");
    }
}

#[tokio::test]
async fn each_kind_of_receiver_and_argument_can_be_cached() {
    let larder = connect("memory:").await;
    let site = Arc::new(Site::new(super::users(&larder)));
    for _ in 0..2 {
        assert_eq!(site.shared(7).await.unwrap(), user("8"));
        assert_eq!((*site).clone().moved(&["a", "b"]).await.unwrap(), user("ab"));
        assert_eq!(Site::of_file(&larder, Path::new("a/b")).await.unwrap(), user("a/b"));
        assert_eq!(colliding(&site.users, "a", 7, HOUR).await.unwrap(), user("a 7"));
    }
    let keys = [
        site.shared_key(7),
        site.moved_key(&["a", "b"]),
        Site::of_file_key(Path::new("a/b")),
        colliding_key("a", 7),
    ];
    assert!(keys.iter().map(|key| key.as_str()).eq(["shared:7", "moved:2", "a/b", "a:7"]), "{keys:?}");
    assert!(site.users.get_many(&keys).await.unwrap().iter().all(Option::is_some));
}
