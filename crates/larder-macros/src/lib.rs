//! The attribute `#[larder::cached]`, which larder re-exports and documents.
//!
//! The attribute reads its options (`options`) and the function's signature (`signature`), and writes three
//! functions (`expand` and `companions`). A mistake that it can name is an error at the place of the mistake, with
//! what to write instead; everything else is left to the compiler, which sees the types.

mod companions;
mod expand;
mod hints;
mod mentions;
mod options;
mod signature;

use proc_macro::TokenStream;

/// Caches the results of an `async fn` in a `larder::Cache`. Documented in larder, which re-exports it.
#[proc_macro_attribute]
pub fn cached(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::cached(options.into(), item.into()).into()
}
