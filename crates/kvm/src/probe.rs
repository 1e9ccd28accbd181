//! probe
pub const MIN_MIPS:f64=1.0; pub struct Speed;
