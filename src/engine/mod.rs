//! The engine decides what is launched, when and where, and sees it through to history. `api` is what the HTTP side sees of it.

pub mod api;
