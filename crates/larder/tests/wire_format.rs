//! docs/wire-format.md is true: its tables and its example are read from the page, and a second implementation made from
//! the page alone reads what larder writes and writes what larder reads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use larder::{Cache, CacheKey, Expiry, Format, KeyText, Larder, Quota};
use larder_testkit::Server;
use support::{User, until, user};

const PAGE: &str = include_str!("../../../docs/wire-format.md");
const HOUR: Duration = Duration::from_secs(3600);

async fn connect(server: &Server, namespace: &str) -> Larder {
    let builder = Larder::builder().url(server.url()).response_timeout(Duration::from_secs(5));
    let builder = if namespace.is_empty() { builder } else { builder.namespace(namespace) };
    builder.connect().await.unwrap()
}

fn users(larder: &Larder) -> Cache<User> {
    larder.cache("user").ttl(HOUR).build().unwrap()
}

/// A connection that can send any bytes, as larder's own cannot be trusted here.
fn raw(server: &Server) -> redis::Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn put(connection: &mut redis::Connection, name: &str, bytes: &[u8]) {
    redis::cmd("SET").arg(name).arg(bytes).arg("PX").arg(3_600_000).exec(connection).unwrap();
}

fn stored(connection: &mut redis::Connection, name: &str) -> Vec<u8> {
    redis::cmd("GET").arg(name).query::<Option<Vec<u8>>>(connection).unwrap().unwrap()
}

fn names(server: &Server) -> Vec<String> {
    let mut names: Vec<String> = server.query(&["KEYS", "*"]);
    names.sort();
    names
}

// ---- what the page says ----

/// The cells of the table whose header begins with these words; code marks are taken off.
fn table(header: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(header).expect("the table is on the page");
    let rows: Vec<Vec<String>> = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.strip_prefix('|').unwrap().strip_suffix('|').unwrap().split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect();
    assert!(rows.len() > 5, "{header}: {rows:?}");
    rows
}

