//! What tools read and write: values whose type is not known.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Encoder, Format, Payload, WriteStamp, format};
use crate::envelope::{Codec, PayloadCompression};
use crate::error::Result;

impl Payload {
    /// Returns the encoding; `None` for bytes without an envelope.
    pub(crate) fn coding(self) -> Option<(Codec, PayloadCompression)> {
        self.coding
    }
}

/// Returns the payload, decompressed. The error is a reason, as in the metrics' label.
pub(crate) fn payload_of(
    bytes: &Bytes,
    payload: Payload,
    max_bytes: usize,
) -> std::result::Result<Bytes, &'static str> {
    let written = bytes.slice(payload.start.min(bytes.len())..);
    match payload.coding {
        Some((_, PayloadCompression::Lz4)) => format::decompress(&written, max_bytes).map(Bytes::from),
        _ => Ok(written),
    }
}

/// Encodes a value. With `compress`, it is compressed if that makes it smaller.
pub(crate) fn encoded<V>(
    format: Format,
    compress: bool,
    max_bytes: usize,
    value: &V,
    stamp: WriteStamp,
) -> Result<Bytes>
where
    V: Serialize + DeserializeOwned + 'static,
{
    Encoder::new(format, compress.then_some(0), max_bytes).encode(value, stamp).map(Bytes::from)
}
