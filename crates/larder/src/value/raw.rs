//! `Format::Raw`: bytes as they are, behind the envelope.
//!
//! A cache is generic over its values, and stable Rust has no specialisation that could treat bytes differently. This
//! module uses two means instead. `Vec<u8>`, `Bytes` and `String` are recognised by [`Any`], which the compiler
//! resolves for each type: their bytes are copied, and large `Bytes` that are read share the server's reply. Any
//! other type (a newtype around those, `serde_bytes`, `[u8; 16]`, `Arc<[u8]>`) goes through a serializer and a
//! deserializer that accept bytes only and otherwise say what the type is. [`check`] asks a type, before any value
//! exists, what it deserializes from, so that a cache of structs is refused when it is built.

use std::any::Any;
use std::cell::Cell;
use std::fmt::{self, Display};

use bytes::Bytes;
use serde::de::value::SeqDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, SeqAccess, Visitor};
use serde::ser::{self, Impossible, Serialize, Serializer};
use serde::{Deserializer, forward_to_deserialize_any};

/// `Bytes` that are shorter are copied: a slice would keep the whole buffer that the reply was read into.
const SHARED: usize = 64 * 1024;

/// Appends a value's bytes.
pub(super) fn write<V: Serialize + 'static>(value: &V, out: &mut Vec<u8>) -> Result<(), NotBytes> {
    let any: &dyn Any = value;
    let known = any.downcast_ref::<Vec<u8>>().map(Vec::as_slice);
    let known = known.or_else(|| any.downcast_ref::<Bytes>().map(|bytes| &**bytes));
    match known.or_else(|| any.downcast_ref::<String>().map(String::as_bytes)) {
        Some(bytes) => {
            out.extend_from_slice(bytes);
            Ok(())
        }
        None => value.serialize(Writer(out)),
    }
}

/// Reads a value. If `whole` is given, `payload` is a part of it and may be shared.
pub(super) fn read<V: DeserializeOwned + 'static>(
    payload: &[u8],
    whole: Option<&Bytes>,
) -> Result<V, NotBytes> {
    let mut found: Option<V> = None;
    let place: &mut dyn Any = &mut found;
    if let Some(place) = place.downcast_mut::<Option<Bytes>>() {
        *place = Some(match whole {
            Some(whole) if payload.len() >= SHARED => whole.slice_ref(payload),
            _ => Bytes::copy_from_slice(payload),
        });
    } else if let Some(place) = place.downcast_mut::<Option<Vec<u8>>>() {
        *place = Some(payload.to_vec());
    }
    match found {
        Some(value) => Ok(value),
        None => V::deserialize(BytesReader(payload)),
    }
}

/// Refuses a type that does not deserialize from bytes.
pub(super) fn check<V: DeserializeOwned>() -> Result<(), NotBytes> {
    let wants = Cell::new(None);
    // Only the type's request matters: the probe has no value to give.
    let _ = V::deserialize(Probe { wants: &wants, within: false });
    match wants.get() {
        Some(Wants::Bytes) => Ok(()),
        Some(Wants::Else(what)) => Err(NotBytes(format!("it is read from {what}"))),
        None => Err(NotBytes("it is not read from anything".into())),
    }
}

/// What a value is, if it is not bytes.
#[derive(Debug)]
pub(super) struct NotBytes(String);

impl Display for NotBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotBytes {}