/// The bytes of the worked example.
fn example() -> Vec<u8> {
    let (_, rest) = PAGE.split_once("```hex\n").unwrap();
    let (block, _) = rest.split_once("```").unwrap();
    let digits: String =
        block.lines().map(|line| line.split("   ").next().unwrap().replace(' ', "")).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A key as the page's table has it: JSON, with arrays for tuples.
struct Key(serde_json::Value);

impl CacheKey for Key {
    fn write(&self, text: &mut KeyText<'_>) {
        use serde_json::Value;
        let part = |value: &Value| Self(value.clone());
        match &self.0 {
            Value::Bool(flag) => flag.write(text),
            Value::Number(number) => number.as_i64().unwrap().write(text),
            Value::String(string) => string.write(text),
            Value::Array(parts) => match parts.as_slice() {
                [a] => (part(a),).write(text),
                [a, b] => (part(a), part(b)).write(text),
                [a, b, c] => (part(a), part(b), part(c)).write(text),
                [a, b, c, d] => (part(a), part(b), part(c), part(d)).write(text),
                other => panic!("{other:?}"),
            },
            other => panic!("{other}"),
        }
    }
}

// ---- a second implementation, made from the page ----

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    kind: u8,
    compression: u8,
    codec: u8,
    nonce: u64,
    written_at: u64,
    fresh_until: u64,
    load_micros: u32,
    clear: u64,
    tags: Vec<(u64, String)>,
    payload: Vec<u8>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Entry {
    fn value(payload: &[u8]) -> Self {
        Self {
            kind: 0,
            compression: 0,
            codec: 0,
            nonce: 1,
            written_at: 1,
            fresh_until: 0,
            load_micros: 0,
            clear: 0,
            tags: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    fn read(bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 40);
        assert_eq!(bytes[..2], [0x9A, 1]);
        assert_eq!(number(&bytes[36..40]), u64::from(Self::crc(bytes)));
        let mut tags = Vec::new();
        let mut at = 40;
        for _ in 0..bytes[3] {
            let length = usize::from(bytes[at + 8]);
            let text = String::from_utf8(bytes[at + 9..at + 9 + length].to_vec()).unwrap();
            tags.push((number(&bytes[at..at + 8]), text));
            at += 9 + length;
        }
        Self {
            kind: bytes[2] >> 6,
            compression: bytes[2] >> 3 & 7,
            codec: bytes[2] & 7,
            nonce: number(&bytes[4..12]),
            written_at: number(&bytes[12..18]),
            fresh_until: number(&bytes[18..24]),
            load_micros: u32::try_from(number(&bytes[24..28])).unwrap(),
            clear: number(&bytes[28..36]),
            tags,
            payload: bytes[at..].to_vec(),
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = vec![0x9A, 1, self.kind << 6 | self.compression << 3 | self.codec];
        bytes.push(u8::try_from(self.tags.len()).unwrap());
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(&self.written_at.to_be_bytes()[2..]);
        bytes.extend(&self.fresh_until.to_be_bytes()[2..]);
        bytes.extend(self.load_micros.to_be_bytes());
        bytes.extend(self.clear.to_be_bytes());
        bytes.extend([0; 4]);
        for (version, tag) in &self.tags {
            bytes.extend(version.to_be_bytes());
            bytes.push(u8::try_from(tag.len()).unwrap());
            bytes.extend(tag.as_bytes());
        }
        bytes.extend(&self.payload);
        let crc = Self::crc(&bytes).to_be_bytes();
        bytes[36..40].copy_from_slice(&crc);
        bytes
    }

    fn crc(bytes: &[u8]) -> u32 {
        crc32fast::hash(&[&bytes[..36], &bytes[40..]].concat())
    }

    fn plain(&self) -> Vec<u8> {
        if self.compression == 0 {
            return self.payload.clone();
        }
        let length = usize::try_from(number(&self.payload[..4])).unwrap();
        let plain = lz4_flex::block::decompress(&self.payload[4..], length).unwrap();
        assert_eq!(plain.len(), length);
        plain
    }
}

// ---- the tests ----

#[tokio::test]
async fn the_pages_example_is_read_as_the_page_says_and_is_what_the_page_takes_apart() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let bytes = example();
    let mut connection = raw(&server);
    put(&mut connection, "shop/user:123", &bytes);
    assert_eq!(users(&larder).get("123").await.unwrap(), None, "the tag has no version");
    assert_eq!(larder.stats().caches["user"].unreadable, 0, "void is not unreadable");
    put(&mut connection, "~tag.1:{shop/team:7}", b"1122334455667788");
    assert_eq!(users(&larder).get("123").await.unwrap(), Some(user("Ann")));
    assert!(users(&larder).exists("123").await.unwrap());
    put(&mut connection, "~tag.1:{shop/team:7}", b"1122334455667789");
    assert_eq!(users(&larder).get("123").await.unwrap(), None);

    let entry = Entry {
        nonce: 0x0123_4567_89ab_cdef,
        written_at: 1_767_225_600_000,
        load_micros: 1500,
        tags: vec![(0x1122_3344_5566_7788, "team:7".to_owned())],
        ..Entry::value(br#"{"name":"Ann","age":30}"#)
    };
    assert_eq!(Entry::read(&bytes), entry);
    assert_eq!(entry.write(), bytes);
}

#[tokio::test]
async fn what_larder_writes_reads_as_the_page_says() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let before = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let mut nonces = Vec::new();
    let people: Vec<User> = vec![user("Ann"), user(&"Ann ".repeat(500))];
    for (format, codec) in [(Format::Json, 0), (Format::MessagePack, 1)] {
        for (threshold, person) in [(None, &people[0]), (Some(100), &people[1]), (Some(100), &people[0])] {
            let builder = larder.cache::<User>("user").ttl(HOUR).format(format);
            let users = match threshold {
                None => builder,
                Some(bytes) => builder.compress_above(bytes),
            };
            let users = users.build().unwrap();
            users.set("a", person).tag("team:7").tag("a{b}%").tag("team:7").await.unwrap();
            let entry = Entry::read(&stored(&mut connection, "shop/user:a"));
            let large = person.name.len() > 100;
            assert_eq!((entry.kind, entry.compression, entry.codec), (0, u8::from(large), codec));
            let back: User = match codec {
                0 => serde_json::from_slice(&entry.plain()).unwrap(),
                _ => rmp_serde::from_slice(&entry.plain()).unwrap(),
            };
            assert_eq!(&back, person);
            let tags: Vec<&str> = entry.tags.iter().map(|(_, tag)| tag.as_str()).collect();
            assert_eq!(tags, ["a{b}%", "team:7"]);
            for (version, name) in
                entry.tags.iter().map(|(version, _)| version).zip(["a%7Bb%7D%25", "team:7"])
            {
                let text = stored(&mut connection, &format!("~tag.1:{{shop/{name}}}"));
                assert_eq!(text, format!("{version:016x}").as_bytes());
            }
            // The server runs on this machine, so that its clock is ours.
            assert!(entry.written_at + 1000 > before && entry.written_at < before + 60_000);
            assert_eq!((entry.fresh_until, entry.load_micros, entry.clear), (0, 0, 0));
            nonces.push(entry.nonce);
        }
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert!(nonces.len() == 6 && !nonces.contains(&0), "{nonces:?}");

    // Field names, not positions: that is what lets a field be added.
    let packed = larder.cache::<User>("packed").ttl(HOUR).format(Format::MessagePack).build().unwrap();
    packed.set("a", &people[0]).await.unwrap();
    let payload = Entry::read(&stored(&mut connection, "shop/packed:a")).payload;
    assert_eq!(payload, b"\x82\xa4name\xa3Ann\xa3age\x1e");

    let plain = larder.cache::<User>("plain").ttl(HOUR).format(Format::Plain).build().unwrap();
    plain.set("a", &people[0]).await.unwrap();
    assert_eq!(stored(&mut connection, "shop/plain:a"), br#"{"name":"Ann","age":30}"#);
}

#[tokio::test]
async fn what_the_page_teaches_to_write_larder_reads() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    put(&mut connection, "~tag.1:{shop/t}", b"00000000000000ff");
    let json = br#"{"name":"Ann","age":30}"#;
    let packed = rmp_serde::to_vec_named(&user("Ann")).unwrap();
    let mut lz4 = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
    lz4.extend(lz4_flex::block::compress(json));
    let tags = vec![(255, "t".to_owned())];
    let readable = [
        Entry::value(json),
        Entry { codec: 1, ..Entry::value(&packed) },
        Entry { compression: 1, ..Entry::value(&lz4) },
        Entry { tags: tags.clone(), ..Entry::value(json) },
        // What this larder ignores, and the largest of everything.
        Entry { fresh_until: 1, clear: 9, nonce: u64::MAX, written_at: (1 << 48) - 1, ..Entry::value(json) },
    ];
    for entry in &readable {
        put(&mut connection, "shop/user:a", &entry.write());
        assert_eq!(users(&larder).get("a").await.unwrap(), Some(user("Ann")), "{entry:?}");
    }
    for bare in [&b" {\"age\":30, \"name\":\"Ann\", \"more\":[]}\n"[..], json] {
        put(&mut connection, "shop/user:a", bare);
        assert_eq!(users(&larder).get("a").await.unwrap(), Some(user("Ann")));
    }
    assert_eq!(larder.stats().caches["user"].unreadable, 0);

    let nothing = [
        Entry { kind: 1, ..Entry::value(b"") },
        Entry { kind: 2, ..Entry::value(b"") },
        Entry { tags: vec![(254, "t".to_owned())], ..Entry::value(json) },
        Entry { tags: vec![(255, "other".to_owned())], ..Entry::value(json) },
    ];
    for entry in &nothing {
        put(&mut connection, "shop/user:a", &entry.write());
        assert_eq!(users(&larder).get("a").await.unwrap(), None, "{entry:?}");
        assert!(!users(&larder).exists("a").await.unwrap(), "{entry:?}");
        assert_eq!(users(&larder).get_many(["a"]).await.unwrap(), [None]);
    }
    assert_eq!(larder.stats().caches["user"].unreadable, 0);
}

#[tokio::test]
async fn an_unknown_layout_is_a_miss_that_is_counted_and_loaded_over() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    let json = br#"{"name":"Ann","age":30}"#;
    let mut newer = Entry::value(json).write();
    newer[1] = 2;
    let crc = Entry::crc(&newer).to_be_bytes();
    newer[36..40].copy_from_slice(&crc);
    let mut huge = Entry { compression: 1, ..Entry::value(b"") };
    huge.payload = u32::MAX.to_be_bytes().to_vec();
    let overlong = Entry { tags: vec![(1, "t".to_owned())], ..Entry::value(b"") }.write();
    let mut running_past = overlong.clone();
    running_past[48] = 200;
    let crc = Entry::crc(&running_past).to_be_bytes();
    running_past[36..40].copy_from_slice(&crc);
    let strange = [
        newer,
        Entry { kind: 3, ..Entry::value(json) }.write(),
        Entry { codec: 7, ..Entry::value(json) }.write(),
        Entry { compression: 2, ..Entry::value(json) }.write(),
        huge.write(),
        running_past,
        Entry::value(br#"{"name":"Ann"}"#).write(),
        br#"{"name":"Ann"}"#.to_vec(),
        vec![0; 100],
    ];
    for (count, bytes) in (1..).zip(&strange) {
        put(&mut connection, "shop/user:a", bytes);
        assert_eq!(users(&larder).get("a").await.unwrap(), None, "{bytes:x?}");
        assert_eq!(larder.stats().caches["user"].unreadable, count, "{bytes:x?}");
    }
    for bytes in &strange {
        put(&mut connection, "shop/user:a", bytes);
        users(&larder).get_or_load("a", || async { Ok::<_, Infallible>(user("Bob")) }).await.unwrap();
        assert_eq!(users(&larder).get("a").await.unwrap(), Some(user("Bob")), "{bytes:x?}");
    }
}

#[tokio::test]
async fn entries_stand_under_the_names_of_the_pages_table() {
    let server = Server::start();
    for row in table("| namespace | cache | schema | key |") {
        let [namespace, cache, schema, key, name] = row.as_slice() else { panic!("{row:?}") };
        server.command(&["FLUSHALL"]);
        let larder = connect(&server, namespace).await;
        let cache = larder.cache::<u32>(cache).schema(schema.parse().unwrap()).ttl(HOUR).build().unwrap();
        let key = || Key(serde_json::from_str(key).unwrap());
        cache.set(key(), &1).await.unwrap();
        assert_eq!(names(&server), [name.as_str()], "{row:?}");
        assert_eq!(cache.ttl(key()).await.unwrap().map(|left| left == Expiry::Never), Some(false));
        server.command(&["SET", name, "2"]);
        assert_eq!(cache.get(key()).await.unwrap(), Some(2));
    }
}

#[tokio::test]
async fn everything_else_stands_under_the_reserved_names_of_the_pages_table() {
    let server = Server::start();
    for row in table("| what | namespace | called |") {
        let [what, namespace, called, name, kind] = row.as_slice() else { panic!("{row:?}") };
        server.command(&["FLUSHALL"]);
        let larder = connect(&server, namespace).await;
        match what.as_str() {
            "tag" => larder.tag(called).invalidate().await.unwrap(),
            "lock" | "fence" => {
                let guard = larder.lock(called).acquire().await.unwrap();
                let lock = name.trim_end_matches(":fence");
                assert_eq!(names(&server), [lock.to_owned(), format!("{lock}:fence")]);
                let fence = guard.fence().get().to_string();
                assert_eq!(server.query::<String>(&["GET", &format!("{lock}:fence")]), fence);
                let token: String = server.query(&["GET", lock]);
                assert!(
                    token.len() == 16 && token.bytes().all(|b| b"0123456789abcdef".contains(&b)),
                    "{token}"
                );
                std::mem::forget(guard);
            }
            "limit" => {
                let (limiter, key) = called.split_once(':').unwrap();
                // The layout itself is read in limits_wire.rs.
                let limiter = larder.rate_limiter(limiter, Quota::per_hour(90)).unwrap();
                assert!(limiter.allow(key).await.unwrap());
                assert_eq!(stored(&mut raw(&server), name).len(), 141);
            }
            "permits" => {
                let (limiter, key) = called.split_once(':').unwrap();
                let limiter = larder.concurrency_limiter(limiter, 2).unwrap();
                std::mem::forget(limiter.try_acquire(key).await.unwrap());
            }
            other => panic!("{other}"),
        }
        assert!(names(&server).contains(name), "{row:?}: {:?}", names(&server));
        assert_eq!(&server.query::<String>(&["TYPE", name]), kind);
        assert!(server.query::<i64>(&["PTTL", name]) > 0, "{row:?} expires");
    }
}

#[tokio::test]
async fn a_tags_version_outlives_what_carries_it() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let days = |name: &str| server.query::<i64>(&["PTTL", name]) as f64 / 86_400_000.0;
    let near = |days: f64, wanted: f64| (days - wanted).abs() < 0.01;
    users(&larder).set("a", &user("Ann")).tag("t").await.unwrap();
    assert!(near(days("~tag.1:{shop/t}"), 2.0));
    users(&larder).set("a", &user("Ann")).ttl(36 * HOUR).tag("t").await.unwrap();
    assert!(near(days("~tag.1:{shop/t}"), 2.0), "more than one span is left");
    users(&larder).set("a", &user("Ann")).no_expiry().tag("t").await.unwrap();
    assert!(near(days("~tag.1:{shop/t}"), 60.0));
    larder.tag("t").invalidate().await.unwrap();
    assert!(near(days("~tag.1:{shop/t}"), 2.0));
}

#[tokio::test]
async fn distinct_entries_never_meet_on_the_server() {
    let server = Server::start();
    let nasty = [
        "",
        ":",
        "a",
        "a:b",
        "a%3Ab",
        "a%253Ab",
        "%",
        "%25",
        "{",
        "%7B",
        "{a}",
        "}{",
        "~tag.1:{x}",
        "@1:a",
        "1:a",
        "/",
        "\n",
        "%0A",
        "\u{85}",
        "%C2%85",
        "\u{e9}",
        "e\u{301}",
        " ",
        "  ",
        "A",
        "shop/user:a",
    ];
    let mut wanted: BTreeMap<String, u32> = BTreeMap::new();
    let mut caches = Vec::new();
    for namespace in ["", "a", "a.b", "shop", "user"] {
        let larder = connect(&server, namespace).await;
        for (name, schema) in [("a", 0), ("a", 1), ("a", 11), ("a.b", 0), ("user", 0), ("b", 1)] {
            let cache: Cache<u32> = larder.cache(name).schema(schema).ttl(HOUR).build().unwrap();
            caches.push((format!("{namespace} {name} {schema}"), cache));
        }
    }
    let mut next = 0;
    for (what, cache) in &caches {
        let entries: Vec<(&str, u32)> = nasty
            .iter()
            .map(|key| {
                (*key, {
                    next += 1;
                    next
                })
            })
            .collect();
        cache.set_many(entries.iter().map(|(key, value)| (*key, value))).await.unwrap();
        wanted.extend(entries.iter().map(|(key, value)| (format!("{what} {key:?}"), *value)));
    }
    assert_eq!(server.query::<usize>(&["DBSIZE"]), wanted.len());
    for (what, cache) in &caches {
        for (key, found) in nasty.iter().zip(cache.get_many(nasty).await.unwrap()) {
            let what = format!("{what} {key:?}");
            assert_eq!(found, Some(wanted[&what]), "{what}");
        }
    }
}

#[tokio::test]
async fn distinct_tuples_never_meet_on_the_server() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let cache: Cache<u32> = larder.cache("page").ttl(HOUR).build().unwrap();
    let parts = ["", ":", "a", "a:", ":a", "%3A", "a%3A", "{", "%"];
    let mut next = 0;
    for a in parts {
        for b in parts {
            next += 1;
            cache.set((a, b), &next).await.unwrap();
        }
    }
    assert_eq!(server.query::<u32>(&["DBSIZE"]), next);
    next = 0;
    for a in parts {
        for b in parts {
            next += 1;
            assert_eq!(cache.get((a, b)).await.unwrap(), Some(next), "{a} {b}");
        }
    }
}

#[tokio::test]
async fn a_value_cut_anywhere_or_with_any_byte_changed_is_a_miss() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let mut connection = raw(&server);
    for (cache, format, tag) in
        [("json", Format::Json, ""), ("packed", Format::MessagePack, ""), ("tagged", Format::Json, "t")]
    {
        let builder = larder.cache::<User>(cache).ttl(HOUR).format(format);
        let users = if tag.is_empty() { builder } else { builder.compress_above(10) }.build().unwrap();
        let ann = user(&"Ann ".repeat(8));
        let set = users.set("a", &ann);
        if tag.is_empty() { set.await } else { set.tag(tag).await }.unwrap();
        let name = format!("shop/{cache}:a");
        let whole = stored(&mut connection, &name);
        assert!(users.get("a").await.unwrap().is_some());
        let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
        let flips = (0..whole.len()).flat_map(|at| {
            let whole = &whole;
            [0x01, 0x80, 0xFF].map(move |bits| {
                let mut bytes = whole.clone();
                bytes[at] ^= bits;
                bytes
            })
        });
        let longer = [[&whole[..], &[0]].concat()];
        let mut unreadable = 0;
        for bytes in cuts.chain(flips).chain(longer) {
            put(&mut connection, &name, &bytes);
            assert_eq!(users.get("a").await.unwrap(), None, "{bytes:x?}");
            unreadable += 1;
            assert_eq!(larder.stats().caches[cache].unreadable, unreadable, "{bytes:x?}");
            // Whatever they answer, they must not fail.
            users.exists("a").await.unwrap();
            users.ttl("a").await.unwrap();
            users.touch("a", HOUR).await.unwrap();
            unreadable = larder.stats().caches[cache].unreadable;
        }
        put(&mut connection, &name, &whole);
        assert!(users.get("a").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_fill_is_a_placeholder_of_forty_bytes_that_anybody_can_void() {
    let server = Server::start();
    let larder = connect(&server, "shop").await;
    let users = users(&larder);
    let (name, url) = ("shop/user:a", server.url());
    // A loader that looks at the server, and then does something to the name as another program would.
    let load = async |interference: Option<redis::Cmd>| {
        let url = url.clone();
        let loader = move || async move {
            let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
            let seen = stored(&mut connection, name);
            let left: i64 = redis::cmd("PTTL").arg(name).query(&mut connection).unwrap();
            if let Some(interference) = interference {
                interference.exec(&mut connection).unwrap();
            }
            assert!(left > 20_000 && left <= 30_000, "{left}");
            assert_eq!(seen.len(), 40);
            let entry = Entry::read(&seen);
            let wanted =
                Entry { kind: 2, nonce: entry.nonce, written_at: entry.written_at, ..Entry::value(b"") };
            assert_eq!(entry, wanted);
            assert!(entry.nonce != 0 && entry.written_at > 1_700_000_000_000);
            Ok::<_, Infallible>(user("loaded"))
        };
        assert_eq!(users.get_or_load("a", loader).await.unwrap(), user("loaded"));
    };
    load(None).await;
    let entry = Entry::read(&stored(&mut raw(&server), name));
    assert_eq!(entry.plain(), br#"{"name":"loaded","age":30}"#);
    assert!(entry.load_micros > 0);

    let mut theirs = redis::cmd("SET");
    theirs.arg(name).arg(br#"{"name":"theirs","age":1}"#);
    let mut delete = redis::cmd("DEL");
    delete.arg(name);
    let mut foreign = redis::cmd("SET");
    foreign.arg(name).arg(Entry { kind: 2, nonce: 7, ..Entry::value(b"") }.write());
    for (command, left) in [
        (theirs, Some(&br#"{"name":"theirs","age":1}"#[..])),
        (delete, None),
        (redis::cmd("FLUSHALL"), None),
        (foreign.clone(), Some(&Entry { kind: 2, nonce: 7, ..Entry::value(b"") }.write()[..])),
    ] {
        server.command(&["DEL", name]);
        load(Some(command)).await;
        let found: Option<Vec<u8>> = server.query(&["GET", name]);
        assert_eq!(found.as_deref(), left);
    }
    assert_eq!(larder.stats().caches["user"].fills_voided, 4);

    // Over the placeholder of somebody else one loads and does not store; a failed load takes its own away.
    foreign.exec(&mut raw(&server)).unwrap();
    assert_eq!(
        users.get_or_load("a", || async { Ok::<_, Infallible>(user("mine")) }).await.unwrap(),
        user("mine")
    );
    assert_eq!(Entry::read(&stored(&mut raw(&server), name)).nonce, 7);
    server.command(&["DEL", name]);
    users.get_or_load("a", || async { Err::<User, _>("no") }).await.unwrap_err();
    until("the placeholder is gone", async || server.query::<i64>(&["EXISTS", name]) == 0).await;
}

#[tokio::test]
async fn locks_tags_and_limits_of_distinct_namespaces_never_meet() {
    let server = Server::start();
    let (none, shop) = (connect(&server, "").await, connect(&server, "shop").await);
    let guard = none.lock("shop/reports").acquire().await.unwrap();
    assert!(shop.lock("reports").try_acquire().await.unwrap().is_some());
    guard.release().await.unwrap();

    users(&shop).set("a", &user("Ann")).tag("team").await.unwrap();
    none.tag("shop/team").invalidate().await.unwrap();
    assert_eq!(users(&shop).get("a").await.unwrap(), Some(user("Ann")));

    let api = |larder: &Larder| larder.rate_limiter("api", Quota::per_hour(1)).unwrap();
    assert!(api(&none).allow("a").await.unwrap() && api(&shop).allow("a").await.unwrap());
}

#[tokio::test]
async fn a_lock_with_an_empty_name_works_on_a_cluster_too() {
    let larder = Larder::connect(&support::cluster().url()).await.unwrap();
    larder.lock("").try_acquire().await.unwrap().unwrap().release().await.unwrap();
}
