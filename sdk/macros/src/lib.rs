//! The `#[formatter]` attribute of `wirefall-sdk`.
//!
//! Owns the code that joins an impl of `Formatter` to the component's exports. Keeps the impl as it
//! is; natively it adds nothing.

use proc_macro::TokenStream;
use quote::quote;
use syn::{ItemImpl, parse_macro_input};

/// Exports a `Formatter` as the plugin of this crate: put it on the impl, once a crate.
#[proc_macro_attribute]
pub fn formatter(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let formatter = parse_macro_input!(item as ItemImpl);
    match export(arguments, &formatter) {
        Ok(export) => quote!(#formatter #export).into(),
        Err(error) => {
            let error = error.to_compile_error();
            quote!(#formatter #error).into()
        }
    }
}

fn export(arguments: TokenStream, formatter: &ItemImpl) -> syn::Result<proc_macro2::TokenStream> {
    let wrong = |message| Err(syn::Error::new_spanned(&formatter.self_ty, message));
    if !arguments.is_empty() {
        return wrong(
            "#[formatter] takes no arguments; ABOUT and COLUMNS are constants of the trait",
        );
    }
    if formatter.trait_.is_none() {
        return wrong("#[formatter] goes on `impl Formatter for …`");
    }
    if !formatter.generics.params.is_empty() {
        return wrong(
            "a plugin exports one concrete type: #[formatter] cannot go on a generic impl",
        );
    }
    let plugin = &formatter.self_ty;
    Ok(quote! {
        #[cfg(target_family = "wasm")]
        const _: () = {
            use ::wirefall_sdk::__private::{self as sdk, bindings};
            use bindings::exports::wirefall::plugin::formatter as wit;

            ::std::thread_local! {
                static PLUGIN: ::std::cell::RefCell<::std::option::Option<#plugin>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }

            struct Exports;

            impl wit::Guest for Exports {
                fn describe() -> wit::Description {
                    sdk::describe::<#plugin>(
                        ::std::env!("CARGO_PKG_NAME"),
                        ::std::env!("CARGO_PKG_VERSION"),
                        ::std::env!("CARGO_PKG_DESCRIPTION"),
                    )
                }

                fn configure(
                    config: ::std::string::String,
                ) -> ::std::result::Result<(), ::std::string::String> {
                    PLUGIN.with(|plugin| sdk::configure(plugin, &config))
                }

                fn format(batch: wit::Batch) -> wit::Outputs {
                    PLUGIN.with(|plugin| sdk::format(plugin, &batch))
                }
            }

            bindings::export!(Exports with_types_in bindings);
        };
    })
}
