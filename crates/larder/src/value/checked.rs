//! Refuses, during encoding, values that the format could not give back.
//!
//! JSON has one `null` for `None`, for `()` and for a float that is not a number; MessagePack has one `nil`. So
//! `Some(None)` would be read back as `None`, and in JSON `Some(f64::NAN)` too. Both decoders stop at a certain
//! depth. A [`Checked`] serializer wraps the format's own, passes everything on, and turns each of these cases into
//! an error that names the field. It costs one comparison for each `Option`, float and container, and no allocation.
//!
//! Not detected here: mistakes that depend on how the type deserializes itself, for example maps with number keys
//! inside a flattened field. The [verified round trip](super::verify) finds those.

use std::fmt::Display;
use std::marker::PhantomData;

use serde::Serialize;
use serde::ser::{self, Serializer};

/// What a format can carry.
pub(super) trait Carries {
    const NAME: &'static str;
    /// Whether NaN and the infinities can be written.
    const ANY_FLOAT: bool;
    /// Whether a unit struct is written like `()`.
    const UNIT_STRUCT_IS_NULL: bool;
    /// How many nested containers the decoder reads.
    const LEVELS: u16;
    /// Whether the decoder counts the container that names an enum's variant.
    const COUNTS_VARIANTS: bool;
}

pub(super) struct Json;

impl Carries for Json {
    const NAME: &'static str = "JSON";
    const ANY_FLOAT: bool = false;
    const UNIT_STRUCT_IS_NULL: bool = true;
    const LEVELS: u16 = 127;
    const COUNTS_VARIANTS: bool = true;
}

#[cfg(feature = "msgpack")]
pub(super) struct MessagePack;

#[cfg(feature = "msgpack")]
impl Carries for MessagePack {
    const NAME: &'static str = "MessagePack";
    const ANY_FLOAT: bool = true;
    const UNIT_STRUCT_IS_NULL: bool = false;
    // The decoder could read deeper values, but these overflow a thread's stack when they are read or dropped.
    const LEVELS: u16 = 255;
    const COUNTS_VARIANTS: bool = false;
}

/// The serializer's place in the value.
#[derive(Clone, Copy)]
struct Position {
    /// How many more containers may be opened inside.
    levels: u16,
    /// Whether this is the content of a `Some`, directly or inside newtypes.
    within_some: bool,
}

/// Writes `value` with `inner`. Fails if decoding would give another value, or none.
pub(super) fn serialize<F: Carries, S: Serializer>(
    value: &(impl Serialize + ?Sized),
    inner: S,
) -> Result<S::Ok, S::Error> {
    let place = Position { levels: F::LEVELS, within_some: false };
    Part::<_, F> { value, place, format: PhantomData }.serialize(inner)
}

/// A part of the value, written by the serializer that the format has for its place.
struct Part<'a, T: ?Sized, F> {
    value: &'a T,
    place: Position,
    format: PhantomData<F>,
}

impl<T: Serialize + ?Sized, F: Carries> Serialize for Part<'_, T, F> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Checked { inner, place: self.place, format: PhantomData::<F> })
    }
}

struct Checked<S, F> {
    inner: S,
    place: Position,
    format: PhantomData<F>,
}

impl<S: Serializer, F: Carries> Checked<S, F> {
    /// Returns the place of the content of `containers` opened here.
    #[inline]
    fn inside(&self, containers: u16) -> Result<Position, S::Error> {
        match self.place.levels.checked_sub(containers) {
            Some(levels) => Ok(Position { levels, within_some: false }),
            None => Err(too_deep::<F, _>()),
        }
    }

    #[inline]
    fn inside_variant(&self, containers: u16) -> Result<Position, S::Error> {
        self.inside(containers + u16::from(F::COUNTS_VARIANTS))
    }

    #[inline]
    fn check_null(&self) -> Result<(), S::Error> {
        if self.place.within_some { Err(none_in_some::<F, _>()) } else { Ok(()) }
    }

    #[inline]
    fn part<'a, T: ?Sized>(value: &'a T, place: Position) -> Part<'a, T, F> {
        Part { value, place, format: PhantomData }
    }
}

#[cold]
fn too_deep<F: Carries, E: ser::Error>() -> E {
    E::custom(format_args!("the value is deeper than {}, the limit of reading {}", F::LEVELS, F::NAME))
}

#[cold]
fn none_in_some<F: Carries, E: ser::Error>() -> E {
    E::custom(format_args!(
        "a Some that holds nothing (None, () or a unit) would be None when {} is read back",
        F::NAME
    ))
}

