//! The boundary as generated from `wit/v0_1`; wasm only.

#![allow(missing_docs, unreachable_pub, clippy::all, unsafe_op_in_unsafe_fn)]

wit_bindgen::generate!({
    path: "wit/v0_1",
    world: "plugin",
    pub_export_macro: true,
    default_bindings_module: "wirefall_sdk::__private::bindings",
});
