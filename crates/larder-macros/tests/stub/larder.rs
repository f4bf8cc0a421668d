//! Types under the names of larder's, so that the cases build without larder, in seconds.
#![allow(dead_code, unused_imports)]

pub use larder_macros::cached;

#[derive(Clone)]
pub struct Cache<V>(V);

pub struct LoadError<E>(E);
