//! A loader's error of any type. All callers that waited share it; those that do not know its type can display it and
//! ask for its cause.
//!
//! A loader may fail with an ordinary error, with a type that holds any error (`anyhow::Error`, a boxed `dyn Error`),
//! or with a text. Only the first implements [`std::error::Error`], and one impl cannot cover all three,
//! because the compiler must allow for `anyhow::Error` becoming an `Error` one day. So [`LoaderError`] has a
//! parameter that says which of the three a type is, and the compiler infers it.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

/// A type that a loader may fail with: any [`std::error::Error`], `Box<dyn Error + Send + Sync>`, `anyhow::Error` and
/// similar types, or a text. `Kind` says which; the compiler infers it, so you need not name it.
#[diagnostic::on_unimplemented(
    message = "a loader cannot fail with `{Self}`, which is not an error",
    note = "implement `std::error::Error` for it, or use a text, `Box<dyn Error + Send + Sync>` or `anyhow::Error`"
)]
pub trait LoaderError<Kind>: Send + Sync + 'static {
    /// Displays the error, with its causes if the type's own `Display` does so.
    #[doc(hidden)]
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Returns the cause that [`show`](Self::show) leaves out.
    #[doc(hidden)]
    fn cause(&self) -> Option<&(dyn StdError + 'static)>;
}

/// Marks a [`LoaderError`] that is a [`std::error::Error`].
#[derive(Debug)]
pub enum IsError {}

/// Marks a [`LoaderError`] that holds any error.
#[derive(Debug)]
pub enum HoldsError {}

/// Marks a [`LoaderError`] that is a text, or `()`.
#[derive(Debug)]
pub enum IsText {}

impl<E: StdError + Send + Sync + 'static> LoaderError<IsError> for E {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.source()
    }
}

/// The bound `From<fmt::Error>` separates types that hold any error from `Arc<dyn Error>`, which is an error itself.
impl<E> LoaderError<HoldsError> for E
where
    E: Deref<Target = dyn StdError + Send + Sync> + From<fmt::Error> + Display + Send + Sync + 'static,
{
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The alternate form shows the whole chain of an anyhow error.
        write!(f, "{self:#}")
    }

    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        let shown_already = format!("{self}") != format!("{self:#}");
        if shown_already { None } else { self.deref().source() }
    }
}

macro_rules! texts {
    ($($text:ty),*) => {$(
        impl LoaderError<IsText> for $text {
            fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self)
            }

            fn cause(&self) -> Option<&(dyn StdError + 'static)> {
                None
            }
        }
    )*};
}

texts!(String, &'static str, Cow<'static, str>, Box<str>, Arc<str>);

impl LoaderError<IsText> for () {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no reason given")
    }

    fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        None
    }
}

/// A loader's error of any type.
#[derive(Clone)]
pub(super) struct Thrown {
    error: Arc<dyn Any + Send + Sync>,
    methods: Methods,
}

type Opaque = dyn Any + Send + Sync;

#[derive(Clone, Copy)]
struct Methods {
    show: fn(&Opaque, &mut fmt::Formatter<'_>) -> fmt::Result,
    cause: fn(&Opaque) -> Option<&(dyn StdError + 'static)>,
}

fn show<E: LoaderError<Kind>, Kind>(error: &Opaque, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    error.downcast_ref::<E>().map_or(Ok(()), |error| error.show(f))
}

fn cause<E: LoaderError<Kind>, Kind>(error: &Opaque) -> Option<&(dyn StdError + 'static)> {
    error.downcast_ref::<E>()?.cause()
}

impl Thrown {
    pub(super) fn new<E: LoaderError<Kind>, Kind>(error: E) -> Self {
        Self { error: Arc::new(error), methods: Methods { show: show::<E, Kind>, cause: cause::<E, Kind> } }
    }

    /// Returns the error as an `E`, if it is one.
    pub(super) fn of<E: Send + Sync + 'static>(self) -> Result<LoaderFailure<E>, Foreign> {
        let Self { error, methods } = self;
        match error.downcast() {
            Ok(error) => Ok(LoaderFailure { error, methods, loader: PhantomData }),
            Err(error) => Err(Foreign(Self { error, methods })),
        }
    }
}

/// The error that a loader failed with, shared by all callers that waited for it. [Derefs](Deref) to the error.
pub struct LoaderFailure<E> {
    error: Arc<E>,
    methods: Methods,
    loader: PhantomData<fn() -> E>,
}

impl<E: Send + Sync + 'static> LoaderFailure<E> {
    pub(super) fn new<Kind>(error: E) -> Self
    where
        E: LoaderError<Kind>,
    {
        let methods = Methods { show: show::<E, Kind>, cause: cause::<E, Kind> };
        Self { error: Arc::new(error), methods, loader: PhantomData }
    }

    /// Returns the error itself, shared.
    #[must_use]
    pub fn shared(&self) -> Arc<E> {
        self.error.clone()
    }

    /// Returns the error's `source`, unless the error's own text already shows it.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        (self.methods.cause)(&*self.error)
    }
}

impl<E> Deref for LoaderFailure<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.error
    }
}

impl<E> Clone for LoaderFailure<E> {
    fn clone(&self) -> Self {
        Self { error: self.error.clone(), methods: self.methods, loader: PhantomData }
    }
}

impl<E: Debug> Debug for LoaderFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: Send + Sync + 'static> Display for LoaderFailure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.methods.show)(&*self.error, f)
    }
}

/// The error of another caller's loader, whose type differs from this caller's. Display it, or downcast it to a type.
///
/// ```
/// # fn show(error: larder::LoadError<std::io::Error>) {
/// if let larder::LoadError::Foreign(error) = error {
///     println!("another caller's loader failed: {error}");
///     if let Some(parse) = error.downcast_ref::<std::num::ParseIntError>() {
///         println!("it could not parse: {parse}");
///     }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Foreign(Thrown);

impl Foreign {
    /// Returns the error as a `T`, if it is one.
    #[must_use]
    pub fn downcast_ref<T: Any>(&self) -> Option<&T> {
        self.0.error.downcast_ref()
    }

    /// Returns the error's `source`, unless the error's own text already shows it.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        (self.0.methods.cause)(&*self.0.error)
    }
}

impl Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0.methods.show)(&*self.0.error, f)
    }
}

impl Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Foreign({self})")
    }
}
