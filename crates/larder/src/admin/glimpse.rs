//! What the first bytes of an entry say, for lists and samples.

use super::{Compression, EntryKind, StoredFormat};
use crate::envelope::{self, Glance, MAGIC};

/// What the first bytes of an entry say. Nothing of it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glimpse {
    pub(super) kind: EntryKind,
    pub(super) format: Option<StoredFormat>,
    pub(super) compression: Compression,
}

/// Reads the first bytes of an entry.
pub(super) fn glance(start: &[u8]) -> Glimpse {
    let unreadable = |reason| Glimpse {
        kind: EntryKind::Unreadable(reason),
        format: None,
        compression: Compression::None,
    };
    let [MAGIC, _, packed, ..] = start else {
        return match envelope::glance(start) {
            Glance::Bare => Glimpse {
                kind: EntryKind::Value,
                format: Some(StoredFormat::Plain),
                compression: Compression::None,
            },
            _ => unreadable("truncated"),
        };
    };
    let kind = match (envelope::nonce(start), packed >> 6) {
        (None, _) => return unreadable("unknown_layout"),
        (_, 0) => EntryKind::Value,
        (_, 1) => EntryKind::Absence,
        (_, 2) => EntryKind::Placeholder,
        _ => return unreadable("unknown_layout"),
    };
    if kind != EntryKind::Value {
        return Glimpse { kind, format: None, compression: Compression::None };
    }
    let format = match packed & 7 {
        0 => StoredFormat::Json,
        1 => StoredFormat::MessagePack,
        2 => StoredFormat::Raw,
        _ => return unreadable("unknown_layout"),
    };
    let compression = match packed >> 3 & 3 {
        0 => Compression::None,
        1 => Compression::Lz4,
        _ => return unreadable("unknown_layout"),
    };
    Glimpse { kind, format: Some(format), compression }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{WriteStamp, placeholder};

    #[test]
    fn first_bytes_say_what_an_entry_is() {
        let placeholder = placeholder(WriteStamp { nonce: 1, ..WriteStamp::default() });
        assert_eq!(glance(&placeholder).kind, EntryKind::Placeholder);
        let plain = glance(b"{\"a\":1}");
        assert_eq!((plain.kind, plain.format), (EntryKind::Value, Some(StoredFormat::Plain)));
        assert_eq!(glance(b"\x9a\x02\x00").kind, EntryKind::Unreadable("unknown_layout"));
        let mut packed = placeholder.clone();
        packed[2] = 1 << 3 | 1;
        let glimpse = glance(&packed);
        assert_eq!(
            (glimpse.format, glimpse.compression),
            (Some(StoredFormat::MessagePack), Compression::Lz4)
        );
    }
}
