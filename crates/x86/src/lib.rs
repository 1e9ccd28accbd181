//! Ringmaster: x86.
