//! Ringmaster: machine.
