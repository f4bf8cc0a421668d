//! The expansion: the cached function here, and its companions in [`companions`](crate::companions).

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Error, Expr, FnArg, ItemFn, ItemImpl, Result, TraitItemFn};

use crate::mentions::{mentions, with_this};
use crate::options::Options;
use crate::signature::{Argument, Own, Signature, read};

/// Expands the attribute. After a mistake the function itself stays, so that its callers give no further errors.
pub(crate) fn cached(options: TokenStream, item: TokenStream) -> TokenStream {
    expand(options, item.clone()).unwrap_or_else(|error| {
        let error = error.into_compile_error();
        quote!(#error #item)
    })
}

fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item.clone()).map_err(|_| not_a_function(&item))?;
    let options: Options = syn::parse2(options)?;
    let signature = read(&function, options.error.as_ref())?;
    let cache = options.cache()?;
    let names = signature.arguments.iter().map(|argument| &argument.name);
    let names: Vec<_> = names.filter(|name| !mentions(cache.to_token_stream(), name)).collect();
    let key = options.key(&names)?;
    let parts = Parts { function: &function, options: &options, signature: &signature, cache, key };
    let (cached, key, uncached) = (parts.cached(), parts.key(), parts.uncached());
    Ok(quote!(#cached #key #uncached))
}

fn not_a_function(item: &TokenStream) -> Error {
    let text = if syn::parse2::<ItemImpl>(item.clone()).is_ok() {
        "`#[cached]` is for one function: put it on each method, not on the `impl`"
    } else if syn::parse2::<TraitItemFn>(item.clone()).is_ok() {
        "`#[cached]` needs the function's body: put it on a method of the type, and call that from the trait's"
    } else {
        "`#[cached]` is for an `async fn` with a body"
    };
    Error::new_spanned(item, text)
}

pub(crate) struct Parts<'a> {
    pub(crate) function: &'a ItemFn,
    pub(crate) options: &'a Options,
    pub(crate) signature: &'a Signature,
    cache: &'a Expr,
    pub(crate) key: &'a Expr,
}

