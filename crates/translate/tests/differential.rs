//! The translator beside the host's processor: a block per instruction, whole
//! blocks one at a time, and blocks that go on to one another.

#![allow(missing_docs, reason = "a test")]

use translate::{Options, Translator};

/// Enough for the sequences, and dropped often.
const SMALL: usize = 4 << 20;

mod one_instruction_a_block {
    use super::{Options, SMALL, Translator};
    differential::suite!(
        Translator::with(Options { code_cache: SMALL, max_block: 1, ..Options::default() }),
        1
    );
}

mod unchained {
    use super::{Options, SMALL, Translator};
    differential::suite!(
        Translator::with(Options { code_cache: SMALL, chain: false, ..Options::default() }),
        2
    );
}

mod chained {
    use super::Translator;
    differential::suite!(Translator::default(), 3);
}
