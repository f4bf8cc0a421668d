//! What to write instead of an option that does not exist.

/// The options, in the order of the documentation.
pub(crate) const OPTIONS: [&str; 8] =
    ["cache", "key", "ttl", "tags", "tags_of", "store_if", "refresh_if", "error"];

/// Options of other crates' attributes, above all `cached`'s, with what takes their place here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["time", "time_to_live", "ttl_secs", "ttl_millis", "expire", "expires"],
        "write `ttl = Duration::from_secs(60)`",
    ),
    (&["size", "max_size", "capacity"], "bound the cache itself: `.near(Near::bytes(n))` where it is built"),
    (&["name", "namespace", "prefix"], "name the cache where it is built: `larder.cache(\"name\")`"),
    (&["convert"], "write the expression as the key: `key = (a, b)`"),
    (
        &["ty", "create", "redis", "disk", "map", "connection"],
        "build the cache yourself and pass it: `cache = …`",
    ),
    (&["map_error"], "write `error = E` and implement `From<LoadError<E>>` for the function's own error"),
    (&["result", "in_impl"], "leave it out: methods work as functions do, and an `Err` is never stored"),
    (&["result_fallback"], "serve old values by `.stale_for(d)` where the cache is built"),
    (&["cache_none"], "remember absences by `.negative_ttl(d)` where the cache is built"),
    (&["option"], "leave it out: with a `Cache<T>`, an absence is kept for the cache's `negative_ttl`"),
    (&["sync", "sync_writes", "sync_lock"], "leave it out: one load runs for a key in the whole fleet"),
    (&["refresh", "time_refresh", "force_refresh"], "write `refresh_if = condition`"),
    (&["with_cached_flag"], "call `cache.get_or_load(…).entry()`, which says where the value is from"),
    (&["condition", "unless", "skip", "cache_if"], "write `store_if = |value| …`"),
    (&["tag"], "write `tags = [\"a\"]`, or `tags_of = |value| …` for tags that only the value names"),
    (&["timeout", "hard_timeout"], "set `hard_timeout` where the cache is built"),
];

/// Says what to write instead of the unknown option `name`.
pub(crate) fn instead_of(name: &str) -> String {
    if let Some((_, advice)) = ELSEWHERE.iter().find(|(names, _)| names.contains(&name)) {
        return format!("`{name}` is not an option: {advice}");
    }
    let list = OPTIONS.map(|option| format!("`{option}`")).join(", ");
    let nearest = OPTIONS.iter().map(|option| (distance(name, option), option)).min();
    match nearest {
        Some((distance, option)) if distance <= 2 => {
            format!("`{name}` is not an option: did you mean `{option}`?")
        }
        _ => format!("`{name}` is not an option: there are {list}"),
    }
}

/// The edit distance of Levenshtein.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, l) in left.chars().enumerate() {
        let mut next = vec![index + 1];
        for (r, (&diagonal, &above)) in right.iter().zip(row.iter().zip(row.iter().skip(1))) {
            let replaced = diagonal + usize::from(l != *r);
            let inserted = next.last().map_or(usize::MAX, |&left| left + 1);
            next.push(replaced.min(above + 1).min(inserted));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_option_is_recognised_and_another_word_is_not() {
        assert_eq!(distance("tags_of", "tags_of"), 0);
        assert_eq!(distance("tagsof", "tags_of"), 1);
        assert_eq!(distance("chace", "cache"), 2);
        assert!(instead_of("chace").contains("did you mean `cache`?"));
        assert!(instead_of("colour").contains("there are `cache`, `key`"));
        assert!(instead_of("time").contains("ttl = Duration::from_secs(60)"));
    }
}
