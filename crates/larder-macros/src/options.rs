//! The options of the attribute.

use proc_macro2::{Ident, Span};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Expr, Lit, Result, Token, Type};

use crate::hints::instead_of;

/// The options as they were written.
#[derive(Default)]
pub(crate) struct Options {
    cache: Option<Expr>,
    key: Option<Expr>,
    pub(crate) ttl: Option<Expr>,
    pub(crate) tags: Option<Expr>,
    pub(crate) tags_of: Option<Expr>,
    pub(crate) store_if: Option<Expr>,
    pub(crate) refresh_if: Option<Expr>,
    pub(crate) error: Option<Type>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let name: Ident = input
                .parse()
                .map_err(|error| Error::new(error.span(), "write each option as `name = value`"))?;
            if !input.peek(Token![=]) {
                let text = match name.to_string().as_str() {
                    known if crate::hints::OPTIONS.contains(&known) => {
                        format!("`{known}` has no value: write `{known} = …`")
                    }
                    other => instead_of(other),
                };
                return Err(Error::new(name.span(), text));
            }
            input.parse::<Token![=]>()?;
            options.set(&name, input)?;
            if !input.is_empty() {
                input.parse::<Token![,]>().map_err(|error| {
                    Error::new(
                        error.span(),
                        "write a comma between two options, and parentheses around a tuple",
                    )
                })?;
            }
        }
        Ok(options)
    }
}

impl Options {
    fn set(&mut self, name: &Ident, input: ParseStream<'_>) -> Result<()> {
        let place = match name.to_string().as_str() {
            "cache" => &mut self.cache,
            "key" => &mut self.key,
            "ttl" => &mut self.ttl,
            "tags" => &mut self.tags,
            "tags_of" => &mut self.tags_of,
            "store_if" => &mut self.store_if,
            "refresh_if" => &mut self.refresh_if,
            "error" => {
                once(name, self.error.is_some())?;
                let found = input.parse().map_err(|error: Error| {
                    Error::new(
                        error.span(),
                        "`error` is the type that the body fails with: `error = DbError`",
                    )
                })?;
                self.error = Some(found);
                return Ok(());
            }
            other => return Err(Error::new(name.span(), instead_of(other))),
        };
        once(name, place.is_some())?;
        let value: Expr = input.parse()?;
        check(name, &value)?;
        *place = Some(value);
        Ok(())
    }

    /// All expressions that were given.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Expr> {
        let Self { cache, key, ttl, tags, tags_of, store_if, refresh_if, error: _ } = self;
        [cache, key, ttl, tags, tags_of, store_if, refresh_if].into_iter().flatten()
    }

    pub(crate) fn cache(&self) -> Result<&Expr> {
        self.cache.as_ref().ok_or_else(|| {
            Error::new(
                Span::call_site(),
                "say which `Cache` holds the values: `cache = self.products`, or an argument of the function",
            )
        })
    }

    /// The key. `names` are the arguments that it could be made of.
    pub(crate) fn key(&self, names: &[&Ident]) -> Result<&Expr> {
        self.key.as_ref().ok_or_else(|| {
            let example = match names {
                [] => "\"all\"".to_owned(),
                [one] => one.to_string(),
                several => {
                    let names: Vec<_> = several.iter().map(ToString::to_string).collect();
                    format!("({})", names.join(", "))
                }
            };
            Error::new(
                Span::call_site(),
                format!("say which key a value is stored under, as an expression of the arguments: `key = {example}`"),
            )
        })
    }
}

fn once(name: &Ident, is_set: bool) -> Result<()> {
    match is_set {
        true => Err(Error::new(name.span(), format!("`{name}` is given twice: leave one out"))),
        false => Ok(()),
    }
}

/// Refuses what a look at the expression shows to be wrong.
fn check(name: &Ident, value: &Expr) -> Result<()> {
    let literal = match value {
        Expr::Lit(literal) => Some(&literal.lit),
        _ => None,
    };
    let advice = match (name.to_string().as_str(), literal, value) {
        ("cache", Some(_), _) => {
            "`cache` is an expression for a `Cache<V>`: write `cache = self.products`".to_owned()
        }
        ("ttl", Some(Lit::Int(seconds)), _) => {
            format!("`ttl` is a `Duration`: write `ttl = Duration::from_secs({seconds})`")
        }
        ("ttl", Some(_), _) => "`ttl` is a `Duration`: write `ttl = Duration::from_secs(60)`".to_owned(),
        ("tags", Some(text), _) => {
            format!("`tags` is a list: write `tags = [{}]`", text.to_token_stream())
        }
        ("tags", None, Expr::Closure(_)) => {
            "`tags` depends on the arguments only: write `tags_of = |value| …` for tags of the value"
                .to_owned()
        }
        ("store_if" | "tags_of", _, Expr::Closure(closure)) if closure.inputs.len() == 1 => return Ok(()),
        ("store_if" | "tags_of", _, Expr::Path(_)) => return Ok(()),
        ("store_if" | "tags_of", ..) => {
            format!("`{name}` is asked with a reference to the value: write `{name} = |value| …`")
        }
        ("refresh_if", _, Expr::Closure(_)) => {
            "`refresh_if` is a condition on the arguments, not on the value: write `refresh_if = preview`"
                .to_owned()
        }
        ("key", _, Expr::Closure(_)) => {
            "`key` is an expression of the arguments, not a closure: write `key = (a, b)`".to_owned()
        }
        _ => return Ok(()),
    };
    Err(Error::new_spanned(value, advice))
}
