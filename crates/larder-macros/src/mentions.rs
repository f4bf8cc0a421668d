//! Which names an expression mentions.

use proc_macro2::{Ident, TokenStream, TokenTree};

/// Whether `name` occurs in `tokens`: as a word, or in braces in a text, as in `format!("page:{name}")`.
///
/// A word may be a field or a method of that name and have nothing to do with the argument. Both users of this
/// function can live with one name too many.
pub(crate) fn mentions(tokens: TokenStream, name: &Ident) -> bool {
    let word = name.to_string();
    any(tokens, &|token| match token {
        TokenTree::Ident(ident) => *ident == word,
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

/// Whether a text holds `{word}` or `{word:…}`.
fn is_inlined(text: &str, word: &str) -> bool {
    text.split('{')
        .skip(1)
        .any(|part| part.strip_prefix(word).is_some_and(|rest| rest.trim_start().starts_with(['}', ':'])))
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
    fn self_becomes_the_clone_wherever_it_is() {
        let this = format_ident!("this");
        let replaced = with_this(quote!(|page| (self.is_public)(page)), &this);
        assert_eq!(replaced.to_string(), quote!(|page| (this.is_public)(page)).to_string());
    }
}