#[cold]
fn no_number<F: Carries, E: ser::Error>(value: impl Display) -> E {
    E::custom(format_args!("{} cannot hold {value}", F::NAME))
}

#[cold]
fn in_field<E: ser::Error>(field: &str, error: E) -> E {
    E::custom(format_args!("{field}: {error}"))
}

macro_rules! pass_on {
    ($($method:ident($type:ty)),*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<S: Serializer, F: Carries> Serializer for Checked<S, F> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = CheckedParts<S::SerializeSeq, F>;
    type SerializeTuple = CheckedParts<S::SerializeTuple, F>;
    type SerializeTupleStruct = CheckedParts<S::SerializeTupleStruct, F>;
    type SerializeTupleVariant = CheckedParts<S::SerializeTupleVariant, F>;
    type SerializeMap = CheckedParts<S::SerializeMap, F>;
    type SerializeStruct = CheckedParts<S::SerializeStruct, F>;
    type SerializeStructVariant = CheckedParts<S::SerializeStructVariant, F>;

    pass_on!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8])
    );

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        if !F::ANY_FLOAT && !value.is_finite() {
            return Err(no_number::<F, _>(value));
        }
        self.inner.serialize_f32(value)
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        if !F::ANY_FLOAT && !value.is_finite() {
            return Err(no_number::<F, _>(value));
        }
        self.inner.serialize_f64(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.check_null()?;
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let place = Position { within_some: true, ..self.place };
        self.inner.serialize_some(&Self::part(value, place))
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.check_null()?;
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        if F::UNIT_STRUCT_IS_NULL {
            self.check_null()?;
        }
        self.inner.serialize_unit_struct(name)
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_newtype_struct(name, &Self::part(value, self.place))
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let place = self.inside_variant(0)?;
        self.inner.serialize_newtype_variant(name, index, variant, &Self::part(value, place))
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        let place = self.inside(1)?;
        Ok(CheckedParts::new(self.inner.serialize_seq(len)?, place))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        let place = self.inside(1)?;
        Ok(CheckedParts::new(self.inner.serialize_tuple(len)?, place))
    }

    #[inline]
    fn serialize_tuple_struct(
        self,
        name: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, S::Error> {
        let place = self.inside(1)?;
        Ok(CheckedParts::new(self.inner.serialize_tuple_struct(name, len)?, place))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        let place = self.inside_variant(1)?;
        Ok(CheckedParts::new(self.inner.serialize_tuple_variant(name, index, variant, len)?, place))
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        let place = self.inside(1)?;
        Ok(CheckedParts::new(self.inner.serialize_map(len)?, place))
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        let place = self.inside(1)?;
        Ok(CheckedParts::new(self.inner.serialize_struct(name, len)?, place))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let place = self.inside_variant(1)?;
        Ok(CheckedParts::new(self.inner.serialize_struct_variant(name, index, variant, len)?, place))
    }

    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// A container that is being written.
struct CheckedParts<C, F> {
    inner: C,
    /// The place of its content.
    place: Position,
    format: PhantomData<F>,
}

impl<C, F> CheckedParts<C, F> {
    #[inline]
    fn new(inner: C, place: Position) -> Self {
        Self { inner, place, format: PhantomData }
    }

    #[inline]
    fn part<'a, T: ?Sized>(&self, value: &'a T) -> Part<'a, T, F> {
        Part { value, place: self.place, format: PhantomData }
    }
}

macro_rules! sequences {
    ($($name:ident::$method:ident),*) => {$(
        impl<C: ser::$name, F: Carries> ser::$name for CheckedParts<C, F> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let part = self.part(value);
                self.inner.$method(&part)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

sequences!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! structs {
    ($($name:ident),*) => {$(
        impl<C: ser::$name, F: Carries> ser::$name for CheckedParts<C, F> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                field: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                let part = self.part(value);
                self.inner.serialize_field(field, &part).map_err(|error| in_field(field, error))
            }

            #[inline]
            fn skip_field(&mut self, field: &'static str) -> Result<(), C::Error> {
                self.inner.skip_field(field)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

structs!(SerializeStruct, SerializeStructVariant);

impl<C: ser::SerializeMap, F: Carries> ser::SerializeMap for CheckedParts<C, F> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), C::Error> {
        let part = self.part(key);
        self.inner.serialize_key(&part)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let part = self.part(value);
        self.inner.serialize_value(&part)
    }

    #[inline]
    fn serialize_entry<K: Serialize + ?Sized, T: Serialize + ?Sized>(
        &mut self,
        key: &K,
        value: &T,
    ) -> Result<(), C::Error> {
        let (key, part) = (self.part(key), self.part(value));
        self.inner.serialize_entry(&key, &part)
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