impl ser::Error for NotBytes {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl de::Error for NotBytes {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

fn found<T>(what: &str) -> Result<T, NotBytes> {
    Err(NotBytes(format!("Format::Raw keeps bytes, and this is {what}")))
}

struct Writer<'a>(&'a mut Vec<u8>);

macro_rules! refuse {
    ($what:literal: $($method:ident($type:ty)),*) => {$(
        fn $method(self, _: $type) -> Result<(), NotBytes> {
            found($what)
        }
    )*};
}

/// The types that are not bytes, for [`Writer`] and [`Byte`].
macro_rules! refuse_structures {
    () => {
        type SerializeTupleStruct = Impossible<(), NotBytes>;
        type SerializeTupleVariant = Impossible<(), NotBytes>;
        type SerializeMap = Impossible<(), NotBytes>;
        type SerializeStruct = Impossible<(), NotBytes>;
        type SerializeStructVariant = Impossible<(), NotBytes>;

        refuse!("a bool": serialize_bool(bool));
        refuse!("a number": serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
            serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32), serialize_f64(f64));
        refuse!("a char": serialize_char(char));

        fn serialize_none(self) -> Result<(), NotBytes> {
            found("an Option")
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), NotBytes> {
            found("an Option")
        }

        fn serialize_unit(self) -> Result<(), NotBytes> {
            found("a unit")
        }

        fn serialize_unit_struct(self, _: &'static str) -> Result<(), NotBytes> {
            found("a unit")
        }

        fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), NotBytes> {
            found("an enum")
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), NotBytes> {
            found("an enum")
        }

        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, NotBytes> {
            found("a struct")
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, NotBytes> {
            found("an enum")
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NotBytes> {
            found("a map")
        }

        fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, NotBytes> {
            found("a struct")
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, NotBytes> {
            found("an enum")
        }
    };
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = NotBytes;
    type SerializeSeq = Writer<'a>;
    type SerializeTuple = Writer<'a>;

    refuse!("a number": serialize_u8(u8));
    refuse_structures!();

    fn serialize_str(self, value: &str) -> Result<(), NotBytes> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), NotBytes> {
        self.0.extend_from_slice(value);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotBytes> {
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, NotBytes> {
        self.0.reserve(len.unwrap_or(0));
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, NotBytes> {
        Ok(self)
    }
}

macro_rules! bytes_of {
    ($($name:ident),*) => {$(
        impl ser::$name for Writer<'_> {
            type Ok = ();
            type Error = NotBytes;

            #[inline]
            fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotBytes> {
                value.serialize(Byte(self.0))
            }

            fn end(self) -> Result<(), NotBytes> {
                Ok(())
            }
        }
    )*};
}

bytes_of!(SerializeSeq, SerializeTuple);

/// An element of a sequence, which must be a byte.
struct Byte<'a>(&'a mut Vec<u8>);

impl Serializer for Byte<'_> {
    type Ok = ();
    type Error = NotBytes;
    type SerializeSeq = Impossible<(), NotBytes>;
    type SerializeTuple = Impossible<(), NotBytes>;

    refuse_structures!();

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<(), NotBytes> {
        self.0.push(value);
        Ok(())
    }

    fn serialize_str(self, _: &str) -> Result<(), NotBytes> {
        found("a sequence of texts")
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), NotBytes> {
        found("a sequence of bytes of bytes")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotBytes> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, NotBytes> {
        found("a sequence of sequences")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, NotBytes> {
        found("a sequence of tuples")
    }
}

struct BytesReader<'de>(&'de [u8]);

impl<'de> Deserializer<'de> for BytesReader<'de> {
    type Error = NotBytes;

    fn deserialize_any<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
        found("another type")
    }

    fn deserialize_bytes<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, NotBytes> {
        visitor.visit_borrowed_bytes(self.0)
    }

    fn deserialize_byte_buf<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, NotBytes> {
        visitor.visit_borrowed_bytes(self.0)
    }

    fn deserialize_str<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, NotBytes> {
        match str::from_utf8(self.0) {
            Ok(text) => visitor.visit_borrowed_str(text),
            Err(_) => Err(NotBytes("bytes that are not UTF-8 text".into())),
        }
    }

    fn deserialize_string<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, NotBytes> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, NotBytes> {
        let mut bytes = SeqDeserializer::new(self.0.iter().copied());
        let value = visitor.visit_seq(&mut bytes)?;
        bytes.end()?;
        Ok(value)
    }

