//! The functions beside the cached one: `name_key` and `name_uncached`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{GenericParam, Generics, ReturnType, Type, parse_quote};

use crate::expand::{Parts, by_reference};
use crate::mentions::mentions;
use crate::signature::Signature;

impl Parts<'_> {
    /// `name_key`: the key of a call, for `delete` and the like.
    pub(crate) fn key(&self) -> TokenStream {
        let (name, vis, key) = (self.name("key"), &self.function.vis, by_reference(self.key));
        let cfgs = self.attributes(&["cfg", "cfg_attr"]);
        let is_generic =
            self.function.sig.generics.params.iter().any(|p| !matches!(p, GenericParam::Lifetime(_)));
        let used = self.signature.arguments.iter().filter(|argument| {
            // A type parameter has to be inferred from the arguments, so a generic function takes them all.
            is_generic || mentions(self.key.to_token_stream(), &argument.name)
        });
        let arguments: Vec<_> = used.collect();
        let unused = arguments.iter().map(|argument| &argument.name);
        let unused = is_generic.then(|| quote!(let _ = (#(&#unused,)*);));
        let written = arguments.iter().map(|argument| &argument.written);
        let this = self.receiver().map(|(_, this)| quote!(&#this,));
        let (generics, bounds) = self.generics(is_generic);
        let doc =
            format!("Returns the key that [`{0}`]({1}) stores under.", self.function.sig.ident, self.link());
        quote! {
            #[doc = #doc]
            #(#cfgs)*
            #[allow(dead_code, unused_variables, clippy::all, clippy::pedantic)]
            #vis fn #name #generics (#this #(#written),*) -> ::larder::OwnedKey #bounds {
                #unused
                ::larder::OwnedKey::new(#key)
            }
        }
    }

    /// `name_uncached`: the body alone.
    pub(crate) fn uncached(&self) -> TokenStream {
        let lints = self.attributes(&["cfg", "cfg_attr", "allow", "expect", "warn", "deny", "forbid"]);
        let Signature { value, error, .. } = self.signature;
        let mut sig = self.function.sig.clone();
        sig.ident = self.name("uncached");
        sig.output = uncached_output(&self.function.sig.output, value, error);
        let (vis, statements) = (&self.function.vis, &self.function.block.stmts);
        let only_named = self.named_by_options_alone();
        let doc =
            format!("Does the work of [`{0}`]({1}) without the cache.", self.function.sig.ident, self.link());
        quote! {
            #[doc = #doc]
            #(#lints)*
            #[allow(dead_code)]
            #vis #sig {
                #only_named
                #(#statements)*
            }
        }
    }

    /// Uses the arguments that only the options name, which would be unused in the body.
    fn named_by_options_alone(&self) -> Option<TokenStream> {
        let body = &self.function.block;
        let names = self.signature.arguments.iter().map(|argument| &argument.name);
        let names: Vec<_> = names
            .filter(|name| {
                let named = self.options.all().any(|option| mentions(option.to_token_stream(), name));
                named && !mentions(body.to_token_stream(), name)
            })
            .collect();
        (!names.is_empty()).then(|| quote!(let _ = (#(&#names,)*);))
    }

    /// The generics of `name_key`: those that its arguments can name.
    fn generics(&self, all: bool) -> (Generics, TokenStream) {
        let mut generics = self.function.sig.generics.clone();
        let bounds = if all { generics.where_clause.take() } else { None };
        generics.where_clause = None;
        (generics, bounds.to_token_stream())
    }
}

/// What the body's function returns.
fn uncached_output(written: &ReturnType, value: &Type, error: &Type) -> ReturnType {
    let arrow = match written {
        ReturnType::Type(arrow, _) => *arrow,
        ReturnType::Default => Default::default(),
    };
    let result: Type = parse_quote!(::core::result::Result<#value, #error>);
    ReturnType::Type(arrow, Box::new(result))
}
