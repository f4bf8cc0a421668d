//! What the attribute needs to know of the function: its receiver, its arguments, and what it returns.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::{
    Error, FnArg, GenericArgument, ItemFn, Pat, PatType, PathArguments, Receiver, ReceiverKind, Result,
    ReturnType, Safety, Type, TypeReference,
};

use crate::mentions::mentions;

/// How a function takes `self`.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Own {
    /// `&self`, or `self: &Arc<Self>`.
    Borrowed,
    /// `self`, or `self: Arc<Self>`.
    Moved,
}

/// An argument other than `self`.
pub(crate) struct Argument {
    pub(crate) name: Ident,
    pub(crate) written: PatType,
    /// What a reference refers to. `None` for an argument by value, and for a `'static` reference, which is copied.
    pub(crate) referent: Option<Type>,
}

/// The parts of the function.
pub(crate) struct Signature {
    pub(crate) receiver: Option<Own>,
    pub(crate) arguments: Vec<Argument>,
    /// What the body gives if it succeeds, and what it fails with.
    pub(crate) value: Type,
    pub(crate) error: Type,
}

/// `error` is the option of that name.
pub(crate) fn read(function: &ItemFn, error: Option<&Type>) -> Result<Signature> {
    let sig = &function.sig;
    if sig.asyncness.is_none() {
        return Err(Error::new_spanned(sig.fn_token, "only an `async fn` can be cached: write `async fn`"));
    }
    if !matches!(sig.safety, Safety::Default) {
        return Err(Error::new_spanned(
            &sig.safety,
            "an `unsafe fn` cannot be cached: cache a safe one that calls it",
        ));
    }
    // An attribute above this one expands first. What tracing's makes of the body has no place in the source, so the
    // compiler could not say where the mistake is.
    if mentions(function.block.to_token_stream(), &format_ident!("__tracing_attr_fake_return")) {
        return Err(Error::new_spanned(
            &sig.ident,
            "`#[tracing::instrument]` has changed the body already: put it below `#[larder::cached]`",
        ));
    }
    let receiver = sig.receiver().map(own).transpose()?;
    let typed = sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(argument(typed)),
        FnArg::Receiver(_) => None,
    });
    let arguments = typed.collect::<Result<Vec<_>>>()?;
    let (value, error) = returned(function, error)?;
    Ok(Signature { receiver, arguments, value, error })
}

fn own(receiver: &Receiver) -> Result<Own> {
    let advice = "a load runs in a task of its own and cannot borrow mutably: take `&self`";
    match &receiver.kind {
        ReceiverKind::Value => Ok(Own::Moved),
        ReceiverKind::Reference(_, _, None) => Ok(Own::Borrowed),
        ReceiverKind::Typed(_, ty) => match &**ty {
            Type::Reference(reference) if reference.mutability.is_some() => {
                Err(Error::new_spanned(receiver, advice))
            }
            Type::Reference(_) => Ok(Own::Borrowed),
            _ => Ok(Own::Moved),
        },
        _ => Err(Error::new_spanned(receiver, advice)),
    }
}

fn argument(written: &PatType) -> Result<Argument> {
    let name = match &*written.pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => pat.ident.clone(),
        pattern => {
            return Err(Error::new_spanned(
                pattern,
                "give the argument a name, and take it apart in the body: `pair: (u32, u32)`",
            ));
        }
    };
    let referent = match &*written.ty {
        Type::Reference(reference) => referent(&name, reference)?,
        Type::ImplTrait(ty) => {
            return Err(Error::new_spanned(
                ty,
                format!("name the type of `{name}`: `fn f<T: …>(…, {name}: T)`, with `T: Send + 'static`"),
            ));
        }
        ty => {
            owned(ty, |at| {
                Error::new_spanned(
                    at,
                    format!(
                        "`{name}` holds a borrow, which a load cannot keep: take an owned type, or a reference to one"
                    ),
                )
            })?;
            None
        }
    };
    // The attribute's own functions need no `mut`; the body's function keeps it.
    let mut written = written.clone();
    if let Pat::Ident(pat) = &mut *written.pat {
        pat.mutability = None;
    }
    Ok(Argument { name, written, referent })
}

/// What a reference refers to, if it has to be cloned for a load.
fn referent(name: &Ident, reference: &TypeReference) -> Result<Option<Type>> {
    if reference.mutability.is_some() {
        return Err(Error::new_spanned(
            reference,
            format!("a load cannot borrow mutably: take `{name}` by value, or `&` and a lock"),
        ));
    }
    if reference.lifetime.as_ref().is_some_and(|lifetime| lifetime.ident == "static") {
        return Ok(None);
    }
    if let Type::TraitObject(object) = &*reference.elem {
        return Err(Error::new_spanned(
            object,
            format!("a load needs a clone of `{name}`, and a `dyn` type has none: take `Arc<dyn …>`"),
        ));
    }
    if let Type::ImplTrait(ty) = &*reference.elem {
        return Err(Error::new_spanned(
            ty,
            format!(
                "name the type of `{name}`: `fn f<T: …>(…, {name}: &T)`, with `T: Clone + Send + Sync + 'static`"
            ),
        ));
    }
    owned(&reference.elem, |at| {
        Error::new_spanned(
            at,
            format!("`{name}` refers to a type that borrows, which a load cannot keep: take an owned type"),
        )
    })?;
    Ok(Some((*reference.elem).clone()))
}

