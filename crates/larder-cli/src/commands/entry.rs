//! How entries are shown: their kind, their envelope, and their value.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use larder::Expiry;
use larder::admin::{Compression, EntryInfo, EntryKind, EntryValue, StoredFormat};
use serde_json::{Map, Value, json};

use crate::commands::moment;
use crate::output::{escape, units};

/// The name of a kind, for people and programs.
pub(crate) fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Value => "value",
        EntryKind::Absence => "absence",
        EntryKind::Placeholder => "loading",
        EntryKind::Unreadable(_) => "unreadable",
        _ => "unknown",
    }
}

/// The format with its compression, as `msgpack+lz4`.
pub(crate) fn format(entry: &EntryInfo) -> String {
    let name = entry.format.map_or("none", StoredFormat::as_str);
    if entry.compression == Compression::Lz4 { format!("{name}+lz4") } else { name.to_owned() }
}

/// Why a program does not get the value, although it is stored; `None` if it does.
pub(crate) fn remark(entry: &EntryInfo) -> Option<String> {
    // A version that the server does not have was lost: what carries one counts as invalid until it is read again.
    let other = |carried: u64, current: Option<u64>| current != Some(carried);
    if entry.clear_version.is_some_and(|version| other(version, entry.current_clear_version)) {
        return Some("invalid: the cache was cleared since".to_owned());
    }
    if let Some(tag) = entry.tags.iter().find(|tag| other(tag.version, tag.current)) {
        return Some(format!("invalid: the tag {:?} was invalidated since", tag.tag));
    }
    entry.is_stale().then(|| "stale: a miss for get()".to_owned())
}

/// The expiry in milliseconds; `null` if there is none.
pub(crate) fn expiry_json(expiry: Expiry) -> Value {
    match expiry {
        Expiry::After(left) => Value::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        _ => Value::Null,
    }
}

/// What surrounds the value, as lines.
pub(crate) fn envelope(entry: &EntryInfo) -> String {
    let mut lines = vec![("name", escape::text(&entry.name).into_owned())];
    let mut line = |name, text: String| lines.push((name, text));
    line(
        "kind",
        match entry.kind {
            EntryKind::Unreadable(reason) => format!("unreadable: {reason}"),
            other => kind(other).to_owned(),
        },
    );
    line("format", format(entry));
    line("stored", units::size(entry.stored_bytes));
    line(
        "expires",
        match entry.expiry {
            Expiry::After(left) => format!("in {}", units::time(left)),
            _ => "never".to_owned(),
        },
    );
    if let Some(time) = entry.written_at {
        line("written", moment::shown(time));
    }
    if let Some(time) = entry.fresh_until {
        let marked =
            time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < Duration::from_secs(1));
        line("fresh until", if marked { "marked as stale".to_owned() } else { moment::shown(time) });
    }
    if let Some(time) = entry.load_time {
        line("load time", units::time(time));
    }
    for tag in &entry.tags {
        let valid = if tag.current == Some(tag.version) { "" } else { " (invalidated since)" };
        line("tag", format!("{}{valid}", escape::text(&tag.tag)));
    }
    let mut out = String::new();
    for (name, text) in lines {
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{name:>12}  {text}");
    }
    out
}

/// What surrounds the value, for programs.
pub(crate) fn envelope_json(entry: &EntryInfo) -> Value {
    let tags: Vec<Value> = entry
        .tags
        .iter()
        .map(|tag| {
            // As text: a version has 64 bits, and many programs read a number of JSON as a double.
            let current = tag.current.map(|version| format!("{version:016x}"));
            json!({ "tag": tag.tag, "version": format!("{:016x}", tag.version), "current": current })
        })
        .collect();
    json!({
        "name": entry.name,
        "kind": kind(entry.kind),
        "reason": match entry.kind { EntryKind::Unreadable(reason) => Some(reason), _ => None },
        "format": entry.format.map(StoredFormat::as_str),
        "compressed": entry.compression == Compression::Lz4,
        "stored_bytes": entry.stored_bytes,
        "ttl_ms": expiry_json(entry.expiry),
        "written_at": entry.written_at.map(moment::shown),
        "stale": entry.is_stale(),
        "fresh_until": entry.fresh_until.map(moment::shown),
        "load_time_ms": entry.load_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        "tags": tags,
    })
}

/// The value as a field of a JSON object: `value` for JSON, `bytes` in hexadecimal for bytes.
pub(crate) fn add_value(object: &mut Map<String, Value>, value: EntryValue) {
    match value {
        EntryValue::Json(value) => object.insert("value".to_owned(), value),
        EntryValue::Bytes(bytes) => object.insert("bytes".to_owned(), Value::from(escape::hex(&bytes))),
        _ => None,
    };
}
