//! Guests that mean harm, on the translator, with the least room for code.

#![allow(missing_docs, reason = "a test")]

use translate::{Options, Translator};

hostile::suite!(Translator::with(Options { code_cache: 1 << 20, ..Options::default() }));
