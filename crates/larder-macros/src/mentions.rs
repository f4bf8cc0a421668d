//! Which names an expression mentions.

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::ext::IdentExt;

/// Whether `name` occurs in `tokens`: as a word, or in braces in a text, as in `format!("page:{name}")`.
/// `r#name` and `name` are the same name, and a text can only hold the latter.
///
/// A word may be a field or a method of that name and have nothing to do with the argument. Both users of this
/// function can live with one name too many.
pub(crate) fn mentions(tokens: TokenStream, name: &Ident) -> bool {
    let word = name.unraw().to_string();
    any(tokens, &|token| match token {
        TokenTree::Ident(ident) => ident.unraw() == word,
        TokenTree::Literal(literal) => is_inlined(&literal.to_string(), &word),
        _ => false,
    })
}

fn any(tokens: TokenStream, holds: &dyn Fn(&TokenTree) -> bool) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => any(group.stream(), holds),
        token => holds(&token),
    })
}

/// Whether a text holds `{word}` or `{word:…}`, or `word$` as a width or a precision.
fn is_inlined(text: &str, word: &str) -> bool {
    // A brace may also be in the braces, to fill with, so that each one counts.
    text.match_indices('{').filter_map(|(at, brace)| text.get(at + brace.len()..)).any(|rest| {
        let inside = rest.split('}').next().unwrap_or_default();
        let (name, spec) = inside.split_once(':').unwrap_or((inside, ""));
        name.trim() == word || spec.rsplit('$').skip(1).any(|before| last_name(before) == word)
    })
}

/// The name that a piece of a format ends with: `width` of `>width`, of `.width`, and of `0width`, where `0` is a flag.
fn last_name(piece: &str) -> &str {
    let before = piece.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_');
    piece.get(before.len()..).unwrap_or_default().trim_start_matches(|c: char| c.is_ascii_digit())
}

/// Replaces `self`, which a loader cannot borrow, by the clone that it owns.
pub(crate) fn with_this(tokens: TokenStream, this: &Ident) -> TokenStream {
    let replaced = tokens.into_iter().map(|token| match token {
        TokenTree::Ident(ident) if ident == "self" => TokenTree::Ident(this.clone()),
        TokenTree::Group(group) => {
            let mut inner = proc_macro2::Group::new(group.delimiter(), with_this(group.stream(), this));
            inner.set_span(group.span());
            TokenTree::Group(inner)
        }
        token => token,
    });
    replaced.collect()
}

#[cfg(test)]
mod tests {
    use quote::{format_ident, quote};

    use super::*;

    #[test]
    fn a_name_is_found_as_a_word_and_in_the_braces_of_a_text() {
        let id = format_ident!("id");
        for holds in [quote!(id), quote!((lang, [id])), quote!(format!("{id}")), quote!(format!("{id:>3}"))] {
            assert!(mentions(holds.clone(), &id), "{holds}");
        }
        for lacks in [quote!(ids), quote!("id"), quote!(format!("{idx}")), quote!(lang)] {
            assert!(!mentions(lacks.clone(), &id), "{lacks}");
        }
    }

    #[test]
    fn a_raw_name_is_found_with_and_without_its_prefix() {
        let kind = format_ident!("r#type");
        for holds in [quote!(r#type), quote!(format!("{type}")), quote!(format!(r#"{type:?}"#))] {
            assert!(mentions(holds.clone(), &kind), "{holds}");
        }
        assert!(mentions(quote!(r#id), &format_ident!("id")));
        assert!(mentions(quote!(id), &format_ident!("r#id")));
        assert!(!mentions(quote!(format!("{types}")), &kind));
    }

    #[test]
    fn a_width_and_a_precision_are_found() {
        let w = format_ident!("w");
        for holds in ["{:w$}", "{id:>w$}", "{id:0w$}", "{id:#w$x}", "{id:.w$}", "{id:w$.p$}", "{id:p$.w$}"] {
            assert!(mentions(quote!(format!(#holds)), &w), "{holds}");
        }
        for holds in ["{a} {id:{<w$}", "{id:$>w$}", "{id::>w$}", "{id:é>w$}", "{{{id:w$}"] {
            assert!(mentions(quote!(format!(#holds)), &w), "{holds}");
        }
        for lacks in ["{id:w<3}", "{id:ww$}", "{id:_w$}", "{id:3}w$", "w$ {id}", "{id:1$}", "{id:é>3}"] {
            assert!(!mentions(quote!(format!(#lacks)), &w), "{lacks}");
        }
    }

    #[test]
    fn self_becomes_the_clone_wherever_it_is() {
        let this = format_ident!("this");
        let replaced = with_this(quote!(|page| (self.is_public)(page)), &this);
        assert_eq!(replaced.to_string(), quote!(|page| (this.is_public)(page)).to_string());
    }
}