/// Refuses a type that holds a reference or a lifetime other than `'static`.
fn owned(ty: &Type, refuse: impl Fn(&Type) -> Error) -> Result<()> {
    if borrows(ty.to_token_stream()) { Err(refuse(ty)) } else { Ok(()) }
}

fn borrows(tokens: TokenStream) -> bool {
    let mut tokens = tokens.into_iter().peekable();
    // What is in the parentheses after a name are the arguments of `Fn(…)` or `fn(…)`, which the type does not hold.
    let mut after_name = false;
    while let Some(token) = tokens.next() {
        let next = tokens.peek().map(ToString::to_string).unwrap_or_default();
        if matches!(&token, TokenTree::Ident(ident) if ident == "for") && next == "<" {
            // `for<'a>` makes lifetimes of its own, which the type does not hold.
            tokens.by_ref().find(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == '>'));
            after_name = false;
            continue;
        }
        match &token {
            TokenTree::Group(group) if !after_name && borrows(group.stream()) => return true,
            TokenTree::Punct(punct) if punct.as_char() == '&' && next != "'" => return true,
            TokenTree::Punct(punct) if punct.as_char() == '\'' && next != "static" => return true,
            _ => {}
        }
        after_name = matches!(token, TokenTree::Ident(_));
    }
    false
}

/// The types of the value and of the body's error.
fn returned(function: &ItemFn, error: Option<&Type>) -> Result<(Type, Type)> {
    let ReturnType::Type(_, ty) = &function.sig.output else {
        return Err(Error::new_spanned(
            &function.sig.ident,
            "a load can fail, and so must the function: write `-> Result<T, LoadError<E>>`",
        ));
    };
    // The type has to be a `Result`, or an alias whose name ends so.
    let arguments = match last_segment(ty) {
        Some((name, arguments)) if name.to_string().ends_with("Result") => arguments,
        _ => {
            return Err(Error::new_spanned(
                ty,
                format!(
                    "a load can fail, and so must the function: write `-> Result<{}, LoadError<E>>`",
                    quote!(#ty)
                ),
            ));
        }
    };
    let (value, failure) = match arguments.as_slice() {
        [value] => (value, None),
        [value, failure] => (value, Some(failure)),
        _ => {
            return Err(Error::new_spanned(
                ty,
                "name the type of the value: `Result<T, LoadError<E>>`, or an alias with `T` as its first argument",
            ));
        }
    };
    // The value has to be an owned type that has a name.
    if let Type::ImplTrait(found) = value {
        return Err(Error::new_spanned(
            found,
            "name the type of the value: the cache has to store and read it",
        ));
    }
    owned(value, |at| {
        Error::new_spanned(
            at,
            "a cached value outlives the call: return an owned type, such as `String` or `Arc<T>`",
        )
    })?;
    // The body's error: from the option `error`, or from `LoadError<E>`.
    if let Some(error) = error {
        return Ok((value.clone(), error.clone()));
    }
    let loader = failure.and_then(last_segment).filter(|(name, _)| name == "LoadError");
    match loader.as_ref().map(|(_, arguments)| arguments.as_slice()) {
        Some([error]) => Ok((value.clone(), error.clone())),
        _ => Err(Error::new_spanned(
            failure.unwrap_or(ty),
            "a cached function fails with `LoadError<E>`, where `E` is the body's error: return that, or say which \
             type the body fails with, `error = E`, and implement `From<LoadError<E>>` for what you return",
        )),
    }
}

/// The last name of a path, and its type arguments.
fn last_segment(ty: &Type) -> Option<(Ident, Vec<Type>)> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let arguments = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => arguments.args.iter().collect(),
        _ => Vec::new(),
    };
    let types = arguments.into_iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty.clone()),
        _ => None,
    });
    Some((last.ident.clone(), types.collect()))
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn a_type_that_borrows_differs_from_one_that_is_given_borrows() {
        let borrowing: [Type; 6] = [
            parse_quote!(Option<&str>),
            parse_quote!(Cow<'_, str>),
            parse_quote!(Row<'a>),
            parse_quote!(Vec<(u32, &'a str)>),
            parse_quote!((&str, u32)),
            parse_quote!((fn(&u32), Box<dyn for<'a> Fn(&'a str) + 'b>)),
        ];
        for ty in borrowing {
            assert!(owned(&ty, |ty| Error::new_spanned(ty, "")).is_err(), "{}", quote!(#ty));
        }
        let owning: [Type; 6] = [
            parse_quote!(Option<&'static str>),
            parse_quote!(Cow<'static, str>),
            parse_quote!(Arc<dyn Fn(&str) -> bool + Send + Sync>),
            parse_quote!((String, fn(&u32))),
            parse_quote!(Arc<dyn for<'a> Fn(&'a str) -> bool + Send + Sync>),
            parse_quote!((String, for<'a, 'b> fn(&'a u32, &'b u32))),
        ];
        for ty in owning {
            assert!(owned(&ty, |ty| Error::new_spanned(ty, "")).is_ok(), "{}", quote!(#ty));
        }
    }
}
