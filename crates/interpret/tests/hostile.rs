//! Guests that mean harm, on the interpreter.

#![allow(missing_docs, reason = "a test")]

hostile::suite!(interpret::Interpreter);