impl Parts<'_> {
    /// The function as it was written, with a body that asks the cache.
    fn cached(&self) -> TokenStream {
        let options = self.options;
        let (cache, key, loader) = (as_receiver(self.cache), by_reference(self.key), self.loader());
        // The loader gets its context only where it is needed: the context lets it name tags, which costs.
        let with_context = options.tags_of.is_some() || options.store_if.is_some();
        let load = if with_context { "get_or_load_lazy_with" } else { "get_or_load_lazy" };
        let load = Ident::new(load, Span::call_site());
        let settings = self.settings();
        let setup = if settings.is_empty() { quote!(_) } else { local("setup").into_token_stream() };
        let refresh = options.refresh_if.as_ref().map(|condition| quote!(.refresh_if(#condition)));
        let convert = options.error.as_ref().map(|_| quote!(.map_err(::core::convert::From::from)));

        let clones = self.clones();
        let attributes = self.function.attrs.iter().filter(|attribute| !attribute.path().is_ident("expect"));
        let (vis, mut sig) = (&self.function.vis, self.function.sig.clone());
        let mut arguments = self.signature.arguments.iter();
        for input in &mut sig.inputs {
            match input {
                FnArg::Receiver(receiver) => receiver.mutability = None,
                FnArg::Typed(typed) => {
                    if let Some(argument) = arguments.next() {
                        *typed = argument.written.clone();
                    }
                }
            }
        }
        quote! {
            #(#attributes)*
            #vis #sig {
                #cache.#load(#key, |#setup| {
                    #settings
                    #clones
                    #loader
                })
                #refresh
                .await
                #convert
            }
        }
    }

    /// What the call says of the value before it is loaded.
    fn settings(&self) -> TokenStream {
        let setup = local("setup");
        let ttl = self.options.ttl.as_ref().map(|ttl| quote!(#setup.ttl(#ttl);));
        let tags = self.options.tags.as_ref().map(|tags| quote!(#setup.tags(#tags);));
        quote!(#ttl #tags)
    }

    /// The clones that the loader owns, made on a miss.
    fn clones(&self) -> TokenStream {
        let this = self.receiver().map(|(own, receiver)| {
            let this = local("this");
            let borrow = (own == Own::Moved).then(|| quote!(&));
            quote!(let #this = ::core::clone::Clone::clone(#borrow #receiver);)
        });
        let arguments = self.signature.arguments.iter().filter_map(|argument| {
            let name = &argument.name;
            if argument.referent.is_some() {
                Some(quote!(let #name = ::std::borrow::ToOwned::to_owned(#name);))
            } else if self.is_borrowed(name) {
                Some(quote!(let #name = ::core::clone::Clone::clone(&#name);))
            } else {
                None
            }
        });
        quote!(#this #(#arguments)*)
    }

    /// Whether an argument by value is still borrowed by the call when the loader is made.
    fn is_borrowed(&self, name: &Ident) -> bool {
        let refresh = self.options.refresh_if.to_token_stream();
        [self.key.to_token_stream(), self.cache.to_token_stream(), refresh]
            .into_iter()
            .any(|tokens| mentions(tokens, name))
    }

    /// The loader: it calls the body's function, with references to what it owns.
    fn loader(&self) -> TokenStream {
        let Signature { arguments, value, error, .. } = self.signature;
        let (cx, result) = (local("cx"), local("value"));
        let borrows = arguments.iter().filter_map(|Argument { name, referent, .. }| {
            let referent = referent.as_ref()?;
            Some(quote!(let #name: &#referent = &#name;))
        });
        let this = local("this");
        let after = |option: &Option<Expr>, method: &str| {
            let (closure, method) = (option.as_ref()?, Ident::new(method, Span::call_site()));
            let closure = with_this(closure.to_token_stream(), &this);
            Some(quote!(#cx.#method(&#result, #closure);))
        };
        let store_if = after(&self.options.store_if, "store_if");
        let tags_of = after(&self.options.tags_of, "tags_of");
        let call = self.call();
        if store_if.is_none() && tags_of.is_none() {
            return quote! {
                move || async move {
                    #(#borrows)*
                    #call.await
                }
            };
        }
        quote! {
            move |#cx| async move {
                #(#borrows)*
                let #result = #call.await?;
                #store_if
                #tags_of
                ::core::result::Result::<#value, #error>::Ok(#result)
            }
        }
    }

    /// The call of the body's function.
    fn call(&self) -> TokenStream {
        let name = self.name("uncached");
        let later = [&self.options.store_if, &self.options.tags_of];
        let arguments = self.signature.arguments.iter().map(|Argument { name, referent, .. }| {
            let used_later = later.iter().any(|option| mentions(option.to_token_stream(), name));
            match referent {
                None if used_later => quote!(::core::clone::Clone::clone(&#name)),
                _ => name.to_token_stream(),
            }
        });
        let this = self.receiver().map(|(own, _)| {
            let (this, borrow) = (local("this"), (own == Own::Borrowed).then(|| quote!(&)));
            // A moved receiver may be asked once more, by `store_if` or `tags_of`.
            let used_later =
                later.iter().any(|option| mentions(option.to_token_stream(), &format_ident!("self")));
            match own {
                Own::Moved if used_later => quote!(::core::clone::Clone::clone(&#this),),
                _ => quote!(#borrow #this,),
            }
        });
        let path = if self.is_associated() { quote!(Self::#name) } else { name.to_token_stream() };
        quote!(#path(#this #(#arguments),*))
    }

    /// Whether the function belongs to a type. One without `self` says so by naming `Self`.
    fn is_associated(&self) -> bool {
        let own_type = format_ident!("Self");
        self.signature.receiver.is_some()
            || mentions(self.function.to_token_stream(), &own_type)
            || [self.cache, self.key].into_iter().any(|option| mentions(option.to_token_stream(), &own_type))
    }

    pub(crate) fn attributes(&self, names: &[&str]) -> Vec<&Attribute> {
        let attributes = self.function.attrs.iter();
        attributes.filter(|attribute| names.iter().any(|name| attribute.path().is_ident(name))).collect()
    }

    /// How `self` is taken, and the word itself, which only the function's own tokens can stand for.
    pub(crate) fn receiver(&self) -> Option<(Own, TokenStream)> {
        let own = self.signature.receiver?;
        Some((own, self.function.sig.receiver()?.self_token.to_token_stream()))
    }

    pub(crate) fn name(&self, suffix: &str) -> Ident {
        let name = &self.function.sig.ident;
        Ident::new(&format!("{}_{suffix}", name.to_string().trim_start_matches("r#")), name.span())
    }

    pub(crate) fn link(&self) -> String {
        let name = &self.function.sig.ident;
        if self.is_associated() { format!("Self::{name}") } else { name.to_string() }
    }
}

/// The name of a local variable that no name of the function can collide with.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}

/// An expression that a method can be called on.
fn as_receiver(cache: &Expr) -> TokenStream {
    match cache {
        Expr::Path(_) | Expr::Field(_) | Expr::Call(_) | Expr::MethodCall(_) | Expr::Paren(_) => {
            cache.to_token_stream()
        }
        _ => quote!((#cache)),
    }
}

/// The key as a reference, which moves none of the arguments that it names.
pub(crate) fn by_reference(key: &Expr) -> TokenStream {
    match key {
        Expr::Tuple(tuple) => {
            let parts = tuple.elems.iter().map(|part| match part {
                Expr::Path(_) | Expr::Field(_) => quote!(&#part),
                part => part.to_token_stream(),
            });
            quote!((#(#parts,)*))
        }
        Expr::Reference(_) | Expr::Lit(_) => key.to_token_stream(),
        Expr::Path(_) | Expr::Field(_) | Expr::MethodCall(_) | Expr::Call(_) | Expr::Macro(_) => {
            quote!(&#key)
        }
        _ => quote!(&(#key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example and its expansion, from the attribute's documentation.
    const PAGE: &str = include_str!("../../larder/src/doc/cached.md");

    fn block(heading: &str) -> String {
        let after = PAGE.split_once(heading).map(|(_, after)| after).unwrap_or_default();
        let fenced = after.split("```").nth(1).unwrap_or_default();
        let code = fenced.split_once('\n').map(|(_, code)| code).unwrap_or_default();
        code.lines().filter(|line| !line.starts_with("# ")).collect::<Vec<_>>().join("\n")
    }

    /// The tokens without the spaces, which depend on where a token is from.
    fn tokens(code: &TokenStream) -> String {
        code.to_string().split_whitespace().collect()
    }

    #[test]
    fn the_expansion_in_the_documentation_is_the_real_one_and_short() {
        let written = block("<!-- written -->");
        let (attribute, item) = written.split_once(")]\n").unwrap_or_default();
        let options = attribute.trim().trim_start_matches("#[larder::cached(");
        let expanded = cached(options.parse().unwrap_or_default(), item.parse().unwrap_or_default());
        let shown = block("<!-- expanded -->");
        assert!(!shown.is_empty() && shown.lines().count() <= 25, "{} lines", shown.lines().count());
        assert_eq!(tokens(&expanded), tokens(&shown.parse().unwrap_or_default()));
    }

    #[test]
    fn the_function_stays_after_a_mistake() {
        let expanded = cached(
            quote!(chace = self.users),
            quote!(
                async fn user(&self) -> Result<u32, E> {
                    body()
                }
            ),
        );
        let expanded = expanded.to_string();
        assert!(expanded.contains("compile_error"), "{expanded}");
        assert!(
            expanded.ends_with(
                &quote!(
                    async fn user(&self) -> Result<u32, E> {
                        body()
                    }
                )
                .to_string()
            )
        );
    }
}
