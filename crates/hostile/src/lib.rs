//! Guests that mean harm: random code in every mode, and guests that go for a
//! particular weakness. None may make the process panic, hang or grow,
//! whichever engine runs them.
//!
//! An engine's test file is [`suite!`] with that engine; the fuzz targets feed
//! [`decode_everywhere`] and [`run_bytes`].

// What is expected here is expected with a panic.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

mod board;
mod devices;
mod dice;
mod endings;
mod growth;
mod harness;
mod noise;
mod program;
mod tables;
mod world;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use engine::Engine;

pub use harness::{decode_everywhere, run_bytes};

/// Tests that measure the process want it for themselves.
static PROCESS: RwLock<()> = RwLock::new(());

/// The process, shared with other tests.
fn shared() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

/// The process, without other tests.
fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

/// A guest that means harm: it panics where something is wrong.
pub type Test = fn(&dyn Engine);

macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        /// All of them, by name.
        pub const TESTS: &[(&str, Test)] = &[$((stringify!($name), $module::$name),)*];
    };
}

tests! {
    devices::every_port_in_every_size,
    devices::every_msr_with_random_values,
    endings::a_triple_fault_ends_every_mode,
    endings::a_halt_with_interrupts_off_is_told_and_can_be_stopped,
    endings::endless_loops_obey,
    endings::endless_string_instructions_obey,
    endings::alignment_checks_without_end_can_be_stopped,
    endings::debug_exceptions_without_end_can_be_stopped,
    growth::code_that_rewrites_itself_stays_right_and_small,
    growth::overlapping_blocks_do_not_pile_up,
    growth::code_from_devices_runs_and_stays_small,
    growth::calls_into_the_middle_of_code_do_not_pile_up,
    growth::code_beyond_every_cache_stays_right,
    harness::the_fuzz_targets_stand_random_input,
    noise::states_full_of_nonsense,
    noise::random_code_in_real_mode,
    noise::random_code_in_16_bit_protected_mode,
    noise::random_code_in_32_bit_protected_mode,
    noise::random_code_in_virtual_8086_mode,
    noise::random_code_in_compatibility_mode,
    noise::random_code_in_64_bit_mode,
    tables::page_tables_anywhere,
    tables::descriptor_tables_anywhere,
    tables::task_gates_that_lead_in_circles,
    tables::tasks_that_switch_for_ever_can_be_stopped,
    tables::stacks_at_the_ends,
    tables::instructions_at_the_ends_of_pages,
}

/// Runs the test with this name.
///
/// # Panics
/// If there is none, or it fails.
pub fn run(name: &str, engine: &dyn Engine) {
    let (_, test) = TESTS.iter().find(|(known, _)| *known == name).expect("a test of this suite");
    test(engine);
}

/// Every test of [`TESTS`], under its name, on an engine.
#[macro_export]
macro_rules! suite {
    ($engine:expr) => {
        $crate::suite!(@ $engine;
            every_port_in_every_size
            every_msr_with_random_values
            a_triple_fault_ends_every_mode
            a_halt_with_interrupts_off_is_told_and_can_be_stopped
            endless_loops_obey
            endless_string_instructions_obey
            alignment_checks_without_end_can_be_stopped
            debug_exceptions_without_end_can_be_stopped
            code_that_rewrites_itself_stays_right_and_small
            overlapping_blocks_do_not_pile_up
            code_from_devices_runs_and_stays_small
            calls_into_the_middle_of_code_do_not_pile_up
            code_beyond_every_cache_stays_right
            the_fuzz_targets_stand_random_input
            states_full_of_nonsense
            random_code_in_real_mode
            random_code_in_16_bit_protected_mode
            random_code_in_32_bit_protected_mode
            random_code_in_virtual_8086_mode
            random_code_in_compatibility_mode
            random_code_in_64_bit_mode
            page_tables_anywhere
            descriptor_tables_anywhere
            task_gates_that_lead_in_circles
            tasks_that_switch_for_ever_can_be_stopped
            stacks_at_the_ends
            instructions_at_the_ends_of_pages
        );

        #[test]
        fn no_guest_is_left_out() {
            assert_eq!(COUNT, $crate::TESTS.len());
        }
    };
    (@ $engine:expr; $($name:ident)*) => {
        const COUNT: usize = [$(stringify!($name)),*].len();
        $(
            #[test]
            fn $name() {
                $crate::run(stringify!($name), &$engine);
            }
        )*
    };
}
