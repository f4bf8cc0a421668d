//! The codecs and the compression, each behind the feature that brings its crate.

use std::fmt::Display;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{checked, raw};
use crate::envelope::Codec;
use crate::error::{Error, ErrorKind, Result};

/// The format in which a cache writes its values. Every cache reads all formats, whatever it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Format {
    /// JSON behind larder's envelope. The default: older and newer programs can read each other's values if a field
    /// is added to a struct, and a person can read it.
    #[default]
    Json,
    /// MessagePack with named fields, behind the envelope. It tolerates new fields like JSON. A struct of 1 KiB that
    /// is mostly text takes a third of the time to encode, two thirds to decode, and nine tenths of the bytes. It
    /// also carries NaN, infinities, and maps whose keys are not text. Types with a human-readable form (IP
    /// addresses, UUIDs) are written in that form.
    #[cfg(feature = "msgpack")]
    MessagePack,
    /// Bare JSON without an envelope, for programs in other languages that read the same keys. Such a value carries no
    /// checksum and no versions, so tags cannot invalidate it.
    Plain,
    /// Bytes as they are, behind the envelope and without a codec: for caches of `Vec<u8>`, [`bytes::Bytes`],
    /// `String`, or any other type that serde treats as bytes. Reading [`Bytes`](bytes::Bytes) copies nothing. A
    /// cache of another type cannot be built with it.
    Raw,
}

impl Format {
    #[cfg(test)]
    pub(crate) const ALL: &[Self] = &[
        Self::Json,
        Self::Plain,
        #[cfg(feature = "msgpack")]
        Self::MessagePack,
    ];

    /// Returns the payload's codec, with or without an envelope.
    pub(super) fn payload_codec(self) -> Codec {
        self.codec().unwrap_or(Codec::Json)
    }

    /// Returns the codec that the envelope names, or `None` for a format without an envelope.
    pub(super) fn codec(self) -> Option<Codec> {
        match self {
            Self::Json => Some(Codec::Json),
            #[cfg(feature = "msgpack")]
            Self::MessagePack => Some(Codec::MessagePack),
            Self::Plain => None,
            Self::Raw => Some(Codec::Raw),
        }
    }
}

/// Appends a value's bytes. Fails if decoding them would give another value.
pub(super) fn write<V: Serialize + 'static>(codec: Codec, value: &V, out: &mut Vec<u8>) -> Result<()> {
    match codec {
        Codec::Json => checked::serialize::<checked::Json, _>(value, &mut serde_json::Serializer::new(out))
            .map_err(|error| unwritable("JSON", error)),
        Codec::MessagePack => message_pack(value, out),
        Codec::Raw => raw::write(value, out).map_err(|error| unwritable("raw bytes", error)),
    }
}

/// Refuses a type that the format cannot carry in any of its values.
pub(crate) fn check<V: DeserializeOwned>(format: Format) -> Result<()> {
    match format {
        Format::Raw => raw::check::<V>().map_err(|error| {
            let name = std::any::type_name::<V>();
            Error::invalid(format!("Format::Raw is for bytes, and {name} is not: {error}"))
        }),
        _ => Ok(()),
    }
}

#[cold]
fn unwritable(format: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Encode, format!("the value cannot be written as {format}: {error}"), error)
}

#[cfg(feature = "msgpack")]
fn message_pack<V: Serialize>(value: &V, out: &mut Vec<u8>) -> Result<()> {
    // Human-readable, because serde reads the content of a flattened field or an untagged enum that way in any
    // format: it buffers such parts, and the buffer forgets the format they came from (serde-rs/serde#2172).
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map().with_human_readable();
    checked::serialize::<checked::MessagePack, _>(value, &mut serializer)
        .map_err(|error| unwritable("MessagePack", error))
}

#[cfg(not(feature = "msgpack"))]
fn message_pack<V: Serialize>(_: &V, _: &mut Vec<u8>) -> Result<()> {
    Err(Error::new(ErrorKind::Encode, "this build of larder has no MessagePack: turn on the feature msgpack"))
}

/// Why a payload cannot be decoded as the wanted type. The text is made only when it is asked for.
pub(super) enum Unread {
    Json(serde_json::Error),
    #[cfg(feature = "msgpack")]
    MessagePack(rmp_serde::decode::Error),
    Raw(raw::NotBytes),
    #[cfg(not(feature = "msgpack"))]
    LeftOut,
}

impl Unread {
    /// Returns the reason, as in the metrics' label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            #[cfg(not(feature = "msgpack"))]
            Self::LeftOut => "unknown_layout",
            _ => "decode",
        }
    }

    pub(super) fn as_dyn(&self) -> &dyn Display {
        match self {
            Self::Json(error) => error,
            #[cfg(feature = "msgpack")]
            Self::MessagePack(error) => error,
            Self::Raw(error) => error,
            #[cfg(not(feature = "msgpack"))]
            Self::LeftOut => &"this build of larder has no MessagePack",
        }
    }
}

/// Decodes a payload. If `whole` is given, `payload` is a part of it and may be shared.
pub(super) fn read<V: DeserializeOwned + 'static>(
    codec: Codec,
    payload: &[u8],
    whole: Option<&Bytes>,
) -> std::result::Result<V, Unread> {
    match codec {
        Codec::Json => read_json(payload).map_err(Unread::Json),
        #[cfg(feature = "msgpack")]
        Codec::MessagePack => {
            let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload).with_human_readable();
            deserializer.set_max_depth(usize::from(<checked::MessagePack as checked::Carries>::LEVELS) + 1);
            V::deserialize(&mut deserializer).map_err(Unread::MessagePack)
        }
        #[cfg(not(feature = "msgpack"))]
        Codec::MessagePack => Err(Unread::LeftOut),
        Codec::Raw => raw::read(payload, whole).map_err(Unread::Raw),
    }
}

/// Decodes JSON. Checking once that all of it is UTF-8 is faster than serde_json's check of each string.
pub(super) fn read_json<V: DeserializeOwned>(payload: &[u8]) -> serde_json::Result<V> {
    match str::from_utf8(payload) {
        Ok(text) => serde_json::from_str(text),
        // Strings that the type ignores, or reads as bytes, need not be UTF-8.
        Err(_) => serde_json::from_slice(payload),
    }
}

/// Compresses to a length of four bytes and an LZ4 block; `None` if that would not be smaller.
#[cfg(feature = "compress")]
pub(super) fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(&lz4_flex::block::compress(payload));
    (out.len() < payload.len()).then_some(out)
}

#[cfg(not(feature = "compress"))]
pub(super) fn compress(_: &[u8]) -> Option<Vec<u8>> {
    None
}

#[cfg(feature = "compress")]
pub(super) fn decompress(payload: &[u8], max_bytes: usize) -> std::result::Result<Vec<u8>, &'static str> {
    let (length, block) = payload.split_first_chunk::<4>().ok_or("truncated")?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| "too_large")?;
    // The length comes from the stored bytes and may be wrong, so it must not decide how much memory is allocated.
    if length > max_bytes {
        return Err("too_large");
    }
    lz4_flex::block::decompress(block, length).map_err(|_| "decode")
}

#[cfg(not(feature = "compress"))]
pub(super) fn decompress(_: &[u8], _: usize) -> std::result::Result<Vec<u8>, &'static str> {
    Err("unknown_layout")
}
