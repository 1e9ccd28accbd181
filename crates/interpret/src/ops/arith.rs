//! Arithmetic on the host with the flags that come out of it.

use std::arch::asm;

use x86::Rflags;

use crate::access::Value;

/// A result and RFLAGS behind it; only arithmetic flags count.
pub(crate) type Flagged<T> = (T, Rflags);

/// Integers that the host can compute with, flags included.
pub(crate) trait Arith: Value {
    fn add(a: Self, b: Self) -> Flagged<Self>;
    fn sub(a: Self, b: Self) -> Flagged<Self>;
    fn and(a: Self, b: Self) -> Flagged<Self>;
    fn or(a: Self, b: Self) -> Flagged<Self>;
    fn xor(a: Self, b: Self) -> Flagged<Self>;
    fn adc(a: Self, b: Self, carry: bool) -> Flagged<Self>;
    fn sbb(a: Self, b: Self, carry: bool) -> Flagged<Self>;
    fn inc(a: Self) -> Flagged<Self>;
    fn dec(a: Self) -> Flagged<Self>;
    fn neg(a: Self) -> Flagged<Self>;
    /// `count` is masked already and not zero.
    fn shl(a: Self, count: u8) -> Flagged<Self>;
    fn shr(a: Self, count: u8) -> Flagged<Self>;
    fn sar(a: Self, count: u8) -> Flagged<Self>;
    fn not(a: Self) -> Self;
}

macro_rules! binary {
    ($name:ident, $ty:ty, $class:ident, $code:literal) => {
        #[inline(always)]
        fn $name(mut a: $ty, b: $ty) -> Flagged<$ty> {
            let flags: u64;
            // SAFETY: registers and a balanced push only.
            unsafe {
                asm!($code, "pushfq", "pop {f}", a = inout($class) a, b = in($class) b, f = lateout(reg) flags);
            }
            (a, Rflags::from_bits_retain(flags))
        }
    };
}

macro_rules! carrying {
    ($name:ident, $ty:ty, $class:ident, $code:literal) => {
        #[inline(always)]
        fn $name(mut a: $ty, b: $ty, carry: bool) -> Flagged<$ty> {
            let flags: u64;
            // SAFETY: registers and a balanced push only. Adding 255 to the
            // carry sets CF from it.
            unsafe {
                asm!(
                    "add {c}, 255", $code, "pushfq", "pop {f}",
                    a = inout($class) a, b = in($class) b, c = inout(reg_byte) u8::from(carry) => _,
                    f = lateout(reg) flags,
                );
            }
            (a, Rflags::from_bits_retain(flags))
        }
    };
}

macro_rules! unary {
    ($name:ident, $ty:ty, $class:ident, $code:literal) => {
        #[inline(always)]
        fn $name(mut a: $ty) -> Flagged<$ty> {
            let flags: u64;
            // SAFETY: registers and a balanced push only.
            unsafe {
                asm!($code, "pushfq", "pop {f}", a = inout($class) a, f = lateout(reg) flags);
            }
            (a, Rflags::from_bits_retain(flags))
        }
    };
}

macro_rules! shift {
    ($name:ident, $ty:ty, $class:ident, $code:literal) => {
        #[inline(always)]
        fn $name(mut a: $ty, count: u8) -> Flagged<$ty> {
            let flags: u64;
            // SAFETY: registers and a balanced push only.
            unsafe {
                asm!($code, "pushfq", "pop {f}", a = inout($class) a, in("cl") count, f = lateout(reg) flags);
            }
            (a, Rflags::from_bits_retain(flags))
        }
    };
}

macro_rules! arith {
    ($ty:ty, $class:ident, $add:literal, $sub:literal, $and:literal, $or:literal, $xor:literal, $adc:literal,
     $sbb:literal, $inc:literal, $dec:literal, $neg:literal, $shl:literal, $shr:literal, $sar:literal) => {
        impl Arith for $ty {
            binary!(add, $ty, $class, $add);
            binary!(sub, $ty, $class, $sub);
            binary!(and, $ty, $class, $and);
            binary!(or, $ty, $class, $or);
            binary!(xor, $ty, $class, $xor);
            carrying!(adc, $ty, $class, $adc);
            carrying!(sbb, $ty, $class, $sbb);
            unary!(inc, $ty, $class, $inc);
            unary!(dec, $ty, $class, $dec);
            unary!(neg, $ty, $class, $neg);
            shift!(shl, $ty, $class, $shl);
            shift!(shr, $ty, $class, $shr);
            shift!(sar, $ty, $class, $sar);
            #[inline(always)]
            fn not(a: Self) -> Self {
                !a
            }
        }
    };
}

arith!(
    u8,
    reg_byte,
    "add {a}, {b}",
    "sub {a}, {b}",
    "and {a}, {b}",
    "or {a}, {b}",
    "xor {a}, {b}",
    "adc {a}, {b}",
    "sbb {a}, {b}",
    "inc {a}",
    "dec {a}",
    "neg {a}",
    "shl {a}, cl",
    "shr {a}, cl",
    "sar {a}, cl"
);
arith!(
    u16,
    reg,
    "add {a:x}, {b:x}",
    "sub {a:x}, {b:x}",
    "and {a:x}, {b:x}",
    "or {a:x}, {b:x}",
    "xor {a:x}, {b:x}",
    "adc {a:x}, {b:x}",
    "sbb {a:x}, {b:x}",
    "inc {a:x}",
    "dec {a:x}",
    "neg {a:x}",
    "shl {a:x}, cl",
    "shr {a:x}, cl",
    "sar {a:x}, cl"
);
arith!(
    u32,
    reg,
    "add {a:e}, {b:e}",
    "sub {a:e}, {b:e}",
    "and {a:e}, {b:e}",
    "or {a:e}, {b:e}",
    "xor {a:e}, {b:e}",
    "adc {a:e}, {b:e}",
    "sbb {a:e}, {b:e}",
    "inc {a:e}",
    "dec {a:e}",
    "neg {a:e}",
    "shl {a:e}, cl",
    "shr {a:e}, cl",
    "sar {a:e}, cl"
);
arith!(
    u64,
    reg,
    "add {a}, {b}",
    "sub {a}, {b}",
    "and {a}, {b}",
    "or {a}, {b}",
    "xor {a}, {b}",
    "adc {a}, {b}",
    "sbb {a}, {b}",
    "inc {a}",
    "dec {a}",
    "neg {a}",
    "shl {a}, cl",
    "shr {a}, cl",
    "sar {a}, cl"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_with_results() {
        let (sum, flags) = u8::add(0xff, 1);
        assert_eq!(sum, 0);
        assert!(flags.contains(Rflags::CF | Rflags::ZF | Rflags::AF | Rflags::PF));
        let (difference, flags) = u32::sub(0, 1);
        assert_eq!(difference, u32::MAX);
        assert!(flags.contains(Rflags::CF | Rflags::SF));
        assert_eq!(u64::adc(1, 2, true).0, 4);
        assert_eq!(u16::sbb(5, 2, true).0, 2);
        assert!(u64::shl(1 << 63, 1).1.contains(Rflags::CF | Rflags::ZF));
    }
}
