//! The interpreter beside the host's processor.

#![allow(missing_docs, reason = "a test")]

use interpret::Interpreter;

differential::suite!(Interpreter, 0);
