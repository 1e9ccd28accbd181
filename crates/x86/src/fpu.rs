//! x87, MMX, SSE, AVX and AVX-512 register state.

use serde::{Deserialize, Serialize};

/// The x87 state in the first 160 bytes of an FXSAVE image (SDM 1 table
/// 10-2), in the 64-bit format with full instruction and data pointers.
///
/// The bytes behind it stand in for the rest of the image, so that FXSAVE and
/// FXRSTOR can work on the state in place; they hold nothing.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct X87State {
    /// Control word.
    pub fcw: u16,
    /// Status word, with the top-of-stack pointer.
    pub fsw: u16,
    /// Abridged tag word: a set bit means a valid register.
    pub ftw: u8,
    reserved: u8,
    /// Last opcode.
    pub fop: u16,
    /// Last instruction pointer.
    pub fip: u64,
    /// Last operand pointer.
    pub fdp: u64,
    scratch_mxcsr: u32,
    scratch_mask: u32,
    /// ST(0) to ST(7), 80 bits each in 16 bytes.
    pub st: [[u8; 16]; 8],
    scratch: [[u8; 16]; 22],
}

impl X87State {
    /// The state after FNINIT (SDM 1 8.1.5).
    pub const INIT: Self = Self {
        fcw: 0x37f,
        fsw: 0,
        ftw: 0,
        reserved: 0,
        fop: 0,
        fip: 0,
        fdp: 0,
        scratch_mxcsr: 0x1f80,
        scratch_mask: 0xffff,
        st: [[0; 16]; 8],
        scratch: [[0; 16]; 22],
    };

    /// The state after a processor reset (SDM 3A table 10-1).
    pub const RESET: Self = Self { fcw: 0x40, ftw: 0xff, ..Self::INIT };

    /// The defined fields, for comparison and serialization.
    fn fields(&self) -> X87Fields {
        let st = self.st.map(|reg| {
            let mut bytes = [0; 10];
            bytes.copy_from_slice(&reg[..10]);
            bytes
        });
        X87Fields {
            fcw: self.fcw,
            fsw: self.fsw,
            ftw: self.ftw,
            fop: self.fop,
            fip: self.fip,
            fdp: self.fdp,
            st,
        }
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
struct X87Fields {
    fcw: u16,
    fsw: u16,
    ftw: u8,
    fop: u16,
    fip: u64,
    fdp: u64,
    st: [[u8; 10]; 8],
}

impl PartialEq for X87State {
    fn eq(&self, other: &Self) -> bool {
        self.fields() == other.fields()
    }
}

impl Serialize for X87State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for X87State {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = X87Fields::deserialize(deserializer)?;
        let st = fields.st.map(|reg| {
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&reg);
            bytes
        });
        let X87Fields { fcw, fsw, ftw, fop, fip, fdp, .. } = fields;
        Ok(Self { fcw, fsw, ftw, fop, fip, fdp, st, ..Self::INIT })
    }
}

/// One vector register: XMM in the low 16 bytes, YMM in the low 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct ZmmReg(pub [u8; 64]);

impl ZmmReg {
    /// All bits clear.
    pub const ZERO: Self = Self([0; 64]);
}

impl Serialize for ZmmReg {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ZmmReg {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let array = bytes.try_into().map_err(|bytes: Vec<u8>| {
            serde::de::Error::invalid_length(bytes.len(), &"64 bytes of a vector register")
        })?;
        Ok(Self(array))
    }
}

/// All floating-point and vector state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[repr(C, align(64))]
pub struct FpuState {
    /// x87 and MMX.
    pub x87: X87State,
    /// ZMM0 to ZMM31.
    pub zmm: [ZmmReg; 32],
    /// Opmask registers k0 to k7.
    pub k: [u64; 8],
    /// SSE control and status.
    pub mxcsr: u32,
    /// Protection-key rights.
    pub pkru: u32,
}

impl FpuState {
    /// The state after a processor reset.
    pub const RESET: Self =
        Self { x87: X87State::RESET, zmm: [ZmmReg::ZERO; 32], k: [0; 8], mxcsr: 0x1f80, pkru: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_x87_state_has_the_layout_of_fxsave() {
        assert_eq!(size_of::<X87State>(), 512);
        assert_eq!(std::mem::offset_of!(X87State, fip), 8);
        assert_eq!(std::mem::offset_of!(X87State, scratch_mxcsr), 24);
        assert_eq!(std::mem::offset_of!(X87State, st), 32);
    }

    #[test]
    fn scratch_bytes_do_not_count() {
        let mut other = X87State::INIT;
        other.scratch[3][4] = 7;
        other.st[0][12] = 9;
        assert_eq!(other, X87State::INIT);
        other.st[0][9] = 1;
        assert_ne!(other, X87State::INIT);
    }
}