    fn deserialize_tuple<T: Visitor<'de>>(self, _: usize, visitor: T) -> Result<T::Value, NotBytes> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<T: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: T,
    ) -> Result<T::Value, NotBytes> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char option unit unit_struct tuple_struct map
        struct enum identifier ignored_any
    }
}

/// What a type asks to be deserialized from.
#[derive(Debug, Clone, Copy)]
enum Wants {
    Bytes,
    Else(&'static str),
}

/// Records what a type asks for, and gives it no value.
#[derive(Clone, Copy)]
struct Probe<'a> {
    wants: &'a Cell<Option<Wants>>,
    /// Whether this probes an element of a sequence.
    within: bool,
}

impl Probe<'_> {
    fn note<T>(self, wants: Wants) -> Result<T, NotBytes> {
        self.wants.set(Some(wants));
        Err(NotBytes("a probe has nothing to give".into()))
    }

    fn whole<T>(self, what: &'static str) -> Result<T, NotBytes> {
        self.note(if self.within { Wants::Else(what) } else { Wants::Bytes })
    }
}

macro_rules! probe {
    ($($method:ident: $what:literal),*) => {$(
        fn $method<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
            self.note(Wants::Else($what))
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = NotBytes;

    probe!(
        deserialize_any: "a self-describing format", deserialize_bool: "a bool", deserialize_i8: "a number",
        deserialize_i16: "a number", deserialize_i32: "a number", deserialize_i64: "a number",
        deserialize_i128: "a number", deserialize_u16: "a number", deserialize_u32: "a number",
        deserialize_u64: "a number", deserialize_u128: "a number", deserialize_f32: "a number",
        deserialize_f64: "a number", deserialize_char: "a char", deserialize_option: "an Option",
        deserialize_unit: "a unit", deserialize_map: "a map", deserialize_identifier: "a name",
        deserialize_ignored_any: "nothing"
    );

    fn deserialize_u8<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
        self.note(if self.within { Wants::Bytes } else { Wants::Else("a number") })
    }

    fn deserialize_str<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
        self.whole("a sequence of texts")
    }

    fn deserialize_string<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
        self.whole("a sequence of texts")
    }

    fn deserialize_bytes<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
        self.whole("a sequence of bytes of bytes")
    }

    fn deserialize_byte_buf<T: Visitor<'de>>(self, _: T) -> Result<T::Value, NotBytes> {
        self.whole("a sequence of bytes of bytes")
    }

    fn deserialize_seq<T: Visitor<'de>>(self, visitor: T) -> Result<T::Value, NotBytes> {
        if self.within {
            return self.note(Wants::Else("a sequence of sequences"));
        }
        visitor.visit_seq(Probe { within: true, ..self })
    }

    fn deserialize_tuple<T: Visitor<'de>>(self, _: usize, visitor: T) -> Result<T::Value, NotBytes> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<T: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: T,
    ) -> Result<T::Value, NotBytes> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<T: Visitor<'de>>(self, _: &'static str, _: T) -> Result<T::Value, NotBytes> {
        self.note(Wants::Else("a unit"))
    }

    fn deserialize_tuple_struct<T: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        _: T,
    ) -> Result<T::Value, NotBytes> {
        self.note(Wants::Else("a struct"))
    }

    fn deserialize_struct<T: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: T,
    ) -> Result<T::Value, NotBytes> {
        self.note(Wants::Else("a struct"))
    }

    fn deserialize_enum<T: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: T,
    ) -> Result<T::Value, NotBytes> {
        self.note(Wants::Else("an enum"))
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = NotBytes;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, NotBytes> {
        seed.deserialize(*self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_bytes_do_not_keep_the_reply_and_long_bytes_share_it() {
        let whole = Bytes::from(vec![7; 1 << 20]);
        let shares = |length: usize| {
            let payload = &whole[..length];
            let value: Bytes = read(payload, Some(&whole)).unwrap();
            assert_eq!(value, payload);
            value.as_ptr() == payload.as_ptr()
        };
        assert!(!shares(SHARED - 1));
        assert!(shares(SHARED));
    }
}
